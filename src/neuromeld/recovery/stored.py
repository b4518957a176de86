"""Keep what a model predicts on a text on the disk: the largest log-probabilities of each place, and what others have.

`record.json` says what it was made of; `held-out.safetensors` has validation text; each `teacher-N.safetensors` has
some windows: `ids` `(w, t)` int32, and of each token but the first of a window `top_ids` and `top_logs`
`(w, t - 1, k)`, int32 and float16, and `rest` `(w, t - 1)` float32, the log of the probability of all others together.

Suffixes of tensors: w windows, t tokens, n predictions, k those that are told, v vocabulary.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from neuromeld.checkpoint.stated import read_json
from neuromeld.data.text import TokenWindows, with_digest
from neuromeld.errors import CheckpointError, UserInputError
from neuromeld.modalities import TrainingSet
from neuromeld.modalities.tokens import CHECK_TOKENS
from neuromeld.model.capture import Batch

FORMAT = 1
KEY = "teacher"
"""Of a record: what the teacher was made of."""

TOLD = "told"
"""Of a batch: `(w, t - 1, 2 k + 1)`, the log-probabilities of k tokens, that of all others, and which k they are."""

HELD_OUT = "held-out.safetensors"


def told_of(logits_nv: Tensor, top: int) -> Tensor:
    """Return what is kept of logits, `(n, 2 k + 1)`: as `TOLD` has it, with `k` at most the vocabulary."""
    logs_nv = logits_nv.log_softmax(dim=-1)
    logs_nk, ids_nk = logs_nv.topk(min(top, logs_nv.shape[1]), dim=-1)
    rest_n = logs_nv.scatter(1, ids_nk, -torch.inf).logsumexp(dim=-1)
    return torch.cat((logs_nk, rest_n[:, None], ids_nk.to(logs_nk.dtype)), dim=1)


def divergence_from_told(logits_nv: Tensor, told: Tensor) -> Tensor:
    """Return `sum p_i ln(p_i / q_i)` of each row, `(n,)`, over the tokens that are told and all others as one.

    It is `KL(teacher || found)` where all tokens are told, and at most that where fewer are.  What is told is scaled to
    sum to 1, which rounding may have changed.
    """
    k = told.shape[1] // 2
    ids_nk = told[:, k + 1 :].long()
    logs = told[:, : k + 1].log_softmax(dim=-1)
    found_nk = logits_nv.gather(1, ids_nk) - logits_nv.logsumexp(dim=-1, keepdim=True)
    told_part = (logs[:, :k].exp() * (logs[:, :k] - found_nk)).sum(-1)
    if k == logits_nv.shape[1]:
        return told_part
    others_n = logits_nv.scatter(1, ids_nk, -torch.inf).logsumexp(dim=-1) - logits_nv.logsumexp(dim=-1)
    rest_n = logs[:, k].exp()
    return told_part + torch.where(rest_n > 0, rest_n * (logs[:, k] - others_n), 0.0)


def tokens_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the sha256 of a tokenizer's tokens and their numbers."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


@dataclass(frozen=True)
class StoredTeacher:
    """A folder that `neuromeld teach` wrote, and what its record says."""

    folder: Path
    facts: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, tokenizer: PreTrainedTokenizerBase) -> "StoredTeacher":
        """Read a record; `UserInputError` for another tokenizer and for no teacher, `CheckpointError` for damage."""
        if not (folder / "record.json").is_file():
            raise UserInputError(f"{folder} is no folder that `neuromeld teach` wrote: it has no record.json")
        facts = read_json(folder / "record.json").get(KEY)
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            raise UserInputError(f"{folder} is no folder that this version of `neuromeld teach` wrote; make it again")
        if facts["tokenizer_sha256"] != tokens_digest(tokenizer):
            raise UserInputError(
                f"{folder} tells of the tokens of {facts['model']}, and the model that is trained has others: make a "
                "teacher of the model that was compressed"
            )
        found = cls(folder, facts)
        for name, stated in facts["sha256"].items():
            if not (folder / name).is_file() or _digest(folder / name) != stated:
                raise CheckpointError(f"{folder / name} is damaged or missing; make the teacher again")
        return found

    @property
    def held_out(self) -> TokenWindows:
        """Return the windows that the original's `loss_original` was measured on."""
        ids = load_file(self.folder / HELD_OUT)["ids"].long()
        return with_digest(ids, self.facts["text"], "validation", None)

    def training(self) -> TrainingSet:
        """Return all windows, with what is told of each as `TOLD`."""
        ids = torch.cat([file.get_tensor("ids").long() for file in self._shards])
        check = {"input_ids": ids[:1, :CHECK_TOKENS]}
        digest = with_digest(ids, self.facts["text"], "calibration", None).sha256
        return TrainingSet(self._batch, len(ids), check, ids.numel(), self.facts["text"], digest)

    @cached_property
    def _shards(self) -> list[Any]:
        """Open every shard: rows are read as they are asked for."""
        names = [name for name in self.facts["sha256"] if name != HELD_OUT]
        try:
            return [safe_open(self.folder / name, framework="pt") for name in names]
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.folder} cannot be read: {error}") from error

    def _batch(self, numbers: Sequence[int]) -> Batch:
        size = self.facts["windows_of_shard"]
        rows = [{name: self._row(number // size, number % size, name) for name in PARTS} for number in numbers]
        whole = {name: torch.stack([row[name] for row in rows]) for name in PARTS}
        told = (whole["top_logs"].float(), whole["rest"][..., None], whole["top_ids"].float())
        return {"input_ids": whole["ids"].long(), TOLD: torch.cat(told, dim=-1)}

    def _row(self, shard: int, row: int, name: str) -> Tensor:
        found: Tensor = self._shards[shard].get_slice(name)[row]
        return found


PARTS = ("ids", "top_ids", "top_logs", "rest")


def parts_of(ids_wt: Tensor, told: Tensor) -> dict[str, Tensor]:
    """Return the tensors of a shard."""
    k = told.shape[-1] // 2
    parts = (ids_wt.int(), told[..., k + 1 :].int(), told[..., :k].half(), told[..., k].float())
    return {name: part.cpu().contiguous() for name, part in zip(PARTS, parts, strict=True)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests_of(folder: Path) -> dict[str, str]:
    """Return the sha256 of the files of a teacher, by name, shards in order."""
    names = sorted(folder.glob("*.safetensors"), key=lambda path: (len(path.name), path.name))
    return {path.name: _digest(path) for path in names}
