"""Run a text through engines that serve models: imported only where they are installed."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel


def is_installed(module: str | None) -> bool:
    """Tell whether an engine can be imported; a folder of its name, which Python would take for a package, is none."""
    spec = None if module is None else find_spec(module)
    return spec is not None and spec.origin is not None


@torch.no_grad()
def own_text(model: PreTrainedModel, length: int) -> list[int]:
    """Return tokens that the model writes itself at temperature 1, always the same."""
    config = model.config
    first = next(
        (number for number in (config.bos_token_id, config.eos_token_id) if isinstance(number, int)),
        0,
    )
    ids = torch.tensor([[first]], device=model.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sampled: Any = {"do_sample": True, "top_k": 0, "eos_token_id": None, "pad_token_id": 0}
        found: Any = model.generate(ids, max_new_tokens=length - 1, **sampled)  # type: ignore[operator]
    return [int(number) for number in found[0]]


@torch.no_grad()
def by_transformers(model: PreTrainedModel, ids: Sequence[int]) -> list[float]:
    """Return the log-probability of each token but the first, in nats."""
    tokens = torch.tensor([list(ids)], device=model.device)
    logits = model(input_ids=tokens, use_cache=False).logits[0, :-1].double()
    found: list[float] = logits.log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0].tolist()
    return found


def by_llama_cpp(folder: Path, ids: Sequence[int]) -> list[float]:
    """Return the same from the one GGUF file in `folder`, by llama.cpp with a cache in float32."""
    from llama_cpp import GGML_TYPE_F32, Llama

    (path,) = folder.glob("*.gguf")
    sizes = {"n_ctx": len(ids), "n_batch": len(ids), "type_k": GGML_TYPE_F32, "type_v": GGML_TYPE_F32}
    model = Llama(str(path), **sizes, logits_all=True, verbose=False)
    model.eval(list(ids))
    logits = torch.from_numpy(np.array(model.scores[: len(ids) - 1])).double()
    found: list[float] = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
    return found


def by_vllm(folder: Path, ids: Sequence[int]) -> list[float]:
    """Return the same from `folder`, by vLLM in this process."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM, SamplingParams

    engine = LLM(str(folder), enforce_eager=True, max_model_len=max(256, len(ids) + 1))
    (output,) = engine.generate(
        {"prompt_token_ids": list(ids)}, SamplingParams(max_tokens=1, prompt_logprobs=0), use_tqdm=False
    )
    return [given[token].logprob for given, token in zip(output.prompt_logprobs[1:], ids[1:], strict=True)]
