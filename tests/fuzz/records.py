"""`record.json`, results and the work folders of unfinished jobs, damaged or of other versions."""

import json

from fuzz.case import CHEAP, TEXT, Case, Scene, compression
from fuzz.damage import TEXTS, damage_file, damage_json
from neuromeld.runtime.workspace import MARKER

LINE = {"row": "dense", "model": "model", "perplexity": 9.0, "parameters": 9, "text": "file:words.jsonl", "seqlen": 32}
GRID = """models: [model]
text: file:words.jsonl
seqlen: 32
evaluation_tokens: 64
rows: {drop: {recipe: {drop_layers: {count: 1}}}}
"""


def case(scene: Scene) -> Case:
    """A report, a measurement or a job that goes on, from what is damaged."""
    way = scene.draw.random()
    return _record(scene) if way < 0.6 else _work_folder(scene) if way < 0.85 else _results(scene)


def _record(scene: Scene) -> Case:
    draw = scene.draw
    folder = scene.take("small")
    path = folder / "record.json"
    if draw.random() < 0.2:
        record = json.loads(path.read_text()) | {draw.choice(("source", "model_type", "format")): draw.choice(TEXTS)}
        path.write_text(json.dumps(record))
    else:
        damage_json(draw, path)
    if draw.random() < 0.8:
        return Case(
            ["report", "small", *draw.choice(([], ["--out", "page.html"]))], writes=("small/report.html", "page.html")
        )
    scene.take("model")
    scene.take("words.jsonl")
    options = ["--text", "file:words.jsonl", "--tokens", "64", "--seqlen", "32", "--save"]
    return Case(["evaluate", "model", "small", *options], writes=("small",))


def _work_folder(scene: Scene) -> Case:
    """A folder where the job keeps what it has done: strange, damaged, of another job, or somebody's."""
    draw = scene.draw
    scene.take("model")
    scene.take("words.jsonl")
    work = scene.here / ".out.work"
    way = draw.randrange(6)
    if way == 0:
        work.write_text("a file")
        return compression("model", *CHEAP, *TEXT)
    work.mkdir()
    if draw.random() < 0.8:
        (work / MARKER).touch()
    identity = [{"command": "compress", "version": "0.0.0"}]
    (work / "identity.json").write_text(json.dumps(identity))
    (work / "neurons-1.safetensors").write_bytes(draw.randbytes(60))
    if way in (1, 2):
        damage_json(draw, work / "identity.json")
    elif way == 3:
        damage_file(draw, work / "neurons-1.safetensors")
    elif way == 4:
        (work / "identity.json").unlink()
        (work / "neurons-1.safetensors").unlink()
        (work / "mine.txt").write_text("precious")  # somebody's: it may not be touched
        case = compression("model", *CHEAP, *TEXT)
        return Case(case.command, writes=("out",))
    force = draw.choice(([], ["--force"]))
    command = ["compress", "model", "out", "--ffn-ratio", "0.7", "--no-evaluate", *TEXT, *force]
    # a damaged or foreign run is either named, and stays, or discarded
    return Case(command, writes=("out", ".out.work"), keeps=(".out.work",), result=("out", "AutoModelForCausalLM"))


def _results(scene: Scene) -> Case:
    draw = scene.draw
    scene.take("model")
    scene.take("words.jsonl")
    (scene.here / "grid.yaml").write_text(GRID)
    path = scene.here / "results" / "grid.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps(LINE) + "\n")
    damage_json(draw, path) if draw.random() < 0.6 else damage_file(draw, path)
    return Case(["benchmark", "grid.yaml", "--dry-run", *draw.choice(([], ["--json"]))])
