"""`self`: text that a language model writes itself, in batches that are kept in the cache."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from neuromeld.checkpoint.source import ModelSource
from neuromeld.data.calibration import Calibration
from neuromeld.data.mixture import OWN
from neuromeld.data.splits import Split
from neuromeld.data.text import TokenWindows, encode_texts, with_digest
from neuromeld.data.text.reading import lines_of, local_path, open_text
from neuromeld.errors import UserInputError
from neuromeld.evaluation.mode import eval_mode
from neuromeld.model.sampling import write_tokens
from neuromeld.runtime.cache import cache_folder
from neuromeld.runtime.memory import release_memory
from neuromeld.runtime.progress import track
from neuromeld.stats.store import StatisticsStore, cache_key

BATCH, CARD_BATCH = 16, 256
"""Texts that are written at a time, by a processor and by a card, which takes as long for many as for few."""

TRAINING_TOKENS, CARD_TRAINING_TOKENS = 1 << 17, 1 << 20
"""Tokens that are written to train on, at most: what a processor writes in minutes, and a card."""

RUN, LEAST_DISTINCT = 8, 0.2
"""Of all runs of so many tokens, the share that must be distinct."""

QUESTION = "<question>"
"""It stands in a chat for what the model asks itself."""

VERSION = 2
"""Raise it when a model would write something else: the cache is keyed by it."""


@dataclass
class OwnText:
    """The text that the model at `source` writes, in its own dtype on `device`."""

    source: ModelSource
    device: str = "cpu"
    progress: bool = False
    _model: PreTrainedModel | None = field(default=None, init=False)

    @property
    def on_card(self) -> bool:
        """Whether a card writes."""
        return self.device.startswith("cuda")

    @property
    def most_to_train_on(self) -> int:
        """Tokens that are written to train on, at most."""
        return CARD_TRAINING_TOKENS if self.on_card else TRAINING_TOKENS

    def windows(self, settings: Calibration, split: Split, num_windows: int) -> TokenWindows:
        """Return windows that the model writes behind its start token, which is no part of them, or behind prompts.

        Every second window is a chat, where the tokenizer has a template for it and there are no prompts: the model
        asks, and answers.  Each split of a seed is other text.  `UserInputError` where the model repeats itself or has
        no start token, and where a prompt leaves no room in a window.
        """
        seqlen, openings = settings.seqlen, self._openings(settings)
        facts = settings.model_dump(include={"seqlen", "seed"}) | {"split": split, "version": VERSION}
        facts |= {"model": self.source.fingerprint(), "openings": openings}
        written = []
        with ExitStack() as stack:
            advance = stack.enter_context(track("writing text", num_windows * seqlen, enabled=self.progress))
            stack.callback(self._forget)
            size = CARD_BATCH if self.on_card else BATCH
            for first in range(0, num_windows, size):
                places = range(first, min(first + size, num_windows))
                those = [openings[place % len(openings)] for place in places]
                told = partial(_tell, advance, first * seqlen, len(places))
                written.append(self._batch(facts | {"first": first, "size": len(places)}, those, seqlen + 1, told))
                advance(places.stop * seqlen)
        found = torch.cat(written)[:, 1:]
        _check_distinct(found, self.source.name)
        return with_digest(found, OWN, split, None)

    def _batch(
        self, facts: dict[str, object], openings: Sequence[Sequence[int]], length: int, told: Callable[[int], None]
    ) -> Int64[Tensor, "n t"]:
        """Return the texts of a batch, which `facts` decide, from the cache where they are there."""
        store, key = StatisticsStore(cache_folder() / "own-text"), cache_key(**facts)
        kept = store.load(key)
        if kept is not None:
            return kept[OWN]["ids"]
        if self._model is None:
            self._model = self.source.load(None, self.device)
        generator = torch.Generator().manual_seed(int(key[:15], 16))
        with eval_mode(self._model):
            ids = write_tokens(self._model, openings, length, generator, told)
        store.save(key, {OWN: {"ids": ids}})
        return ids

    def _forget(self) -> None:
        self._model = None
        release_memory()

    def _openings(self, settings: Calibration) -> list[list[int]]:
        """Return the first tokens of texts: the start token, and those of a prompt behind it."""
        tokenizer = self.source.tokenizer()
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        if start is None:
            raise UserInputError(
                f"{self.source.name} has no token that a text starts or ends with, so it cannot write one: give a "
                "named text or file:PATH"
            )
        if settings.prompts is None:
            asking = asking_tokens(tokenizer)
            chat = asking if asking[:1] == [start] else [start, *asking]
            return [[start], chat] if 0 < len(asking) <= settings.seqlen // 2 else [[start]]
        path = local_path(settings.prompts)
        with open_text(path) as file:
            prompts = [line for line in lines_of(file, path) if line.strip()]
        if not prompts:
            raise UserInputError(f"{path} has no prompt: write one on each line")
        encoded = encode_texts(prompts, tokenizer)
        longest = max(map(len, encoded))
        if longest > settings.seqlen // 2:
            raise UserInputError(
                f"{path} has a prompt of {longest} tokens, more than half of a window of seqlen={settings.seqlen}, so "
                "little of it would be the model's own: shorten it, or raise seqlen"
            )
        return [[start, *ids] for ids in encoded]


def asking_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens of a chat before its first question; none where the tokenizer has no template, or a template
    does not do with a question alone.

    A model that was trained on chats goes on with a question.  Source: arXiv:2406.08464, section 2.
    """
    if not tokenizer.chat_template:
        return []
    try:
        chat = tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}], tokenize=False)
    except Exception:  # a template is a program, and raises what it likes
        return []
    before, found, _ = str(chat).partition(QUESTION)
    return encode_texts([before], tokenizer)[0] if found and before.strip() else []


def _tell(advance: Callable[[int], None], before: int, num_texts: int, tokens: int) -> None:
    advance(before + num_texts * tokens)


def distinct_runs(windows: Int64[Tensor, "n t"]) -> float:
    """Return the share of distinct ones among all runs of `RUN` tokens."""
    runs = windows.unfold(1, min(RUN, windows.shape[1]), 1).flatten(0, 1)
    return len(runs.unique(dim=0)) / len(runs)


def _check_distinct(windows: Int64[Tensor, "n t"], name: str) -> None:
    """Raise `UserInputError` for text that says the same over and over."""
    share = distinct_runs(windows)
    if share < LEAST_DISTINCT:
        raise UserInputError(
            f"{name} repeats itself: of what it wrote only {share:.1%} of the windows of {RUN} tokens are distinct, "
            f"fewer than {LEAST_DISTINCT:.0%}, so there is little to calibrate on: give a named text, file:PATH, or "
            "prompts"
        )
