"""The order of steps: data, model, training, then save, load again and compare."""

import os
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from neuromeld.checkpoint import check_free, new_folder
from neuromeld.checkpoint.folder import check_space
from neuromeld.checkpoint.source import ModelSource, locate
from neuromeld.errors import UserInputError
from neuromeld.evaluation import unique_parameters
from neuromeld.modalities import MODALITIES, Modality, inputs_of, with_own_text
from neuromeld.model.passes import multiplies_bfloat16
from neuromeld.planning.plan import check_plain
from neuromeld.recovery.four_bit import FourBit, check_bitsandbytes
from neuromeld.recovery.held_out import held_out_loss
from neuromeld.recovery.lora import check_peft
from neuromeld.recovery.resume import work_in
from neuromeld.recovery.settings import Job, Recovery
from neuromeld.recovery.tune import Tuning, tune
from neuromeld.recovery.write import write_recovered
from neuromeld.report import checked_record
from neuromeld.runtime.workspace import work_folder
from neuromeld.version import __version__

BYTES_PER_PARAMETER = 3 * (4 + 8)
"""On disk while training: three checkpoints at once, each with the weights and AdamW's two moments in float32."""


@dataclass(frozen=True)
class RecoverResult:
    """The result of `recover`: the folder it wrote, and the content of its `record.json`."""

    out: Path
    record: dict[str, Any]


def recover(
    source: str,
    settings: Recovery,
    out: str | Path,
    *,
    force: bool = False,
    device: str = "cpu",
    allow_pickle: bool = False,
    progress: bool = False,
) -> RecoverResult:
    """Train the checkpoint at `source` by `settings` and write it to the folder `out`, in the same shapes and ties.

    source   what `compress` wrote, or any other model that `locate` finds
    device   cpu or cuda; of several cards the first that CUDA_VISIBLE_DEVICES names

    An interrupted call, made again, goes on from its last checkpoint, in a hidden folder beside `out`; with other
    settings, data or model it is refused, unless `force` discards what was done.  Raises a `NeuromeldError` for
    everything that can be wrong with the arguments, the model, the loss or the disk.
    """
    started, out = time.monotonic(), Path(out)
    _check(settings, out, source, force=force)
    where = _device(device)
    bf16 = multiplies_bfloat16(where) if settings.bf16 is None else settings.bf16
    located = _located(source, allow_pickle=allow_pickle)
    config = located.config()
    inputs = inputs_of(config)
    kind, reader = "text" if inputs == "tokens" else inputs, MODALITIES[inputs]
    processor = reader.processor(located.folder)
    original = _original(settings, located, reader)
    reader = with_own_text(reader, original or located, device, progress=progress)
    pool = reader.training(settings.data, processor, config)
    batch_examples = settings.batch_examples(pool)
    measure = held_out_loss(reader, settings.data, processor, config, progress=progress)
    model = located.load(None, device)
    before = measure(model)
    sha256 = located.fingerprint()
    facts = {"source_sha256": sha256, f"{kind}_sha256": pool.sha256, "bf16": bf16}
    facts |= {"original_sha256": original.fingerprint()} if original else {}
    work = work_folder(out)
    with work_in(work, settings.stated() | facts, force=force) as resume_from:
        if settings.lora_rank is None:
            check_space(work, BYTES_PER_PARAMETER * unique_parameters(model))
        teacher = original.load(torch.bfloat16 if bf16 else None, device) if original else None
        compute = torch.bfloat16 if bf16 else torch.float32
        base = FourBit(located, sha256, compute) if settings.base_bits else None
        tuning = tune(model, teacher, pool, Job(settings, bf16, where, work, resume_from, base), progress=progress)
        del teacher
        after = measure(model)
        recovery = facts | {
            "device": where.type,
            "data": {"kind": kind, "source": pool.source, "split": "calibration", "tokens": pool.num_tokens},
            "tokens_seen": settings.steps * batch_examples * pool.num_tokens // pool.num_examples,
            "held_out": {"loss_before": before.nll, "loss_after": after.nll, "protocol": after.protocol},
            "resumed_from": resume_from.name if resume_from else None,
            "seconds": time.monotonic() - started,
            **_trained(settings, tuning),
        }
        with new_folder(out, force=force, beside=work) as folder:
            record = write_recovered(folder, model, processor, located.folder, recovery, pool.check_batch)
    return RecoverResult(out, record)


