"""ruaccent made smaller; a script, since its classes of model and tokenizer are its own, which no grid can load.

How much of what it writes stays the same, before and after tuning.

    python benchmarks/ruaccent.py --weights ruaccent/model --help-pages /usr/share/libreoffice/help/ru/text --work OUT
    python benchmarks/ruaccent.py ... --seed 1 --rows "narrow to 768: ridge"      other pairs to calibrate on
    python benchmarks/ruaccent.py ... --steps 60                                  tuned, the uncompressed model too

Weights: PyPI ruaccent-predictor 1.2.0 (MIT).  Text: Russian sentences of Debian's libreoffice-help-ru (MPL-2.0),
lower-cased, drawn once by a seed, each once.  Each is paired with what the uncompressed model makes of it; calibration,
the choice of layers and the measurements take pairs of their own splits; what is tuned sees those for calibration.  One
line of JSON a row goes to `--out`; rows that are there already are not run again.
"""

import argparse
import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from chosen_layers import chosen_layers
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.archs import BY_CLASS
from neuromeld.data.calibration import Calibration
from neuromeld.data.sources.libreoffice import paragraphs
from neuromeld.data.text import Pair, text_pairs
from neuromeld.evaluation import mean_loss, translation_quality, unique_parameters
from neuromeld.modalities.pairs import Pairs
from neuromeld.model.capture import Batch
from neuromeld.recovery import parse_recovery, recover_model
from ruaccent_marian import SPEC, load

SENTENCES = 800
EVALUATED = 200
CALIBRATION = Calibration(tokens=65536, seqlen=256, seed=0)
SEARCH_TOKENS = 16384
RECOVERY = {"batch_tokens": 4096, "seqlen": 256, "learning_rate": 1e-4, "schedule": "linear"}
LETTERS = "а-яё"  # noqa: RUF001
MARK = "'"
VOWELS = "аеиоуыэюя"

