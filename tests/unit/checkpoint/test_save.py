import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from neuromeld.checkpoint import save_checkpoint, save_record, verify_checkpoint
from neuromeld.errors import CheckpointError
from unit.checkpoint.tiny import (
    IDS,
    RECIPE,
    STOCK_CONFIGS,
    build_stock,
    build_tokenizer,
    cast,
    logits_of,
    names,
    narrow,
    write,
)

FAMILIES = sorted(STOCK_CONFIGS)


def test_what_a_stock_folder_holds(folder, llama):
    save_record(folder, {"source": "x", "parameters_after": 3}, card="# card\n")
    assert names(folder) == [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "recipe.yaml",
        "record.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (folder / "recipe.yaml").read_text() == RECIPE
    assert (folder / "README.md").read_text() == "# card\n"
    assert json.loads((folder / "record.json").read_text()) == {"source": "x", "parameters_after": 3}
    config = json.loads((folder / "config.json").read_text())
    plain = llama.config.to_dict() | {"architectures": ["LlamaForCausalLM"], "dtype": "float32"}
    older = {"rope_theta": 10000.0, "rope_scaling": None, "torch_dtype": "float32"}  # for transformers 4
    assert config.keys() <= plain.keys() | older.keys()
    assert {key: config[key] for key in older} == older
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert AutoTokenizer.from_pretrained(folder)("w5")["input_ids"] == [5]


@pytest.mark.parametrize("size", ["4KB", "5GB"])
@pytest.mark.parametrize("build", [build_stock, narrow])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_written_a_shard_at_a_time_are_laid_out_as_transformers_does(family, build, size, tmp_path):
    model = build(family)
    ours, theirs = (
        write(model, tmp_path / name, max_shard_size=size, memory_mapped=memory_mapped)
        for name, memory_mapped in (("ours", True), ("theirs", False))
    )
    assert names(ours) == names(theirs)
    for name in names(theirs):
        if name.endswith(".json"):
            assert json.loads((ours / name).read_text()) == json.loads((theirs / name).read_text())
        else:
            assert (ours / name).read_bytes() == (theirs / name).read_bytes()


def test_no_path_of_this_machine_is_written(llama, tmp_path):
    source = write(llama, tmp_path / "source")
    model = type(llama).from_pretrained(source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    copy = tmp_path / "copy"
    copy.mkdir()
    save_checkpoint(model, tokenizer, copy, recipe_yaml=RECIPE)
    assert not [path.name for path in copy.iterdir() if str(tmp_path).encode() in path.read_bytes()]


def test_code_of_the_original_checkpoint_is_not_referred_to(llama, tmp_path):
    llama.config.auto_map = {"AutoModelForCausalLM": "modeling_theirs.Model"}
    folder = write(llama, tmp_path / "out")
    assert "auto_map" not in json.loads((folder / "config.json").read_text())


def test_what_a_native_folder_adds(tmp_path):
    folder = write(narrow("gpt2"), tmp_path / "native")
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "neuromeld-gpt2"
    assert config["neuromeld"]["widths"] == {"residual": 8}
    assert config["auto_map"] == {
        "AutoConfig": "modeling_neuromeld.NeuromeldGPT2Config",
        "AutoModel": "modeling_neuromeld.NeuromeldGPT2Model",
        "AutoModelForCausalLM": "modeling_neuromeld.NeuromeldGPT2LMHeadModel",
    }
    code = (folder / "modeling_neuromeld.py").read_text()
    assert "from neuromeld" not in code
    assert "import neuromeld" not in code


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("native", [False, True])
def test_tied_weights_are_stored_once(family, native, tmp_path):
    model = narrow(family) if native else build_stock(family)
    folder = write(model, tmp_path / "out")
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        names = list(file.keys())
        stored = sum(file.get_tensor(name).numel() for name in names)
    assert stored == sum(p.numel() for p in model.parameters())
    assert "lm_head.weight" not in names


def test_big_models_are_sharded(llama, tmp_path):
    folder = write(llama, tmp_path / "out", max_shard_size="4KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {path.name for path in folder.glob("model-*.safetensors")}
    assert verify_checkpoint(folder, logits_of(llama), {"input_ids": IDS}, dtype=torch.float32) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_verify_accepts_what_was_saved(dtype, tmp_path):
    model = cast(build_stock("llama"), dtype)
    folder = write(model, tmp_path / "out")
    assert verify_checkpoint(folder, logits_of(model), {"input_ids": IDS}, dtype=dtype) == 0


def test_verify_refuses_a_corrupted_weight(folder, llama):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.2.mlp.down_proj.weight"][3] *= 1.01
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"not the model that was saved: its logits differ by \d\.\d\de-0\d"):
        verify_checkpoint(folder, logits_of(llama), {"input_ids": IDS}, dtype=torch.float32)


def test_verify_refuses_another_dtype_and_nan(folder, llama):
    with pytest.raises(CheckpointError, match=r"loads as torch.float32, but the model that was saved is torch.float16"):
        verify_checkpoint(folder, logits_of(llama), {"input_ids": IDS}, dtype=torch.float16)
    with pytest.raises(CheckpointError, match="differ by nan"):
        verify_checkpoint(folder, logits_of(llama) * float("nan"), {"input_ids": IDS}, dtype=torch.float32)


def test_a_tokenizer_is_written_whole(folder):
    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded.get_vocab() == build_tokenizer().get_vocab()
    assert loaded.special_tokens_map == build_tokenizer().special_tokens_map
    assert loaded.chat_template == build_tokenizer().chat_template