def _located(source: str, *, allow_pickle: bool) -> ModelSource:
    """Locate the model; its record, which the result's is made of after the training, is checked now."""
    located = locate(source, allow_pickle=allow_pickle)
    if (located.folder / "record.json").is_file():
        checked_record(located.folder)
    return located


def _check(settings: Recovery, out: Path, source: str, *, force: bool) -> None:
    """Raise for an output that cannot be written, and for packages that are missing."""
    for read in (source, settings.distill_from):
        check_free(out, force=force, source=read)
    if settings.lora_rank is not None:
        check_peft()
    if settings.base_bits:
        check_bitsandbytes()


def _trained(settings: Recovery, tuning: Tuning) -> dict[str, Any]:
    """Return what a record says of the training itself."""
    matrix_bytes = {"matrix_bytes": tuning.matrix_bytes} if tuning.matrix_bytes else {}
    return matrix_bytes | {
        "settings": settings.stated(),
        "parameters_trained": tuning.parameters_trained,
        "loss_curve": tuning.loss_curve,
        "versions": _versions(settings),
    }


def _versions(settings: Recovery) -> dict[str, str]:
    packages = ["torch", "transformers", "accelerate"]
    packages += ["peft"] * (settings.lora_rank is not None) + ["bitsandbytes"] * bool(settings.base_bits)
    return {"neuromeld": __version__} | {name: version(name) for name in packages}


def recover_model(
    model: PreTrainedModel, settings: Recovery, processor: Any, *, progress: bool = False
) -> dict[str, Any]:
    """Train a live `model` in place, as `recover` trains a checkpoint, and tell of it as its record does.

    processor   the tokenizer, image processor or feature extractor that the data is read with

    Nothing is written and no checkpoints are kept, so it cannot go on where it was interrupted, and a base in 4 bits,
    which is read again at the end, is a `UserInputError`.
    """
    check_plain(model)
    if settings.base_bits:
        raise UserInputError("a base held in 4 bits is read again from its checkpoint: use recover on a folder")
    if settings.lora_rank is not None:
        check_peft()
    started = time.monotonic()
    pool = MODALITIES[inputs_of(model.config)].training(settings.data, processor, model.config)
    bf16 = multiplies_bfloat16(model.device) if settings.bf16 is None else settings.bf16
    teacher = None
    if settings.distill_from is not None:
        teacher = locate(settings.distill_from).load(torch.bfloat16 if bf16 else None, str(model.device))
    tuning = tune(model, teacher, pool, Job(settings, bf16, model.device), progress=progress)
    return {
        "settings": settings.stated(),
        "bf16": bf16,
        "tokens_seen": settings.steps * settings.batch_examples(pool) * pool.num_tokens // pool.num_examples,
        "parameters_trained": tuning.parameters_trained,
        "loss_curve": tuning.loss_curve,
        "seconds": time.monotonic() - started,
    }


def _device(device: str) -> torch.device:
    """Return the one device that is trained on."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserInputError("recovery tuning runs in one process; start it without torchrun or accelerate launch")
    found = torch.device(device)
    if found.type not in ("cpu", "cuda") or found.index:
        raise UserInputError(
            f"device={device}: recovery tuning runs on cpu or cuda; to choose a card set CUDA_VISIBLE_DEVICES"
        )
    return found


def _original(settings: Recovery, located: ModelSource, reader: Modality) -> ModelSource | None:
    """Return the model to distil from; `UserInputError` if it does not predict the same."""
    if settings.distill_from is None:
        return None
    original = locate(settings.distill_from, allow_pickle=located.allow_pickle)
    (num_original, names_original), (num, names) = (_predicted(source, reader) for source in (original, located))
    if num != num_original or names != names_original:
        raise UserInputError(
            f"{original.name} has another vocabulary, or other classes, than {located.name} ({num_original} and {num} "
            "outputs), so its predictions cannot be followed; distil from the model that was compressed"
        )
    return original


def _predicted(source: ModelSource, reader: Modality) -> tuple[int, Any]:
    """Return how many outputs a model has, and what they stand for: tokens, or classes."""
    config, processor = source.config(), reader.processor(source.folder)
    tokenizer = getattr(processor, "tokenizer", processor)
    if hasattr(tokenizer, "get_vocab"):
        return int(config.get_text_config().vocab_size), tokenizer.get_vocab()
    return len(config.label2id or {}), config.label2id
