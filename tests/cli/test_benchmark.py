"""`neuromeld benchmark` as a user meets it."""

import json
import math
import sys
from xml.etree import ElementTree

import pytest
import yaml

from neuromeld import compress, parse_recipe
from neuromeld.checkpoint.source import locate
from neuromeld.cli import main
from neuromeld.data.text import token_windows
from neuromeld.evaluation import perplexity
from neuromeld.recovery import parse_recovery, recover
from vocabularies import save_byte_level

ROWS = {
    "ffn": {"fit": "ffn.size", "recipe": {"ffn": {"selector": "mean_abs_activation"}}},
    "principal": {"recipe": {"width": {"hidden_size": 16}}},
    "drop": {"fit": "drop_layers.count", "recipe": {}},
    "slicegpt": {"slicegpt": {}},
    "planner": {"planner": "stock"},
}


@pytest.fixture
def cli(capsys, monkeypatch, checkpoint, text, tmp_path):
    def run(*arguments: object, rows=ROWS, keep=(0.8, 0.7)) -> tuple[int, str, str]:
        grid = {"models": [str(checkpoint)], "keep": list(keep), "data": text, "evaluation_tokens": 640,
                "calibration_tokens": 1024, "seqlen": 32, "rows": rows}  # fmt: skip
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(grid, sort_keys=False))
        monkeypatch.setattr(sys, "argv", ["neuromeld", "benchmark", *map(str, [path, *arguments])])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return run


def test_every_row_is_measured_once_and_kept(cli, tmp_path):
    code, stdout, stderr = cli("--json")
    assert code == 0, stderr
    found = json.loads(stdout)["results"]
    names = [(line["row"], line.get("keep")) for line in found]
    fitted = [(name, keep) for keep in (0.8, 0.7) for name in ("ffn", "drop", "slicegpt", "planner")]
    assert names == [("dense", None), *fitted, ("principal", None)]
    dense = found[0]["scores"]["perplexity"]
    for line in found:
        assert line["kept_ratio"] <= line.get("keep", 1)
        assert line["excess_loss"] == pytest.approx(math.log(line["scores"]["perplexity"] / dense))
        assert line["versions"].keys() == {"neuromeld", "torch", "transformers"}
        assert ("candidates" in line) == (line["row"] == "planner")
    path = tmp_path / "results" / "tiny.jsonl"
    written = path.read_text()
    assert [json.loads(text)["row"] for text in written.splitlines()] == [name for name, _ in names]
    code, again, _ = cli("--json")
    assert json.loads(again)["results"] == found
    assert path.read_text() == written
    drawing = ElementTree.parse(path.with_suffix(".svg")).getroot()
    said = [text for element in drawing.iter() for text in [element.text or ""]]
    assert set(ROWS) <= set(said)
    assert "% of the parameters kept" in said


def test_a_number_is_that_of_the_checkpoint_that_compress_writes(cli, checkpoint, text, tmp_path):
    _, stdout, _ = cli("--json", "--rows", "principal")
    line = json.loads(stdout)["results"][1]
    calibration = {"source": text, "tokens": 1024, "seqlen": 32, "passes": "own"}
    recipe = parse_recipe({"width": {"hidden_size": 16}, "calibration": calibration})
    result = compress(str(checkpoint), recipe, tmp_path / "out")
    source = locate(str(tmp_path / "out"))
    windows = token_windows(text, source.tokenizer(), split="evaluation", num_tokens=640, seqlen=32)
    expected = perplexity(source.load(None, "cpu"), windows).perplexity
    assert line["scores"]["perplexity"] == pytest.approx(expected, rel=1e-5)
    assert line["parameters"] == result.record["parameters_after"]
    assert line["recipe"] == json.loads(json.dumps(recipe.model_dump(exclude_none=True)))


def test_rows_with_other_tokens_are_measured_with_these_on_the_same_text(cli, tmp_path):
    text = save_byte_level(tmp_path / "model")
    changes = ("--set", f"models=[{tmp_path / 'model'}]", "--set", f"data={text}")
    rows = {"all": {"vocabulary": {"text": text, "size": 420}}, "fewer": {"vocabulary": {"text": text, "size": 300}}}
    code, stdout, stderr = cli("--json", *changes, rows={name: {"recipe": row} for name, row in rows.items()}, keep=())
    assert code == 0, stderr
    dense, same, fewer = (line["scores"] for line in json.loads(stdout)["results"])
    assert same["bits_per_byte"] == pytest.approx(dense["bits_per_byte"], rel=1e-3)  # but for the edges of windows
    assert same["loss"] == pytest.approx(math.log(dense["perplexity"]), rel=1e-3)
    assert fewer.keys() == same.keys() == {"loss", "bits_per_byte"}
    assert fewer["loss"] / same["loss"] == pytest.approx(fewer["bits_per_byte"] / same["bits_per_byte"], rel=0.01)
    excess = [line["excess_loss"] for line in json.loads(stdout)["results"][1:]]
    assert excess == [pytest.approx(row["loss"] - math.log(dense["perplexity"])) for row in (same, fewer)]


