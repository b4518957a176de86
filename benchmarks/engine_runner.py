"""One engine with one model, asked by `engines.py`: run by the engine's own Python, without neuromeld.

    path/to/venv/bin/python benchmarks/engine_runner.py vllm|llama.cpp|transformers|torch.compile FOLDER TOKENS.json

TOKENS.json holds a list of tokens.  Each line read is `speed` or `compare`, and is answered by one line of JSON.
Speeds are tokens per second of processor time of all threads, since other work on the machine changes the clock and not
that.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Protocol

PROMPT, GREEDY = 32, 64
"""Tokens that are gone on from, and tokens that are written, where what is written is compared."""

READ, SEQUENCES = 512, 16
"""Tokens that are read at once: of one text, or of so many."""

WRITTEN = {1: 16, SEQUENCES: 8}
"""Tokens that are written behind each of so many texts."""

Written = tuple[list[list[int]], float, float]
"""What is written behind each prompt, and the processor seconds of reading the prompts and of writing the rest."""


class Engine(Protocol):
    """A model that is loaded."""

    version: str

    def write(self, prompts: list[list[int]], tokens: int) -> Written:
        """Go on from prompts of one length, greedily: the first token comes with the reading."""
        ...

    def score(self, ids: Sequence[int]) -> list[float]:
        """The log-probability of each token but the first, in nats."""
        ...


class Vllm:
    """vLLM in this process."""

    def __init__(self, folder: Path) -> None:
        os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
        os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        from vllm import LLM, __version__

        self.version = __version__
        sizes = {"max_model_len": 1024, "max_num_seqs": SEQUENCES, "max_num_batched_tokens": 1024}
        options = {"enforce_eager": True, "enable_prefix_caching": False, "async_scheduling": False}
        self.engine = LLM(str(folder), dtype="float32", trust_remote_code=True, **sizes, **options).llm_engine
        self.numbers = count()

    def write(self, prompts: list[list[int]], tokens: int) -> Written:
        start = time.process_time()
        for ids in prompts:
            self._ask(ids, max_tokens=tokens)
        (*_, outputs), read = self._steps(1), time.process_time() - start
        assert len(outputs) == len(prompts)
        start = time.process_time()
        if tokens > 1:
            *_, outputs = self._steps(tokens - 1)
        return [list(one.outputs[0].token_ids) for one in outputs], read, time.process_time() - start

    def score(self, ids: Sequence[int]) -> list[float]:
        self._ask(list(ids), max_tokens=1, prompt_logprobs=0)
        ((one,),) = self._steps(1)
        return [given[token].logprob for given, token in zip(one.prompt_logprobs[1:], ids[1:], strict=True)]

    def _ask(self, ids: list[int], **options: Any) -> None:
        from vllm import SamplingParams

        settings = SamplingParams(temperature=0, ignore_eos=True, **options)
        self.engine.add_request(str(next(self.numbers)), {"prompt_token_ids": ids}, settings)

    def _steps(self, number: int) -> list[Any]:
        found = [self.engine.step() for _ in range(number)]
        return [sorted(outputs, key=lambda one: int(one.request_id)) for outputs in found]


class LlamaCpp:
    """llama.cpp by its C interface, a context of its own for each call."""

    def __init__(self, folder: Path) -> None:
        import llama_cpp

        self.cpp, self.version = llama_cpp, llama_cpp.__version__
        (path,) = folder.glob("*.gguf")
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def _context(self, sequences: int, length: int) -> Any:
        params = self.cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = sequences * -(-length // 256) * 256, sequences
        params.n_batch = params.n_ubatch = READ
        params.n_threads = params.n_threads_batch = 1
        return self.cpp.llama_init_from_model(self.model, params)

    def _logits(self, context: Any, texts: list[list[int]], position: int, *, all_of_them: bool = False) -> Any:
        """Read so many more tokens of each text; the logits behind the last of each, or behind all."""
        import numpy as np

        batch = self.cpp.llama_batch_init(sum(map(len, texts)), 0, 1)
        for sequence, ids in enumerate(texts):
            for place, token in enumerate(ids):
                row = batch.n_tokens
                batch.token[row], batch.pos[row] = token, position + place
                batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
                batch.logits[row] = all_of_them or place == len(ids) - 1
                batch.n_tokens = row + 1
        rows = sum(map(len, texts)) if all_of_them else len(texts)
        assert self.cpp.llama_decode(context, batch) == 0
        found = np.ctypeslib.as_array(self.cpp.llama_get_logits(context), shape=(rows, self.vocab)).copy()
        self.cpp.llama_batch_free(batch)
        return found

    def write(self, prompts: list[list[int]], tokens: int) -> Written:
        context = self._context(len(prompts), len(prompts[0]) + tokens)
        start = time.process_time()
        last = self._logits(context, prompts, 0).argmax(1)
        read, written = time.process_time() - start, [last]
        start = time.process_time()
        for place in range(tokens - 1):
            last = self._logits(context, [[int(token)] for token in last], len(prompts[0]) + place).argmax(1)
            written.append(last)
        seconds = time.process_time() - start
        self.cpp.llama_free(context)
        return [[int(token) for token in row] for row in zip(*written, strict=True)], read, seconds

    def score(self, ids: Sequence[int]) -> list[float]:
        import numpy as np

        context = self._context(1, len(ids))
        scores = self._logits(context, [list(ids)], 0, all_of_them=True)[:-1].astype(np.float64)
        self.cpp.llama_free(context)
        scores -= scores.max(1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(1, keepdims=True))
        found: list[float] = scores[np.arange(len(ids) - 1), np.array(ids[1:])].tolist()
        return found


ENGINES: dict[str, Callable[[Path], Engine]] = {"vllm": Vllm, "llama.cpp": LlamaCpp}


def speed(engine: Engine, ids: Sequence[int]) -> dict[str, Any]:
    """Tokens per second of processor time, of one text and of several at once, and the most memory until then."""
    found: dict[str, Any] = {}
    for texts, tokens in WRITTEN.items():
        length = READ // texts
        prompts = [[*ids[start : start + length]] for start in range(0, READ, length)]
        _, read, written = engine.write(prompts, 1 + tokens)
        found |= {f"prefill_{texts}": READ / read, f"decode_{texts}": texts * tokens / written}
    return found | {"peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def compare(engine: Engine, ids: Sequence[int]) -> dict[str, Any]:
    """What the engine makes of a text, and how it goes on from the beginning."""
    (greedy,), *_ = engine.write([list(ids[:PROMPT])], GREEDY)
    return {"version": engine.version, "log_probabilities": engine.score(ids), "greedy": greedy}


def main() -> None:
    """Answer on what was standard output; what engines say there goes to the errors."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, folder, tokens = sys.argv[1:]
    engine, ids = ENGINES[name](Path(folder)), json.loads(Path(tokens).read_text())
    engine.write([list(ids[:PROMPT])], 2)  # what is done once is done
    for line in sys.stdin:
        answer = {"speed": speed, "compare": compare}[line.strip()](engine, ids)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
