"""Train a model in place and leave it as it came: its dtype, mode, config and forward pass."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from neuromeld.errors import UserInputError
from neuromeld.evaluation import unique_parameters
from neuromeld.modalities import TrainingSet
from neuromeld.recovery.four_bit import matrix_bytes
from neuromeld.recovery.lora import low_rank_updates
from neuromeld.recovery.settings import Job
from neuromeld.runtime.progress import track


@dataclass(frozen=True)
class Tuning:
    """`loss_curve` has the mean training loss over the steps up to each `step`.

    `matrix_bytes` is what the base's matrices took in 4 bits (`held`), and take in their `own_dtype`.
    """

    loss_curve: list[dict[str, float]]
    parameters_trained: int
    matrix_bytes: dict[str, int] | None


def tune(
    model: PreTrainedModel, teacher: PreTrainedModel | None, pool: TrainingSet, job: Job, *, progress: bool
) -> Tuning:
    """Train `model` in place.

    Half-precision weights are trained in float32 and rounded at the end; under low-rank updates they stay as they are,
    or are held in 4 bits, until the merge.  Raises `NumericsError` at a loss that is not finite, `UserInputError` when
    memory runs out.
    """
    dtype, settings = model.dtype, job.settings
    parameters = unique_parameters(model)
    torch.manual_seed(settings.seed)
    try:
        if settings.lora_rank is not None:
            with low_rank_updates(model, settings.lora_rank, job.base) as tuned:
                result = _train(tuned, teacher, pool, job, progress=progress)
        else:
            _cast(model, torch.promote_types(dtype, torch.float32))
            result = _train(model, teacher, pool, job, progress=progress)
            _cast(model, dtype)
    except torch.OutOfMemoryError as error:
        raise UserInputError(
            f"{job.device} has too little memory for an update of {settings.batch_examples(pool)} examples; take them "
            f"in more parts (--accumulate, now {settings.accumulate})"
            + ("" if job.base else ", or pass --qlora" if settings.lora_rank else ", or pass --lora or --qlora")
        ) from error
    model.eval()
    assert unique_parameters(model) == parameters, "training changed the number of parameters"
    return result


def _train(model: nn.Module, teacher: PreTrainedModel | None, pool: TrainingSet, job: Job, *, progress: bool) -> Tuning:
    from neuromeld.recovery.trainer import train  # transformers' Trainer takes seconds to import

    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    what = "recovery tuning" + (f", resumed from {job.resume_from.name}" if job.resume_from else "")
    with track(what, job.settings.steps, enabled=progress) as advance:
        curve = train(model, teacher, pool, job, advance)
    return Tuning(curve, trained, matrix_bytes(model) if job.base else None)


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Weights only: rotary frequencies stay in float32, as in a model that was loaded so."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
