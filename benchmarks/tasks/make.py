"""Make the questions of the tasks in this folder, from the BIG-bench tasks that `bigbench` 1.0.0 on PyPI carries.

    python benchmarks/tasks/make.py [--sdist bigbench-1.0.0.tar.gz]

Without `--sdist`, pip downloads it (358 MB).  The questions go to `benchmarks/tasks/data`, which git ignores.  The
tasks' canary says that their data is never to be in a training corpus: they are for evaluation alone, and these files
are neither committed nor named by anything that trains.

Each question is a line `{context, choices, gold}`: the likelihood of each choice behind the context is compared.  Where
the original names its choices by letters, the sentences themselves are the choices, which a small model can tell apart.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
MOST = 1000
"""Questions of a task; of larger ones so many are drawn."""

Question = dict[str, Any]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sdist", type=Path)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(options.sdist or download(Path(folder)))


def download(folder: Path) -> Path:
    """The source distribution, by pip."""
    asked = ["download", "--no-deps", "--no-binary", "bigbench", "--dest", folder]
    subprocess.run([sys.executable, "-m", "pip", *asked, "bigbench==1.0.0"], check=True)
    return next(folder.glob("bigbench-*.tar.gz"))


def write(sdist: Path) -> None:
    DATA.mkdir(exist_ok=True)
    with tarfile.open(sdist) as archive:
        for member in archive:
            folder = member.name.partition("/benchmark_tasks/")[2].removesuffix("/task.json")
            if folder in TASKS and member.name.endswith("/task.json"):
                name, make = TASKS[folder]
                file = archive.extractfile(member)
                assert file is not None
                questions = drawn([make(*parts_of(example)) for example in json.load(file)["examples"]])
                path = DATA / f"{name}.jsonl"
                path.write_text("".join(json.dumps(question) + "\n" for question in questions))
                print(f"{path}: {len(questions)} questions, {path.stat().st_size:,} bytes")


def drawn(questions: list[Question]) -> list[Question]:
    """At most `MOST`, in their order."""
    chosen = sorted(random.Random(0).sample(range(len(questions)), min(MOST, len(questions))))
    return [questions[number] for number in chosen]


def parts_of(example: dict[str, Any]) -> tuple[str, list[str], int]:
    """What is asked, the choices, and which is right."""
    scores = list(example["target_scores"].values())
    return example["input"], list(example["target_scores"]), scores.index(max(scores))


def question(context: str, choices: list[str], gold: int) -> Question:
    return {"context": context, "choices": choices, "gold": gold}


def sentences(_: str, choices: list[str], gold: int) -> Question:
    """Which of two sentences makes sense: the choices are all there is."""
    return question("", choices, gold)


def ordered_adjectives(asked: str, choices: list[str], gold: int) -> Question:
    """The two sentences, which the original calls a and b."""
    found = [text.strip() for text in re.findall(r'"([^"]*)"', asked)]
    assert len(found) == 2, asked
    assert choices == ["a", "b"], choices
    return question("", found, gold)


def steps(asked: str, choices: list[str], gold: int) -> Question:
    return question(asked.strip(), [f" {choice.strip()}" for choice in choices], gold)


def yes_or_no(asked: str, choices: list[str], gold: int) -> Question:
    return question(f"Q: {asked}\nA:", [f" {choice}" for choice in choices], gold)


def likenesses(asked: str, choices: list[str], gold: int) -> Question:
    context = f"Q: Tell me how an apple and a banana are alike.\nA: Both are fruit.\nQ: {asked}\nA:"
    return question(context, [f" {choice}" for choice in choices], gold)


def dialogues(asked: str, choices: list[str], gold: int) -> Question:
    """The dialogue from its gap on, filled with each choice."""
    dialogue = asked.partition("Context:")[2].strip()
    before, _, after = dialogue.partition("<MASK>")
    return question(before.rstrip(), [f" {choice.strip()}{after}" for choice in choices], gold)


TASKS: dict[str, tuple[str, Callable[[str, list[str], int], Question]]] = {
    "hyperbaton": ("hyperbaton", ordered_adjectives),
    "timedial": ("timedial", dialogues),
    "goal_step_wikihow/step_inference": ("step_inference", steps),
    "cause_and_effect/one_sentence_no_prompt": ("cause_and_effect", sentences),
    "strategyqa": ("strategyqa", yes_or_no),
    "similarities_abstraction": ("similarities_abstraction", likenesses),
}
"""The folder of each task in the package, its name here, and how its questions are made."""


if __name__ == "__main__":
    main()
