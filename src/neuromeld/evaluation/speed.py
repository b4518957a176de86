"""How fast models read a prompt and write after it, measured in alternation so that a drift of the machine's speed
touches all of them alike."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from neuromeld.errors import UserInputError
from neuromeld.evaluation.mode import eval_mode


@dataclass(frozen=True)
class Rate:
    """Tokens per second over the repeats, all sequences of the batch together."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Speed:
    """`prefill` is the whole prompt in one call; `decode` is greedy, one call a token, on the key-value cache."""

    prefill: Rate
    decode: Rate
    protocol: dict[str, str | int]


@torch.no_grad()
def measure_speed(
    models: Mapping[str, PreTrainedModel],
    *,
    prompt_tokens: int = 512,
    new_tokens: int = 32,
    batch_size: int = 1,
    repeats: int = 5,
    warmup: int = 1,
    seed: int,
) -> dict[str, Speed]:
    """Time every model on the same random prompt, once a round: A B, A B, ...; `warmup` rounds are not counted.

    The models are called directly, without `generate`, and compute logits for all positions of the prompt.
    `UserInputError` when a size is below its minimum or the tokens exceed a model's positions.
    """
    sizes = {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "batch_size": batch_size, "repeats": repeats}
    if too_small := [f"{name}={value}" for name, value in sizes.items() if value < 1]:
        raise UserInputError(f"{', '.join(too_small)}: each must be at least 1")
    for name, model in models.items():
        positions = getattr(model.config, "max_position_embeddings", None)
        if positions is not None and prompt_tokens + new_tokens > positions:
            raise UserInputError(
                f"{name!r} has {positions} positions, fewer than prompt_tokens={prompt_tokens} "
                f"+ new_tokens={new_tokens}; lower one of them"
            )
    vocab_size = min(model.config.vocab_size for model in models.values())
    prompt_bs = torch.randint(vocab_size, (batch_size, prompt_tokens), generator=torch.Generator().manual_seed(seed))
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    with eval_mode(*models.values()):
        for round_number in range(warmup + repeats):
            for name, model in models.items():
                timed = _prefill_and_decode(model, prompt_bs.to(model.device), new_tokens)
                if round_number >= warmup:
                    seconds[name].append(timed)
    return {
        name: Speed(
            prefill=_rate(batch_size * prompt_tokens, [prefill for prefill, _ in pairs]),
            decode=_rate(batch_size * new_tokens, [decode for _, decode in pairs]),
            protocol={
                **sizes,
                "dtype": str(models[name].dtype).removeprefix("torch."),
                "device": models[name].device.type,
                "threads": torch.get_num_threads(),
            },
        )
        for name, pairs in seconds.items()
    }


def _prefill_and_decode(model: PreTrainedModel, prompt_bs: Tensor, new_tokens: int) -> tuple[float, float]:
    start = _now(prompt_bs.device)
    output = model(input_ids=prompt_bs, use_cache=True)
    after_prefill = _now(prompt_bs.device)
    for _ in range(new_tokens):
        next_b1 = output.logits[:, -1:].argmax(dim=-1)
        output = model(input_ids=next_b1, past_key_values=output.past_key_values, use_cache=True)
    return after_prefill - start, _now(prompt_bs.device) - after_prefill


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _rate(tokens: int, seconds: list[float]) -> Rate:
    rates = [tokens / s for s in seconds]
    return Rate(statistics.median(rates), min(rates), max(rates))
