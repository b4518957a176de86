"""The first look at what a compression cost: perplexity and a few continuations, before and after."""

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from neuromeld.data.text import TokenWindows, encode_texts, first_windows
from neuromeld.errors import NumericsError
from neuromeld.evaluation.mode import eval_mode
from neuromeld.evaluation.perplexity import Perplexity, perplexity
from neuromeld.runtime.streaming import device_of, says_its_device

OUTCOME_TOKENS = 8192
"""Evaluation tokens of the perplexity, at most."""

PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 3, 24, 32


@dataclass(frozen=True)
class Look:
    """The perplexity of a model, and what it writes behind each prompt."""

    perplexity: Perplexity
    continuations: list[str]


class Outcome:
    """Looks at one model twice, on the same windows."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, windows: TokenWindows) -> None:
        self._tokenizer = tokenizer
        self._windows = windows
        seqlen = windows.input_ids.shape[1]
        step = max(1, len(windows.input_ids) // PROMPTS)
        self._prompts_bt = windows.input_ids[::step][:PROMPTS, : min(PROMPT_TOKENS, seqlen // 2)]
        self._num_written = min(NEW_TOKENS, seqlen - self._prompts_bt.shape[1])
        self._before: Look | None = None

    def before(self, model: PreTrainedModel) -> None:
        """Look at the model before the compression; one whose logits are not finite is left to the compression, which
        says where.
        """
        with suppress(NumericsError):
            self._before = self._look(model, self._tokenizer)

    def after(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Return what a record says of both looks: `evaluation`, and `samples` side by side; `NumericsError` from
        `perplexity`.

        tokenizer  of the model as it is now
        """
        if self._before is None:
            return {}
        after, before = self._look(model, tokenizer), self._before.perplexity
        measured = asdict(after.perplexity)
        if tokenizer is self._tokenizer:  # per token, perplexities of other tokens are not comparable
            measured |= {"perplexity_before": before.perplexity, "accuracy_before": before.accuracy}
        if before.bits_per_byte is not None:
            measured |= {"bits_per_byte_before": before.bits_per_byte}
        prompts = self._tokenizer.batch_decode(self._prompts_bt)
        written = zip(prompts, self._before.continuations, after.continuations, strict=True)
        return {
            "evaluation": [measured],
            "samples": [{"prompt": prompt, "before": old, "after": new} for prompt, old, new in written],
        }

    def _look(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Look:
        windows, prompts = self._windows, [self._prompts_bt]
        if tokenizer is not self._tokenizer:
            seqlen, most = windows.input_ids.shape[1], windows.num_tokens
            windows = first_windows(windows.source, tokenizer, split=windows.split, most=most, seqlen=seqlen)
            texts = self._tokenizer.batch_decode(self._prompts_bt)
            prompts = [torch.tensor([ids]) for ids in encode_texts(texts, tokenizer)]
        written = [row for ids in prompts for row in continuations(model, ids, self._num_written)]
        return Look(perplexity(model, windows), tokenizer.batch_decode(torch.stack(written)))


@torch.no_grad()
def continuations(model: PreTrainedModel, prompts_bt: Tensor, num_tokens: int) -> Tensor:
    """Return the likeliest `num_tokens` tokens behind each prompt, `(batch, num_tokens)`; none ends a text early."""
    ids = prompts_bt.to(device_of(model))
    generate: Any = model.generate
    with eval_mode(model), says_its_device(model):
        written: Tensor = generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=num_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=None,
            pad_token_id=0,
        )
    return written[:, ids.shape[1] :]
