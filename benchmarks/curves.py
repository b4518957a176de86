"""Draw what held-out text of the trained kinds loses on the way of each training of `benchmarks/recover.py`.

    python benchmarks/curves.py benchmarks/results/laptop.jsonl      # the drawing is beside it, as .svg

Nats over the original by tokens that were trained on, of the longest training of each start, and the first of these.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from neuromeld.drawing.charts import Series, lines
from neuromeld.drawing.svg import draw

READ = ", 262,144 tokens"
"""What is said of a start that does not tell it from others of the same size."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("results", type=Path, nargs="?", default=Path("benchmarks/results/laptop.jsonl"))
    results: Path = arguments.parse_args().results
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    longest: dict[tuple[float, str], dict[str, Any]] = {}
    for row in sorted((row for row in rows if row["tokens"]), key=lambda row: (-row["keep"], -row["tokens"])):
        longest.setdefault((row["keep"], row["start"]), row)
    series = [Series(f"{keep:g}: {start.replace(READ, '')}", points_of(row)) for (keep, start), row in longest.items()]
    chart = lines("Trained towards the original", "tokens", "held-out loss over the original's (nats)", series)
    results.with_suffix(".svg").write_text(draw([] if chart is None else [chart]))


def points_of(row: dict[str, Any]) -> list[tuple[float, float]]:
    """The tokens before each look, and the loss there over the original's."""
    looks, original = row["looks"], row["held_out"]["loss_original"]
    each = row["tokens"] / looks[-1]["step"]
    return [(look["step"] * each, look["loss"] - original) for look in looks]


if __name__ == "__main__":
    main()
