"""What one engine makes of one model: run by the engine's own Python, without neuromeld; one line of JSON.

    path/to/venv/bin/python benchmarks/engine_runner.py vllm|llama.cpp FOLDER TOKENS.json

TOKENS.json holds a list of tokens.  Speeds are tokens per second of processor time of all threads, since other work on
the machine changes the clock and not that.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PROMPT, GREEDY, SEQUENCES = 32, 64, 16
"""Tokens that are gone on from, tokens that are written, and texts that are written at once."""

Report = dict[str, Any]


def timed(work: Callable[[], Any], tokens: int) -> tuple[Any, float]:
    """The result, and tokens per second of processor time."""
    started = time.process_time()
    result = work()
    return result, tokens / (time.process_time() - started)


def run_vllm(folder: Path, ids: Sequence[int]) -> Report:
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    from vllm import LLM, SamplingParams, __version__

    sizes = {"max_model_len": 1024, "max_num_seqs": SEQUENCES, "enable_prefix_caching": False}
    engine = LLM(str(folder), enforce_eager=True, dtype="float32", trust_remote_code=True, **sizes)

    def generate(prompts: list[list[int]], **options: Any) -> Any:
        settings = SamplingParams(temperature=0, ignore_eos=True, **options)
        return engine.generate([{"prompt_token_ids": ids} for ids in prompts], settings, use_tqdm=False)

    prompt = list(ids[:PROMPT])
    generate([prompt], max_tokens=2)
    _, prefill = timed(lambda: generate([list(ids)], max_tokens=1), len(ids))
    (whole,) = generate([list(ids)], max_tokens=1, prompt_logprobs=0)
    found = [given[token].logprob for given, token in zip(whole.prompt_logprobs[1:], ids[1:], strict=True)]
    (alone,), decode = timed(lambda: generate([prompt], max_tokens=GREEDY), GREEDY)
    several = [[*prompt[number:], *prompt[:number]] for number in range(SEQUENCES)]
    _, together = timed(lambda: generate(several, max_tokens=GREEDY), GREEDY * SEQUENCES)
    greedy = list(alone.outputs[0].token_ids)
    return report(__version__, found, greedy, prefill, decode, together)


def run_llama_cpp(folder: Path, ids: Sequence[int]) -> Report:
    import llama_cpp
    import numpy as np

    (path,) = folder.glob("*.gguf")
    sizes = {"n_ctx": 2048, "n_batch": 512, "n_ubatch": 512, "n_threads": 1, "n_threads_batch": 1}
    model = llama_cpp.Llama(str(path), **sizes, logits_all=True, verbose=False)
    model.eval(list(ids[:PROMPT]))
    model.reset()
    _, prefill = timed(lambda: model.eval(list(ids)), len(ids))
    scores = np.array(model.scores[: len(ids) - 1], dtype=np.float64)
    scores -= scores.max(1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(1, keepdims=True))
    found = scores[np.arange(len(ids) - 1), np.array(ids[1:])].tolist()

    def go_on() -> list[int]:
        written: list[int] = []
        for _ in range(GREEDY):
            written.append(int(model.scores[model.n_tokens - 1].argmax()))
            model.eval([written[-1]])
        return written

    model.reset()
    model.eval(list(ids[:PROMPT]))
    greedy, decode = timed(go_on, GREEDY)
    together = several_at_once(str(path), ids)
    return report(llama_cpp.__version__, found, greedy, prefill, decode, together)


def several_at_once(path: str, ids: Sequence[int]) -> float:
    """Tokens per second of processor time where several texts go on at once; the last prompt token is written again."""
    import llama_cpp as cpp

    model = cpp.llama_model_load_from_file(path.encode(), cpp.llama_model_default_params())
    params = cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_seq_max = SEQUENCES * 128, SEQUENCES, SEQUENCES
    params.n_threads = params.n_threads_batch = 1
    context = cpp.llama_init_from_model(model, params)
    batch = cpp.llama_batch_init(SEQUENCES, 0, 1)

    def step(position: int) -> None:
        batch.n_tokens = SEQUENCES
        for row in range(SEQUENCES):
            batch.token[row], batch.pos[row] = ids[(position + row) % len(ids)], position
            batch.n_seq_id[row], batch.seq_id[row][0], batch.logits[row] = 1, row, True
        assert cpp.llama_decode(context, batch) == 0

    step(0)
    _, speed = timed(lambda: [step(position) for position in range(1, 1 + GREEDY)], GREEDY * SEQUENCES)
    return speed


def report(
    version: str, found: list[float], greedy: list[int], prefill: float, decode: float, together: float
) -> Report:
    return {
        "version": version,
        "log_probabilities": found,
        "greedy": greedy,
        "prefill_tokens_per_second": prefill,
        "decode_tokens_per_second": decode,
        f"decode_tokens_per_second_of_{SEQUENCES}": together,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    engine, folder, tokens = sys.argv[1:]
    run = {"vllm": run_vllm, "llama.cpp": run_llama_cpp}[engine]
    print(json.dumps(run(Path(folder), json.loads(Path(tokens).read_text()))))
