"""A job whose weights stay on the disk: the same result, in the memory and on the disk that were predicted."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
)

from cli.commands import CALIBRATION, leftovers
from cli.test_interruption import content, finished_steps, stopped, work
from neuromeld import compress, parse_recipe, plan
from neuromeld.checkpoint import load_model, new_folder, save_checkpoint
from neuromeld.checkpoint.source import locate
from neuromeld.data.calibration import Calibration
from neuromeld.planning.memory import INTERPRETER_BYTES, Footprint
from neuromeld.planning.pipeline import job_of, run_stages
from neuromeld.planning.plan import meta_model
from neuromeld.recovery.memory import footprint_of_layers
from neuromeld.runtime.journal import open_journal

MAPS = Path("/proc/self/maps")
linux_only = pytest.mark.skipif(not MAPS.exists(), reason="only Linux drops pages when it is told to")


def build(folder: Path, *, layers: int = 4, width: int = 64, vocabulary: int = 64, **changes) -> Path:
    """A random Llama in many files, and a tokenizer for the words of `text`."""
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    dtype = changes.pop("dtype", torch.float32)
    config = LlamaConfig(vocab_size=vocabulary, max_position_embeddings=128, **sizes | heads | changes)
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder, max_shard_size=width * width * 48)
    return with_words(folder, vocabulary)


def build_mixture(folder: Path, dtype: torch.dtype) -> Path:
    """A random mixture in many files, each expert by itself, as transformers writes them."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 3, "num_local_experts": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    config = MixtralConfig(vocab_size=64, max_position_embeddings=128, **sizes | heads)
    MixtralForCausalLM(config).to(dtype).save_pretrained(folder, max_shard_size=1 << 17)
    return with_words(folder, 64)


def with_words(folder: Path, vocabulary: int) -> Path:
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocabulary)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w1").save_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return folder


def limit(model: Path, *options: object, cli) -> str:
    """The largest limit at which the weights do not fit."""
    _, out, _ = cli("plan", model, *options, *CALIBRATION, "--json")
    return f"{json.loads(out)['peak_bytes'] - 1}B"


def layer_bytes(model: Path) -> int:
    return sum(value.nbytes for name, value in tensors(model).items() if ".layers.0." in name)


def device_limit(model: Path, *options: object, cli) -> str:
    """The smallest limit of a device: one layer, beside what is worked on."""
    _, out, _ = cli("plan", model, *options, *CALIBRATION, "--json", "--device-memory", "1TB")
    enough = json.loads(out)["on_device"]
    return f"{enough['peak_bytes'] - enough['window_bytes'] + layer_bytes(model)}B"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


STAGES = {
    "merged": ["--ffn-ratio", 0.66, "--ffn-merge", "transport"],
    "deleted": ["--remove-ffns", 1, "--native"],
    "felt": ["--num-kv-heads", 2, "--heads-selector", "taylor", "--ffn-ratio", 0.66, "--ffn-selector", "taylor"],
    "bases": ["--hidden-size", 48, "--hidden-basis", "run:2", "--hidden-refit", "--native"],
    "all": ["--drop-layers", 1, "--num-kv-heads", 2, "--ffn-ratio", 0.66, "--hidden-size", 48],
}

LEARNED = ["--num-kv-heads", 2, "--heads-selector", "learned", "--ffn-ratio", 0.66, "--ffn-selector", "learned"]
"""Half a minute, three times the steps of learning."""


