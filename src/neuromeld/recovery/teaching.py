"""Write down what a model predicts on a text, once, for all that is trained to follow it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from neuromeld.checkpoint import check_free, new_folder, save_record
from neuromeld.checkpoint.folder import check_space, written_files
from neuromeld.checkpoint.source import ModelSource, locate
from neuromeld.data.calibration import Calibration
from neuromeld.data.text import TokenWindows
from neuromeld.errors import UserInputError
from neuromeld.evaluation import perplexity
from neuromeld.evaluation.mode import eval_mode
from neuromeld.modalities import inputs_of
from neuromeld.modalities.own_text import OwnText
from neuromeld.modalities.texts import Texts
from neuromeld.modalities.tokens import Tokens
from neuromeld.model.passes import chosen_passes, passes_in
from neuromeld.model.predictions import measure_in_chunks, predictions
from neuromeld.recovery.held_out import HELD_OUT_TOKENS
from neuromeld.recovery.stored import FORMAT, HELD_OUT, KEY, digests_of, parts_of, tokens_digest, told_of
from neuromeld.runtime.journal import Journal, open_journal
from neuromeld.runtime.progress import track
from neuromeld.settings import Seed, Settings
from neuromeld.version import __version__

SHARD_TOKENS, PASS_TOKENS = 1 << 17, 1 << 13
"""Tokens of a file, and of a forward pass, at least a window."""


class Teaching(Settings):
    """Say what is predicted, and how much of it is kept."""

    text: str = Field(Tokens.default, description="Named text, file:PATH, self, or several by weight, to predict.")
    tokens: int | None = Field(None, description="Tokens in all, at least a window; by default all there are.", ge=2)
    seqlen: int = Field(512, description="Tokens in one window.", ge=2)
    seed: Seed = Field(0, description="Seed for sampling documents, and for what the model writes.")
    top: int = Field(100, description="Log-probabilities that are kept of each place, the largest ones.", ge=1)


@dataclass(frozen=True)
class TeachResult:
    """The result of `teach`: the folder it wrote, and the content of its `record.json`."""

    out: Path
    record: dict[str, Any]


def teach(
    source: str | Path,
    settings: Teaching,
    out: str | Path,
    *,
    force: bool = False,
    device: str = "cpu",
    allow_pickle: bool = False,
    progress: bool = False,
) -> TeachResult:
    """Write what the language model at `source` predicts on a text to the folder `out`, for `Recovery(teacher=out)`.

    An interrupted call, made again, goes on behind the last file that it finished.  Raises a `NeuromeldError` for
    everything that can be wrong with the arguments, the model or the disk.
    """
    job = TeachJob(settings, locate(source, allow_pickle=allow_pickle), Path(out), force, device, progress)
    check_free(job.out, force=force, source=job.source.name)
    with open_journal(job.out) as journal:
        return job.run(journal)


@dataclass(frozen=True)
class TeachJob:
    """One call of `teach`, which says what its arguments mean."""

    settings: Teaching
    source: ModelSource
    out: Path
    force: bool = False
    device: str = "cpu"
    progress: bool = False
    started: float = field(default_factory=time.monotonic)

    def run(self, journal: Journal) -> TeachResult:
        """Predict shard by shard, and write the folder."""
        if inputs_of(self.source.config()) != "tokens":
            raise UserInputError(
                f"{self.source.name} does not predict the next token, so there is nothing to write down"
            )
        windows, held_out = self._windows()
        vocabulary = self.source.config().get_text_config().vocab_size
        top, size = min(self.settings.top, vocabulary), max(1, SHARD_TOKENS // self.settings.seqlen)
        made_of = self.settings.model_dump() | {
            "model_sha256": self.source.fingerprint(),
            "text_sha256": windows.sha256,
        }
        journal.begin({"job": "teach"} | made_of, force=self.force)
        assert journal.folder is not None
        check_space(journal.folder, 2 * windows.num_tokens * (6 * top + 8))
        model = self.source.load(None, self.device)
        passes, shards = chosen_passes("auto", model), list(windows.input_ids.split(size))
        with passes_in(passes, model), eval_mode(model):
            self._predict(model, shards, top, journal)
            loss = perplexity(model, held_out).nll
        facts = {
            "format": FORMAT,
            "model": self.source.name,
            "vocab_size": vocabulary,
            "windows_of_shard": size,
        } | made_of
        facts |= {"top": top, "windows": len(windows.input_ids), "passes": passes, "device": self.device}
        facts |= {"loss_original": loss, "tokenizer_sha256": tokens_digest(self.source.tokenizer())}
        facts |= {"version": __version__, "seconds": time.monotonic() - self.started}
        with new_folder(self.out, force=self.force, beside=journal.folder) as folder:
            save_file({"ids": held_out.input_ids.int()}, folder / HELD_OUT)
            for number in range(len(shards)):
                entry = journal.read(_name(number))
                assert entry is not None
                save_file(entry.tensors, folder / f"{_name(number)}.safetensors")
            record = {KEY: facts | {"sha256": digests_of(folder)}, "files": written_files(folder)}
            save_record(folder, record, card=None)
        return TeachResult(self.out, record)

    def _predict(self, model: PreTrainedModel, shards: Sequence[Tensor], top: int, journal: Journal) -> None:
        """Keep what the model says of each shard that is not there."""
        with track("predicting", sum(map(Tensor.numel, shards)), enabled=self.progress) as advance:
            done = 0
            for number, ids in enumerate(shards):
                if journal.recall(_name(number)) is None:
                    journal.keep(_name(number), None, parts_of(ids, _told(model, ids, top)))
                done += ids.numel()
                advance(done)

    def _windows(self) -> tuple[TokenWindows, TokenWindows]:
        """Return the text to predict, and the validation text of the same sources."""
        settings = self.settings
        tokens = settings.tokens or SHARD_TOKENS
        data = Calibration(
            source=settings.text, tokens=max(tokens, settings.seqlen), seqlen=settings.seqlen, seed=settings.seed
        )
        own = OwnText(self.source, self.device, self.progress)
        texts = Texts(data, settings.text, self.source.tokenizer(), own)
        windows = texts.training() if settings.tokens is None else texts.calibration(data.tokens)
        return windows, texts.validation(HELD_OUT_TOKENS)


@torch.no_grad()
def _told(model: PreTrainedModel, ids_wt: Tensor, top: int) -> Tensor:
    """Return what is told of windows, `(w, t - 1, 2 k + 1)`."""
    batches = ids_wt.split(max(1, PASS_TOKENS // ids_wt.shape[1]))
    measure = partial(_measured, top)
    rows = [measure_in_chunks(measure, predictions(model, {"input_ids": ids})).cpu() for ids in batches]
    told: Tensor = torch.cat(rows).unflatten(0, (len(ids_wt), -1))
    return told


def _measured(top: int, logits_nv: Tensor, _: Tensor) -> Tensor:
    return told_of(logits_nv, top)


def _name(number: int) -> str:
    return f"teacher-{number}"
