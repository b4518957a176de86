"""The training itself, through transformers' Trainer.  Suffixes of tensors: b windows, s positions, v vocabulary."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from neuromeld.errors import NumericsError
from neuromeld.progress import Advance
from neuromeld.recover.settings import Job, Recovery

LOG_POINTS = 50
"""Points of the loss curve, at least, and at most one every `LONGEST_LOG` steps."""
LONGEST_LOG = 100
LOGS_PER_CHECKPOINT = 5

SCHEDULES = {"constant": "constant_with_warmup"}
"""Where transformers has another name."""


def train(
    model: nn.Module, teacher: PreTrainedModel | None, windows_bs: Tensor, job: Job, advance: Advance
) -> list[dict[str, float]]:
    """Train `model` in place and return the loss curve: means over the steps up to each `step`.

    Raises `NumericsError` at the first loss that is not finite.
    """
    settings = job.settings
    every = max(1, min(settings.steps // LOG_POINTS, LONGEST_LOG))
    arguments = TrainingArguments(
        output_dir=str(job.work),
        max_steps=settings.steps,
        num_train_epochs=1,
        per_device_train_batch_size=settings.batch_windows,
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
        save_strategy="steps",
        save_steps=every * LOGS_PER_CHECKPOINT,
        save_total_limit=2,  # one may be half-written when the process is killed
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # else Trainer spreads the batch over every card it sees
    trainer = _RecoveryTrainer(
        model,
        arguments,
        train_dataset=_Windows(windows_bs, settings.steps * settings.batch_windows, settings.seed),
        callbacks=[_Progress(advance)],
    )
    trainer.remove_callback(PrinterCallback)  # it writes to stdout
    trainer.teacher, trainer.settings = teacher, settings
    trainer.train(resume_from_checkpoint=str(job.resume_from) if job.resume_from else None)
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # takes autocast out of the forward pass
    return [{"step": e["step"], "loss": e["loss"]} for e in trainer.state.log_history if "loss" in e]


def causal_loss(logits_bsv: Tensor, ids_bs: Tensor) -> Tensor:
    """Cross-entropy of every token given those before it, in nats, mean over predicted tokens."""
    return F.cross_entropy(logits_bsv[:, :-1].flatten(0, 1).float(), ids_bs[:, 1:].flatten())


def distillation_loss(logits_bsv: Tensor, expected_bsv: Tensor, temperature: float) -> Tensor:
    """T^2 KL(expected || found) of the softened predictions, mean over the same tokens (arXiv:1503.02531)."""
    found, expected = (
        F.log_softmax(logits[:, :-1].flatten(0, 1).float() / temperature, dim=-1)
        for logits in (logits_bsv, expected_bsv)
    )
    return temperature**2 * F.kl_div(found, expected, log_target=True, reduction="batchmean")


class _RecoveryTrainer(Trainer):
    teacher: PreTrainedModel | None
    settings: Recovery

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        ids_bs, settings = inputs["input_ids"], self.settings
        logits_bsv = model(input_ids=ids_bs, use_cache=False).logits
        loss = causal_loss(logits_bsv, ids_bs)
        if self.teacher is not None:
            with torch.no_grad():
                expected_bsv = self.teacher(input_ids=ids_bs, use_cache=False).logits
            distance = distillation_loss(logits_bsv, expected_bsv, settings.temperature)
            loss = (1 - settings.distill_weight) * loss + settings.distill_weight * distance
        if not torch.isfinite(loss):
            raise NumericsError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1} of {settings.steps}; nothing was "
                f"written. Lower --learning-rate (now {settings.learning_rate:g}), raise --warmup (now "
                f"{settings.warmup}), train fewer parameters (--lora), and prefer bfloat16 to float16 for the model. "
                "Then pass --force, to discard the checkpoints of this run"
            )
        return loss


class _Windows(Dataset[dict[str, Tensor]]):
    """`num` windows, drawn without replacement until all were seen, and again in another order."""

    def __init__(self, windows_bs: Tensor, num: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        rounds = -(-num // len(windows_bs))
        self.order = torch.cat([torch.randperm(len(windows_bs), generator=draw) for _ in range(rounds)])[:num]
        self.windows_bs = windows_bs

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.windows_bs[self.order[index]]}


class _Progress(TrainerCallback):
    def __init__(self, advance: Advance) -> None:
        self.advance = advance

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.advance(state.global_step)