@pytest.mark.parametrize("stages", [*STAGES, pytest.param("learned", marks=pytest.mark.product)])
def test_the_result_is_that_of_a_job_in_memory_bit_for_bit(stages, cli, text, tmp_path, monkeypatch):
    number = list(STAGES).index(stages) if stages in STAGES else 0
    dtype = torch.bfloat16 if number % 2 else torch.float32
    model = build(tmp_path / "model", dtype=dtype, tie_word_embeddings=number % 4 < 2)
    chosen = [*STAGES.get(stages, LEARNED), *([] if number % 4 else ["--passes", "bfloat16"])]
    limits = ["--max-memory", limit(model, *chosen, cli=cli)]
    by_layers = [*limits, "--device-memory", device_limit(model, *chosen, *limits, cli=cli)]
    found = {}
    for name, options in (("plain", []), ("memory_mapped", limits), ("streamed", by_layers)):
        monkeypatch.setenv("NEUROMELD_CACHE", str(tmp_path / name))  # statistics are those of the run itself
        out = tmp_path / f"{name}-out"
        command = ["compress", model, out, *chosen, "--calibration", text, *CALIBRATION, "--no-evaluate"]
        code, _, said = cli(*command, *options)
        assert code == 0, said
        found[name] = content(out)["record.json"], tensors(out)
        assert not work(out).exists()
    on_device = found["streamed"][0].pop("device_memory")
    assert on_device["measured_peak_bytes"] <= on_device["window_bytes"] < layer_bytes(model) + 100
    for record, _ in found.values():
        assert record.pop("memory", {"memory_mapped": True})["memory_mapped"]
        for key in ("bytes_on_disk", "files"):  # not as many files
            assert record.pop(key)
    plain, *others = found.values()
    for other in others:
        assert other[0] == plain[0]
        assert other[1].keys() == plain[1].keys()
        for name, value in plain[1].items():
            assert torch.equal(value, other[1][name]), name


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, ["--ffn-ratio", 0.5, "--num-kv-heads", 2, "--hidden-size", 48]),
        (torch.bfloat16, ["--ffn-ratio", 0.5, "--drop-layers", 1]),
        (torch.float32, ["--ffn-ratio", 0.5, "--dtype", "bfloat16"]),
    ],
)
def test_what_is_converted_as_it_is_read_lies_in_files_too(dtype, options, cli, text, tmp_path, monkeypatch):
    model = build_mixture(tmp_path / "model", dtype)
    monkeypatch.setattr(Footprint, "peak", lambda _: 1 << 40)
    found = []
    for name, limits in (("plain", []), ("limited", ["--max-memory", "1GB"])):
        monkeypatch.setenv("NEUROMELD_CACHE", str(tmp_path / name))
        out = tmp_path / f"{name}-out"
        command = ["compress", model, out, *options, "--calibration", text, *CALIBRATION, "--no-evaluate", *limits]
        code, _, said = cli(*command)
        assert code == 0, said
        found.append(tensors(out))
    record = json.loads((out / "record.json").read_text())
    assert record["memory"]["memory_mapped"]
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        assert torch.equal(value, found[1][key]), key


def test_a_config_of_another_dtype_than_its_files_is_kept_to(cli, text, tmp_path, monkeypatch):
    model = build(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))  # the files hold float32
    monkeypatch.setattr(Footprint, "peak", lambda _: 1 << 40)
    command = ["--ffn-ratio", 0.5, "--calibration", text, *CALIBRATION, "--no-evaluate"]
    for name, limits in (("plain", []), ("limited", ["--max-memory", "1GB"])):
        assert cli("compress", model, tmp_path / name, *command, *limits)[0] == 0
    plain, limited = (tensors(tmp_path / name) for name in ("plain", "limited"))
    assert {value.dtype for value in plain.values()} == {torch.bfloat16}
    assert all(torch.equal(value, limited[name]) for name, value in plain.items())


def test_a_budget_is_met_by_the_same_model_within_limits(cli, text, tmp_path, monkeypatch):
    """Candidates are built in files, and measured with the same losses."""
    model = build(tmp_path / "model", layers=2, num_key_value_heads=2)
    calibration = ["--calibration", text, "--calibration-tokens", 512, "--seqlen", 32, "--no-evaluate"]
    command = ["--keep", 0.75, "--effort", "quick", "--stock", *calibration]
    limits = ["--max-memory", "1GB", "--device-memory", "40MB"]
    monkeypatch.setattr(Footprint, "peak", lambda _: 1 << 40)
    candidates, written = [], []
    for name, options in (("plain", []), ("limited", limits)):
        code, _, said = cli("compress", model, tmp_path / name, *command, *options)
        assert code == 0, said
        record = json.loads((tmp_path / name / "record.json").read_text())
        candidates.append({one["name"]: (one["first_loss"], one["measured_loss"]) for one in record["candidates"]})
        written.append(tensors(tmp_path / name))
    assert record["memory"]["memory_mapped"]
    assert record["device_memory"]["measured_peak_bytes"] <= record["device_memory"]["window_bytes"]
    assert candidates[0] == candidates[1]
    assert sum(first is not None for first, _ in candidates[0].values()) > 1
    assert all(torch.equal(value, written[1][name]) for name, value in written[0].items())


