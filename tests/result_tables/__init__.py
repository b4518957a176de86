"""Tables in the documents, made of the code and of `benchmarks/results`: a test fails when they disagree.

`PYTHONPATH=src:tests python -m result_tables` writes them all.
"""

import re
from collections.abc import Callable
from pathlib import Path

from result_tables import (
    asked,
    budget,
    felt,
    large_models,
    layerwise,
    learned_elsewhere,
    limits,
    merging,
    options,
    recovery,
    serving,
    tokens,
    undescribed,
)

ROOT = Path(__file__).parents[2]

TABLES: dict[str, Callable[[], str]] = {
    "first-screen": budget.first_screen,
    "budgets": budget.all_budgets,
    "frontier": asked.frontier,
    "asked": asked.asked,
    "calibration-texts": asked.calibration_texts,
    "usual-text": asked.usual_text,
    "usual-text-evaluated": asked.usual_text_evaluated,
    "transport-added": asked.transport_added,
    "transport-added-stream": asked.transport_added_to_the_stream,
    "after-tuning": merging.after_tuning,
    "smollm2-window": merging.smollm2_window,
    "smollm2-five": merging.smollm2_five,
    "smollm2-ten": merging.smollm2_ten,
    "dinov2": merging.dinov2,
    "whisper": merging.whisper,
    "ruaccent": merging.ruaccent,
    **options.TABLES,
    "engines": serving.engines,
    "engine-figures": serving.figures,
    "engine-speeds": serving.speeds,
    "recovered": recovery.recovered,
    "laptop": recovery.laptop,
    "starts": recovery.starts,
    "felt": felt.felt,
    "layerwise": layerwise.layerwise,
    "learned-elsewhere": learned_elsewhere.learned_elsewhere,
    "fewer-tokens": tokens.fewer,
    "mostly-vocabulary": tokens.mostly_vocabulary,
    "limits": limits.limits,
    "large-models-space": large_models.space,
    "large-models-time": large_models.time,
    "large-models-looking": large_models.looking,
    "undescribed": undescribed.undescribed,
}

BLOCK = re.compile(r"(<!-- table ([\w-]+), written by make table -->\n).*?(<!-- end -->\n)", flags=re.DOTALL)

DOCUMENTS = [
    path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))) if BLOCK.search(path.read_text())
]


def update(path: Path) -> str:
    """The text of the file with its tables made anew."""
    return BLOCK.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], path.read_text(encoding="utf-8"))