TUNING = {"steps": 4, "batch_tokens": 128, "learning_rate": 0.001, "bf16": False}


def test_recovered_rows_are_those_of_compress_and_recover(cli, checkpoint, text, tmp_path):
    """Also where FFNs share their weights: ties are kept in memory as in a file."""
    rows = ROWS | {"merged": {"recipe": {"share_ffns": {"window": [0, 1]}}}}
    del rows["slicegpt"]
    arguments = ("--json", "--rows", "merged;ffn", "--set", f"recovery={json.dumps(TUNING)}")
    code, stdout, stderr = cli(*arguments, rows=rows, keep=[0.8])
    assert code == 0, stderr
    found = {line["row"]: line for line in json.loads(stdout)["results"]}
    source = locate(str(checkpoint))
    windows = token_windows(text, source.tokenizer(), split="evaluation", num_tokens=640, seqlen=32)
    settings = parse_recovery(TUNING | {"train": text, "seqlen": 32})
    sources = {"dense": checkpoint} | {name: tmp_path / name for name in ("merged", "ffn")}
    for name, folder in sources.items():
        if name != "dense":
            compress(str(checkpoint), parse_recipe(found[name]["recipe"]), folder)
        recover(str(folder), settings, tmp_path / f"{name}-tuned")
        model = locate(str(tmp_path / f"{name}-tuned")).load(None, "cpu")
        tuned = found[name]["recovered"]["scores"]["perplexity"]
        assert tuned == pytest.approx(perplexity(model, windows).perplexity, rel=1e-4)
        assert tuned != pytest.approx(found[name]["scores"]["perplexity"], rel=1e-3)
        ratio = tuned / found["dense"]["recovered"]["scores"]["perplexity"]
        assert found[name]["recovered_loss"] == pytest.approx(math.log(ratio))
    drawing = ElementTree.parse(tmp_path / "results" / "tiny.svg").getroot()
    assert "excess loss after recovery (nats)" in [element.text for element in drawing.iter()]
    _, shown, _ = cli(*arguments[1:], rows=rows, keep=[0.8])
    assert "tuned" in shown


def test_a_dry_run_predicts_and_writes_nothing(cli, tmp_path):
    code, stdout, _ = cli("--dry-run", "--json")
    assert code == 0
    plan = json.loads(stdout)["plan"]
    assert not (tmp_path / "results").exists()
    assert not any(entry["measured"] for entry in plan)
    _, stdout, _ = cli("--json")
    for entry, line in zip(plan, json.loads(stdout)["results"], strict=True):
        assert entry["parameters"] in (line["parameters"], None)
        assert (entry["parameters"] is None) == (line["row"] == "planner")
    _, stdout, _ = cli("--dry-run", "--json")
    assert all(entry["measured"] for entry in json.loads(stdout)["plan"])
    _, table, _ = cli("--dry-run")
    assert "dense" in table


def test_one_budget_is_drawn_as_bars_and_printed_as_a_table(cli, tmp_path):
    out = tmp_path / "here.jsonl"
    code, stdout, stderr = cli("--out", out, "--rows", "ffn;principal", keep=[0.8])
    assert code == 0
    assert "here.svg" in stderr
    assert all(word in stdout for word in ("dense", "ffn", "principal", "excess", "evaluation_tokens 640"))
    drawing = ElementTree.parse(tmp_path / "here.svg").getroot()
    assert len(drawing.findall(".//{*}rect[@class]")) == 2


def test_a_row_that_cannot_be_had_is_said_and_the_others_are_measured(cli):
    rows = {"too small": ROWS["drop"], "principal": ROWS["principal"]}
    code, stdout, stderr = cli("--json", rows=rows, keep=[0.01])
    assert code == 1
    found = json.loads(stdout)
    assert [line["row"] for line in found["results"]] == ["dense", "principal"]
    assert found["refused"][0]["row"] == "too small"
    assert "no drop_layers.count meets a budget of 0.01" in found["refused"][0]["why"]
    assert "too small: refused: no drop_layers.count" in stderr
    code, stdout, _ = cli("--dry-run", rows=rows, keep=[0.01])
    assert "refused" in stdout


def test_keys_of_the_grid_can_be_set(cli):
    _, stdout, _ = cli("--json", "--rows", "ffn", "--set", "keep=[0.9]", "--set", "split=validation")
    dense, line = json.loads(stdout)["results"]
    assert (line["keep"], line["split"], dense["split"]) == (0.9, "validation", "validation")


MISTAKES = {
    "unknown row 'fnn'. Did you mean 'ffn'": ["--rows", "fnn"],
    "--set keep must be KEY=VALUE": ["--set", "keep"],
    "unknown grid key 'kept'. Did you mean 'keep'": ["--set", "kept=[0.9]"],
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_explained(message, cli):
    code, _, stderr = cli(*MISTAKES[message])
    assert code == 2
    assert message in stderr
