"""The order of steps: text, model, training, then save, load again and compare."""

import os
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from neuromeld.checkpoint import check_free
from neuromeld.checkpoint.folder import check_space
from neuromeld.errors import UserInputError
from neuromeld.evaluate import perplexity, unique_parameters
from neuromeld.recover.lora import check_peft
from neuromeld.recover.resume import work_in
from neuromeld.recover.settings import Job, Recovery
from neuromeld.recover.tune import tune
from neuromeld.recover.write import write_recovered
from neuromeld.sources import ModelSource, locate
from neuromeld.text import TokenWindows, check_vocabulary, first_windows, token_windows
from neuromeld.version import __version__
from neuromeld.workspace import work_folder

HELD_OUT_TOKENS = 8192
"""Validation tokens that the loss is measured on before and after, at most."""

BYTES_PER_PARAMETER = 3 * (4 + 8)
"""On disk while training: three checkpoints at once, each with the weights and AdamW's two moments in float32."""


@dataclass(frozen=True)
class RecoverResult:
    """What `recover` wrote to `out`; `record` is the content of its `record.json`."""

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
    settings, text or model it is refused, unless `force` discards what was done.  Raises a `NeuromeldError` for
    everything that can be wrong with the arguments, the model, the loss or the disk.
    """
    started, out = time.monotonic(), Path(out)
    check_free(out, force=force)
    if settings.lora_rank is not None:
        check_peft()
    where = _device(device)
    bf16 = where.type == "cuda" and torch.cuda.is_bf16_supported() if settings.bf16 is None else settings.bf16
    located = locate(source, allow_pickle=allow_pickle)
    tokenizer = located.tokenizer()
    windows, held_out = _text(settings, tokenizer)
    check_vocabulary(windows, located.config().get_text_config().vocab_size)
    original = _original(settings, located, tokenizer)
    model = located.load(None, device)
    before = perplexity(model, held_out, progress=progress)
    facts = {"source_sha256": located.fingerprint(), "text_sha256": windows.sha256, "bf16": bf16}
    facts |= {"original_sha256": original.fingerprint()} if original else {}
    work = work_folder(out)
    with work_in(work, settings.stated() | facts, force=force) as resume_from:
        if settings.lora_rank is None:
            check_space(work, BYTES_PER_PARAMETER * unique_parameters(model))
        teacher = original.load(torch.bfloat16 if bf16 else None, device) if original else None
        tuning = tune(model, teacher, windows, Job(settings, bf16, where, work, resume_from), progress=progress)
        del teacher
        after = perplexity(model, held_out, progress=progress)
        packages = ("torch", "transformers", "accelerate", *(("peft",) if settings.lora_rank else ()))
        recovery = facts | {
            "settings": settings.stated(),
            "device": where.type,
            "text": {"source": windows.source, "split": windows.split, "tokens": windows.num_tokens},
            "tokens_seen": settings.steps * settings.batch_tokens,
            "parameters_trained": tuning.parameters_trained,
            "loss_curve": tuning.loss_curve,
            "held_out": {"loss_before": before.nll, "loss_after": after.nll, "protocol": after.protocol},
            "resumed_from": resume_from.name if resume_from else None,
            "seconds": time.monotonic() - started,
            "versions": {"neuromeld": __version__} | {name: version(name) for name in packages},
        }
        probe = {"input_ids": windows.input_ids[:1, :64]}
        record = write_recovered(model, tokenizer, located.folder, out, recovery, probe, force=force)
    return RecoverResult(out, record)


def _device(device: str) -> torch.device:
    """The one device that is trained on."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserInputError("recovery tuning runs in one process; start it without torchrun or accelerate launch")
    found = torch.device(device)
    if found.type not in ("cpu", "cuda") or found.index:
        raise UserInputError(
            f"device={device}: recovery tuning runs on cpu or cuda; to choose a card set CUDA_VISIBLE_DEVICES"
        )
    return found


def _text(settings: Recovery, tokenizer: PreTrainedTokenizerBase) -> tuple[TokenWindows, TokenWindows]:
    """All of the text to train on, and what the loss is measured on."""
    source, seqlen = settings.train, settings.seqlen
    windows = token_windows(source, tokenizer, split="calibration", num_tokens=None, seqlen=seqlen, seed=settings.seed)
    return windows, first_windows(source, tokenizer, split="validation", most=HELD_OUT_TOKENS, seqlen=seqlen)


def _original(settings: Recovery, located: ModelSource, tokenizer: PreTrainedTokenizerBase) -> ModelSource | None:
    """The model to distil from; `UserInputError` if its tokens are not the same."""
    if settings.distill_from is None:
        return None
    original = locate(settings.distill_from, allow_pickle=located.allow_pickle)
    sizes = [source.config().get_text_config().vocab_size for source in (located, original)]
    if sizes[0] != sizes[1] or tokenizer.get_vocab() != original.tokenizer().get_vocab():
        raise UserInputError(
            f"{original.name} has another vocabulary than {located.name} ({sizes[1]} and {sizes[0]} tokens), so its "
            "predictions cannot be followed; distil from the model that was compressed"
        )
    return original
