"""The training itself, through transformers' Trainer.  Suffixes of tensors: n predictions, v what is told apart."""

from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_polynomial_decay_schedule_with_warmup,
)
from transformers.trainer_callback import PrinterCallback

from neuromeld.errors import NumericsError
from neuromeld.modalities import TrainingSet
from neuromeld.model.capture import Batch
from neuromeld.model.predictions import kl, nll, predictions, sum_in_chunks
from neuromeld.recovery.resume import write_checksums
from neuromeld.recovery.settings import Job, Recovery
from neuromeld.runtime.progress import Advance

LOG_POINTS = 50
"""Points of the loss curve, at least, and at most one every `LONGEST_LOG` steps."""
LONGEST_LOG = 100
LOGS_PER_CHECKPOINT = 5

SCHEDULES = {"constant": "constant_with_warmup"}
"""Where transformers has another name."""


def train(
    model: nn.Module, teacher: PreTrainedModel | None, pool: TrainingSet, job: Job, advance: Advance
) -> list[dict[str, float]]:
    """Train `model` in place and return the loss curve: means over the steps up to each `step`.

    Raises `NumericsError` at the first loss that is not finite.
    """
    settings, config = job.settings, cast(Any, model.config)
    assert settings.steps is not None
    size = settings.batch_examples(pool)
    every = max(1, min(settings.steps // LOG_POINTS, LONGEST_LOG))
    arguments = TrainingArguments(
        output_dir=str(job.work or gettempdir()),
        max_steps=settings.steps,
        num_train_epochs=1,
        per_device_train_batch_size=size // settings.accumulate,
        gradient_accumulation_steps=settings.accumulate,
        train_sampling_strategy="sequential",
        learning_rate=settings.learning_rate,
        lr_scheduler_type=SCHEDULES.get(settings.schedule, settings.schedule),
        warmup_steps=settings.warmup,
        max_grad_norm=settings.clip,
        seed=settings.seed,
        bf16=job.bf16,
        use_cpu=job.device.type == "cpu",
        dataloader_pin_memory=job.device.type != "cpu",
        logging_steps=every,
        logging_nan_inf_filter=False,
        save_strategy="steps" if job.work else "no",
        save_steps=every * LOGS_PER_CHECKPOINT,
        save_total_limit=2,  # one may be half-written when the process is killed
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # else Trainer spreads the batch over every card it sees
    use_cache = getattr(config, "use_cache", None)
    trainer = _RecoveryTrainer(
        model,
        arguments,
        data_collator=lambda numbers: dict(pool.batch_of(numbers)),
        train_dataset=_Draws(pool.num_examples, settings.steps * size, settings.seed),
        callbacks=[_Progress(advance), _Checksums()],
    )
    if use_cache is None:
        del config.use_cache  # Trainer turns it off, also where the model has none
    else:
        config.use_cache = use_cache
    trainer.remove_callback(PrinterCallback)  # it writes to stdout
    trainer.teacher, trainer.settings = teacher, settings
    trainer.train(resume_from_checkpoint=str(job.resume_from) if job.resume_from else None)
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # takes autocast out of the forward pass
    return [{"step": e["step"], "loss": e["loss"]} for e in trainer.state.log_history if "loss" in e]


def distillation_loss(settings: Recovery, logits_nv: Tensor, expected_nv: Tensor, targets_n: Tensor) -> Tensor:
    """Return `(1 - w) cross-entropy + w T^2 KL(expected || found)`, softened by T, of each row (arXiv:1503.02531)."""
    share, temperature = settings.distill_weight, settings.temperature
    return (1 - share) * nll(logits_nv, targets_n) + share * temperature**2 * kl(
        logits_nv, expected_nv, temperature=temperature
    )


def loss_of(model: nn.Module, teacher: PreTrainedModel | None, batch: Batch, settings: Recovery) -> Tensor:
    """Return the mean loss of a batch; with a teacher, that of distillation."""
    found = predictions(model, batch)
    if teacher is None:
        return sum_in_chunks(nll, found) / len(found)
    with torch.no_grad():
        expected = predictions(teacher, batch)
    return sum_in_chunks(partial(distillation_loss, settings), found, expected) / len(found)


class _RecoveryTrainer(Trainer):
    teacher: PreTrainedModel | None
    settings: Recovery

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        settings = self.settings
        if settings.schedule != "linear":
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = get_polynomial_decay_schedule_with_warmup(
            optimizer or self.optimizer,
            settings.warmup,
            settings.decay_steps or num_training_steps,
            lr_end=settings.final_learning_rate,
            power=1.0,
        )
        return self.lr_scheduler

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        settings = self.settings
        loss = loss_of(model, self.teacher, inputs, settings)
        if not torch.isfinite(loss):
            raise NumericsError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1} of {settings.steps}; nothing was "
                f"written. Lower --learning-rate (now {settings.learning_rate:g}), raise --warmup (now "
                f"{settings.warmup}), {'' if settings.lora_rank else 'train fewer parameters (--lora), '}and prefer "
                "bfloat16 to float16 for the model; the checkpoints of this run were discarded"
            )
        return loss


class _Draws(Dataset[int]):
    """`num` numbers of examples, drawn without replacement until all were seen, and again in another order."""

    def __init__(self, num_examples: int, num: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        rounds = -(-num // num_examples)
        self.order = torch.cat([torch.randperm(num_examples, generator=draw) for _ in range(rounds)])[:num]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> int:
        return int(self.order[index])


class _Checksums(TrainerCallback):
    """Says of a checkpoint, once it is whole, what is in it."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        write_checksums(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class _Progress(TrainerCallback):
    def __init__(self, advance: Advance) -> None:
        self.advance = advance

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.advance(state.global_step)