NEARLY_NOTHING = f"{INTERPRETER_BYTES // 10**6 + 15}MB"
"""Less than the tiny models take with their weights in memory."""

JOBS = """
import json, sys
from neuromeld import compress, parse_recipe
for model, recipe, out, most in json.loads(sys.argv[1]):
    record = compress(model, parse_recipe(recipe), out, evaluate=False, max_memory=most).record
    print(json.dumps(record))
"""


def records_of(code: str, jobs: list[list[object]]) -> list[dict[str, object]]:
    """What a process prints that does these jobs one after the other, and nothing before."""
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(jobs)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@linux_only
def test_memory_grows_by_far_less_than_the_weights(text, tmp_path):
    """In a process that has done nothing else, first with few layers, then with many."""
    recipe = {"ffn": {"ratio": 0.5}, "calibration": {"source": text, "tokens": 1024, "seqlen": 32}}
    jobs = []
    for layers in (2, 14):
        model = build(tmp_path / str(layers), layers=layers, width=512, head_dim=256, intermediate_size=256)
        most = plan(str(model), parse_recipe(recipe)).peak_bytes - 1
        jobs.append([str(model), recipe, f"{model}-out", most])
    peaks, sizes = [], []
    for record in records_of(JOBS, jobs):
        assert record["memory"]["memory_mapped"]
        peaks.append(record["peak_rss_bytes"])
        sizes.append(record["bytes_on_disk_before"])
        assert record["peak_rss_bytes"] == pytest.approx(record["memory"]["predicted"]["peak_rss_bytes"], rel=0.15)
    assert sizes[1] - sizes[0] > 115e6
    assert peaks[1] - peaks[0] < 0.25 * (sizes[1] - sizes[0])


LAYERS_ALONE = """
import json, sys
from neuromeld.recovery import parse_recovery, recover
for model, small, train, out, most in json.loads(sys.argv[1]):
    stated = {"train": train, "original": model, "layerwise_tokens": 1024, "seqlen": 32, "bf16": False}
    print(json.dumps(recover(small, parse_recovery(stated), out, max_memory=most).record["recovery"]))
"""


@linux_only
def test_memory_of_layers_trained_alone_grows_by_far_less_than_the_weights(text, tmp_path):
    """In a process that has done nothing else, first with few layers, then with many."""
    recipe = {"ffn": {"ratio": 0.5}, "calibration": {"source": text, "tokens": 1024, "seqlen": 32}}
    jobs, sizes = [], []
    for layers in (2, 14):
        model, small = tmp_path / str(layers), tmp_path / f"{layers}-small"
        build(model, layers=layers, width=512, head_dim=256, intermediate_size=256)
        compress(str(model), parse_recipe(recipe), small, evaluate=False)
        data, sources = Calibration(tokens=1024, seqlen=32), [locate(model), locate(small)]
        sizes.append(sum(source.bytes_on_disk() for source in sources))
        most = footprint_of_layers(meta_model(sources[0].config()), sizes[-1], data).peak() - 1
        jobs.append([str(model), str(small), text, f"{model}-out", most])
    records = records_of(LAYERS_ALONE, jobs)
    assert all(record["memory_mapped"] for record in records)
    assert sizes[1] - sizes[0] > 200e6
    assert records[1]["peak_rss_bytes"] - records[0]["peak_rss_bytes"] < 0.25 * (sizes[1] - sizes[0])