ROWS: dict[str, dict[str, object]] = {
    "dense": {},
    "merge 2: permute": {"share_ffns": {"count": 2, "compensate": "none"}},
    "merge 2: vanilla": {"share_ffns": {"count": 2, "align": "none", "compensate": "none"}},
    "narrow to 768: ridge": {"ffn": {"size": 768}},
    "delete 1 FFN": {"remove_ffns": {"count": 1}},
    "drop 1 layer": {"drop_layers": {"count": 1, "compensate": "none"}},
    "narrow to 576: ridge": {"ffn": {"size": 576}},
    "narrow to 512: ridge": {"ffn": {"size": 512}},
    "merge 2: permute, strongest, ridge": {"share_ffns": {"count": 2}},
    "merge 3: permute, strongest, ridge": {"share_ffns": {"count": 3}},
    "delete 2 FFNs": {"remove_ffns": {"count": 2}},
    "merge 2: as numbered, strongest, ridge": {"share_ffns": {"count": 2, "align": "none"}},
    "merge 3: as numbered, strongest, ridge": {"share_ffns": {"count": 3, "align": "none"}},
}
"""A window or a layer is one of each stack, found on validation pairs."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("weights", "help-pages", "work"):
        arguments.add_argument(f"--{name}", type=Path, required=True)
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/ruaccent.jsonl"))
    arguments.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    arguments.add_argument("--seed", type=int, default=CALIBRATION.seed, help="draws the calibration pairs")
    arguments.add_argument("--steps", type=int, default=0, help="of tuning; none by default")
    arguments.add_argument("--learning-rate", type=float, default=RECOVERY["learning_rate"])
    given = arguments.parse_args()
    BY_CLASS[SPEC.model_class] = SPEC
    file = given.work / "pairs.tsv"
    if not file.is_file():
        given.work.mkdir(parents=True, exist_ok=True)
        write_pairs(file, given.weights, sorted(set(sentences(given.help_pages))))
    settings = CALIBRATION.model_copy(update={"source": f"file:{file}", "seed": given.seed})
    evaluated = text_pairs(settings.source, "evaluation")[:EVALUATED]
    lines = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.is_file() else []
    asked = (given.seed, given.steps, given.learning_rate if given.steps else None)
    done = {
        line["row"]
        for line in lines
        if (line["calibration"]["seed"], line.get("steps", 0), line.get("learning_rate")) == asked
    }
    for row in [row for row in given.rows if row not in done]:
        started = time.monotonic()
        model, tokenizer = load(given.weights)
        data = Pairs().calibration(settings, tokenizer, model.config, settings.tokens)
        validation = Pairs().validation(settings, tokenizer, model.config, SEARCH_TOKENS)
        chosen = None
        if ROWS[row]:
            plan = make_plan(model, parse_recipe(ROWS[row] | {"calibration": settings.model_dump()}))
            done_to = compress_model(model, plan, data.batches, validation=validation.batches)
            chosen = chosen_layers(done_to.results)
        found = measure(model, tokenizer, evaluated, validation.batches)
        if given.steps:
            recovery = RECOVERY | {"steps": given.steps, "learning_rate": given.learning_rate, "seed": given.seed}
            told = recover_model(model, parse_recovery(recovery | {"train": settings.source}), tokenizer)
            del told["settings"]["train"]  # a path
            untuned = {name: found[name] for name in ("same_sentences", "chrf", "validation_loss", "text_kept")}
            found = measure(model, tokenizer, evaluated, validation.batches) | {"untuned": untuned}
            found |= {"steps": given.steps, "learning_rate": given.learning_rate, "recovery": told}
        result = {
            "row": row,
            "parameters": unique_parameters(model),
            "first_layer": chosen and chosen[0],
            **found,
            "seconds": round(time.monotonic() - started),
            "calibration": {"tokens": data.num_tokens, "seed": settings.seed, "sha256": data.sha256},
            "validation_tokens": validation.num_tokens,
        }
        given.out.parent.mkdir(parents=True, exist_ok=True)
        with given.out.open("a", encoding="utf-8") as out:
            out.write(json.dumps(result, ensure_ascii=False) + "\n")


def measure(
    model: PreTrainedModel, tokenizer: Any, evaluated: Sequence[Pair], validation: Sequence[Batch]
) -> dict[str, Any]:
    """Agreement with what the uncompressed model writes, and the loss on validation pairs."""
    made = translation_quality(model, tokenizer, evaluated)
    pairs = list(zip(made.hypotheses, evaluated, strict=True))
    return {
        "same_sentences": share(h == target for h, (_, target) in pairs),
        "chrf": made.scores["chrf"],
        "validation_loss": mean_loss(model, validation),
        "text_kept": share(h.replace(MARK, "") == source for h, (source, _) in pairs),
        "words_marked_once": share(word.count(MARK) == 1 for h in made.hypotheses for word in words_to_mark(h)),
        "first": made.hypotheses[0],
    } | made.protocol


def sentences(pages: Path) -> Iterator[str]:
    """Whole sentences of 40 to 90 lower-case Russian letters, which leave room for marks in what is generated."""
    for page in sorted(pages.rglob("*.html")):
        for text in paragraphs(page).values():
            for sentence in re.split(r"(?<=[.!?])\s+", text.lower()):
                if re.fullmatch(rf"[{LETTERS} ,:—-]{{40,90}}\.", sentence):
                    yield sentence


def write_pairs(file: Path, weights: Path, found: list[str]) -> None:
    """A file of `SENTENCES` of those found, and what the uncompressed model makes of each."""
    chosen = random.Random(CALIBRATION.seed).sample(found, SENTENCES)
    marked = translation_quality(*load(weights), [(sentence, sentence) for sentence in chosen]).hypotheses
    pairs: list[Pair] = list(zip(chosen, marked, strict=True))
    file.write_text("".join(f"{source}\t{target}\n" for source, target in pairs), encoding="utf-8")


def words_to_mark(text: str) -> list[str]:
    """Those of two vowels or more; `ё` is always stressed, and takes no mark."""
    words = re.findall(rf"[{LETTERS}{MARK}-]+", text)
    return [word for word in words if "ё" not in word and sum(map(word.count, VOWELS)) > 1]


def share(held: Iterator[bool]) -> float:
    values = list(held)
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
