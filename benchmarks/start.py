"""Processor time until a command has answered, in units of `import torch` in the same run.

    python benchmarks/start.py             what there is, and the plan of a tiny model
    python benchmarks/start.py --repeat 3  the least of three

`model classes` is what transformers takes to import one: no command that looks at a model does without.  One line of
JSON goes to `--out`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from transformers import LlamaConfig

COMMANDS = {
    "import torch": ["-c", "import torch"],
    "model classes": ["-c", "import transformers.models.llama.modeling_llama"],
    "--help": ["-m", "neuromeld", "--help"],
    "list architectures": ["-m", "neuromeld", "list", "architectures"],
    "list texts": ["-m", "neuromeld", "list", "texts"],
    "list options": ["-m", "neuromeld", "list", "options"],
    "plan": ["-m", "neuromeld", "plan", "MODEL", "--ffn-ratio", "0.7"],
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeat", type=int, default=1)
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/start.jsonl"))
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as model:
        LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(model)
        seconds = {
            name: min(
                processor_seconds([model if part == "MODEL" else part for part in command])
                for _ in range(options.repeat)
            )
            for name, command in COMMANDS.items()
        }
    row = {name: round(value / seconds["import torch"], 2) for name, value in seconds.items()}
    print(json.dumps(row))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a") as file:
        file.write(json.dumps(row) + "\n")


def processor_seconds(command: list[str]) -> float:
    """Of a new interpreter, on one thread, its kernel's share included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *command], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    main()