@linux_only
def test_the_disk_is_used_as_predicted(tmp_path, monkeypatch):
    model = build(tmp_path / "model", layers=6)
    recipe = parse_recipe({"ffn": {"ratio": 0.5}, "calibration": {"tokens": 4096, "seqlen": 64}})
    planned = plan(str(model), recipe, max_memory=plan(str(model), recipe).peak_bytes - 1)
    assert planned.memory_mapped
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(64, (4096 // 64, 64), generator=generator)
    out, used = tmp_path / "out", []

    def measure(_: int) -> None:
        kept = sum(file.stat().st_size for file in work(out).iterdir() if file.is_file())
        spans = [line.split()[0].split("-") for line in MAPS.read_text().splitlines() if "(deleted)" in line]
        used.append(kept + sum(int(end, 16) - int(start, 16) for start, end in spans))

    with open_journal(out) as journal:
        journal.memory_mapped = True
        live = load_model(model, dtype=None, device="cpu", scratch=tmp_path)
        job = job_of(live, planned, [{"input_ids": rows} for rows in ids.split(4)])
        job.journal = journal
        monkeypatch.setattr("neuromeld.stages.sublayer_stage.track", lambda *_, **__: nullcontext(measure))
        run_stages(job, planned)
        live.config.intermediate_size = planned.after.ffn[0]
        with new_folder(out, force=False, beside=journal.folder) as folder:
            save_checkpoint(
                live, PreTrainedTokenizerFast.from_pretrained(model), folder, recipe_yaml=None, memory_mapped=True
            )
    used[-1] += sum(file.stat().st_size for file in out.glob("*.safetensors"))
    assert max(used) == pytest.approx(planned.disk_bytes, rel=0.15)


def test_a_memory_that_is_too_small_is_refused_with_one_that_is_not(cli, tmp_path):
    model = build(tmp_path / "model", layers=12, width=128)
    options = ["plan", model, "--ffn-ratio", 0.5, *CALIBRATION, "--json", "--max-memory"]
    code, _, said = cli(*options, "100MB")
    assert code == 2
    smallest = int(re.search(r"smallest that works is --max-memory (\d+)MB", said.replace("\n", " "))[1])
    assert smallest > INTERPRETER_BYTES / 1e6
    code, out, _ = cli(*options, f"{smallest}MB")
    assert code == 0
    assert json.loads(out)["memory_mapped"]
    assert json.loads(out)["peak_bytes"] <= smallest * 1e6
    assert cli(*options, f"{smallest - 1}MB")[0] == 2
    _, out, _ = cli(*options, "8GiB")
    assert not json.loads(out)["memory_mapped"]


def test_what_cannot_stay_on_the_disk_is_refused_by_name(cli, tmp_path):
    model = build(tmp_path / "model", layers=12, width=128)
    cases = {
        "share_ffns holds": ["--share-ffns", 2],
        "builds the candidates of a budget": ["--keep", 0.8],
        "smallest that works is --device-memory": ["--ffn-ratio", 0.5, "--device-memory", "1MB"],
        "must be a size": ["--ffn-ratio", 0.5, "--max-memory", "lots"],
    }
    for message, options in cases.items():
        code, _, said = cli("plan", model, "--max-memory", NEARLY_NOTHING, *options, *CALIBRATION)
        assert code == 2, message
        assert message in " ".join(said.split())


@pytest.mark.parametrize(
    ("event", "pattern", "before"),
    [
        ("os.rename", r"neurons-2\.safetensors$", "memory_mapped"),
        ("os.rename", r"residual-1\.safetensors$", "plain"),
        ("open", r"record\.json$", "memory_mapped"),
    ],
)
def test_killed_it_goes_on_to_the_same_bits(event, pattern, before, cli, text, tmp_path):
    """Also where the weights were in memory before that."""
    model = build(tmp_path / "model")
    stages = STAGES["all"]
    command = ["compress", model, tmp_path / "out", *stages, "--calibration", text, *CALIBRATION, "--no-evaluate"]
    memory_mapped = ["--max-memory", limit(model, *stages, cli=cli)]
    code, said = stopped(
        event, pattern, signal.SIGKILL, *command, *(memory_mapped if before == "memory_mapped" else [])
    )
    assert code == -signal.SIGKILL, said
    done = finished_steps(tmp_path / "out")
    assert done > 0
    assert cli(*command, *memory_mapped)[0] == 0
    undisturbed = tmp_path / "undisturbed"
    assert cli(*command[:2], undisturbed, *command[3:], *memory_mapped)[0] == 0
    assert json.loads((tmp_path / "out" / "record.json").read_text())["steps_recalled"] == done
    assert content(tmp_path / "out") == content(undisturbed)
    assert sorted(leftovers(tmp_path)) == ["model", "out", "undisturbed"]
