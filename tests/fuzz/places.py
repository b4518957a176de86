"""Where model, output and settings lie to each other; the law is that nothing of a stranger's changes."""

import json
import os
from pathlib import Path
from random import Random

from fuzz.case import CHEAP, TEXT, Case, Scene
from fuzz.damage import TEXTS

QUICK_TRAINING = ["--train", "file:words.jsonl", "--steps", "1", "--seqlen", "32", "--batch-tokens", "32", "--no-bf16"]


def case(scene: Scene) -> Case:
    """A compression or a recovery whose output is somewhere it should not be, with and without --force."""
    draw = scene.draw
    model = scene.take("model")
    scene.take("words.jsonl")
    place = draw.choice(sorted(PLACES))
    out, may_be_written = PLACES[place](draw, scene, model)
    force = draw.choice(([], ["--force"], ["--force"]))
    taken = os.path.lexists(scene.here / out)  # a name that is too long is not there
    written = (out, "b") if may_be_written and (force or not taken) else ()
    if draw.random() < 0.15:
        return Case(["recover", "model", out, *QUICK_TRAINING, *force], writes=written)
    return Case(["compress", "model", out, *CHEAP, *TEXT, *force], writes=written)


def _same(_draw: Random, _scene: Scene, _model: Path) -> tuple[str, bool]:
    return "model", False


def _same_otherwise(draw: Random, _scene: Scene, _model: Path) -> tuple[str, bool]:
    return draw.choice(("./model", "model/", "model/../model", "../here/model")), False


def _parent(draw: Random, scene: Scene, _model: Path) -> tuple[str, bool]:
    if draw.random() < 0.5:
        scene.take("model/config.json", "config.json")
    return draw.choice((".", "..", "../here")), False


def _child(draw: Random, _scene: Scene, _model: Path) -> tuple[str, bool]:
    return draw.choice(("model/out", "model/a/b")), False


def _link_to_model(draw: Random, scene: Scene, _model: Path) -> tuple[str, bool]:
    (scene.here / "out").symlink_to(draw.choice(("model", "./model", "../here/model")))
    return "out", False


def _link(draw: Random, scene: Scene, _model: Path) -> tuple[str, bool]:
    scene.take("small", "theirs")
    (scene.here / "out").symlink_to(draw.choice(("theirs", "none", "out", "words.jsonl")))
    return "out", False


def _linked_parent(_draw: Random, scene: Scene, _model: Path) -> tuple[str, bool]:
    (scene.here / "b").mkdir()
    (scene.here / "c").symlink_to("b")
    return "c/out", True  # beside what the user has there, as through any other path


def _file(draw: Random, scene: Scene, _model: Path) -> tuple[str, bool]:
    (scene.here / "f").write_text("precious")
    return draw.choice(("f", "f/out", "words.jsonl")), False


def _stranger(draw: Random, scene: Scene, _model: Path) -> tuple[str, bool]:
    """A folder of somebody's, that may look like a checkpoint."""
    folder = scene.here / "out"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "work.txt").write_text("precious")
    if draw.random() < 0.7:
        (folder / "config.json").write_text(json.dumps({"name": "site", "model_type": "llama"}))
    if draw.random() < 0.4:
        scene.take("model/model.safetensors", "out/model.safetensors")
    if draw.random() < 0.3:
        (folder / "record.json").write_text(draw.choice(("{}", "[]", '{"songs": 3}')))
    return "out", False


def _own_with_more(draw: Random, scene: Scene, _model: Path) -> tuple[str, bool]:
    """What this program wrote, with something of the user's in it."""
    folder = scene.take("small", "out")
    name = draw.choice(("notes.txt", "a/notes.txt", ".git/HEAD", "é.md"))
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("precious")
    return "out", False


def _own(_draw: Random, scene: Scene, _model: Path) -> tuple[str, bool]:
    scene.take("small", "out")
    return "out", True


def _work_link(draw: Random, scene: Scene, _model: Path) -> tuple[str, bool]:
    """The folder for unfinished work leads to somebody's."""
    home = scene.here / "home"
    home.mkdir()
    (home / "mine.txt").write_text("precious")
    (scene.here / ".out.work").symlink_to(draw.choice(("home", "model", "none")))
    return "out", True


def _strange_name(draw: Random, _scene: Scene, _model: Path) -> tuple[str, bool]:
    # a number, an empty name and what begins with a dash are other arguments than a new folder
    return draw.choice([text for text in TEXTS if text.strip() and text[0] not in "-~" and "/" not in text]), True


def _unfinished(_draw: Random, scene: Scene, _model: Path) -> tuple[str, bool]:
    """Somebody's neighbours with names as this program gives them."""
    (scene.here / ".out.partial").mkdir()
    (scene.here / ".out.partial" / "mine.txt").write_text("precious")
    return "out", True


PLACES = {
    "same": _same,
    "same otherwise": _same_otherwise,
    "parent": _parent,
    "child": _child,
    "link to model": _link_to_model,
    "link": _link,
    "linked parent": _linked_parent,
    "file": _file,
    "stranger": _stranger,
    "own with more": _own_with_more,
    "own": _own,
    "work link": _work_link,
    "strange name": _strange_name,
    "unfinished": _unfinished,
}
