"""What lies beside a model comes along, or is named."""

import json

import pytest

from neuromeld.checkpoint.card import render_card
from neuromeld.checkpoint.companions import card_facts, check_companions, copy_companions, find_companions
from neuromeld.errors import CheckpointError, UnsupportedModelError

SAME = {"width": (12, 12), "layers": (3, 3)}

ALONG = [
    "LICENSE",
    "LICENSE.md",
    "NOTICE.txt",
    "USE_POLICY.md",
    "chat_template.jinja",
    "config_sentence_transformers.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "sentence_bert_config.json",
    "spiece.model",
    "tokenizer.model",
    "vocab.txt",
]
NOT_ALONG = [
    ".gitattributes",
    "README.md",
    "config.json",
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "optimizer.pt",
    "pytorch_model.bin",
    "record.json",
    "tf_model.h5",
    "trainer_state.json",
]


def modules(folder, *kinds: tuple[str, str], package: str = "sentence_transformers.models"):
    stated = [
        {"idx": i, "name": str(i), "path": path, "type": f"{package}.{kind}"} for i, (kind, path) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(stated))
    for _, path in kinds:
        (folder / path).mkdir(exist_ok=True)
    return folder


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ALONG + NOT_ALONG:
        (folder / name).write_text(name)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("rag")
    return folder


def test_every_file_comes_along_but_other_forms_of_the_weights(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "vocab.txt").write_text("as it was saved")
    copy_companions(source, out)
    assert sorted(path.name for path in out.iterdir()) == sorted([*ALONG, "additional_chat_templates"])
    assert (out / "vocab.txt").read_text() == "as it was saved"
    assert (out / "additional_chat_templates" / "rag.jinja").read_text() == "rag"
    assert (out / "LICENSE").read_text() == "LICENSE"


def test_what_stays_behind_is_named(source):
    (source / "onnx").mkdir()
    (source / "modeling_own.py").touch()
    (warning,) = check_companions(source, **SAME)
    assert "modeling_own.py, onnx/" in warning


def test_poolings_follow_the_width(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir(), out.mkdir()
    modules(source, ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
    pooling = {"word_embedding_dimension": 12, "pooling_mode_cls_token": True}
    (source / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    assert check_companions(source, width=(12, 8), layers=(3, 2)) == []
    copy_companions(source, out, width=8)
    assert json.loads((out / "1_Pooling" / "config.json").read_text()) == pooling | {"word_embedding_dimension": 8}
    assert (out / "modules.json").read_bytes() == (source / "modules.json").read_bytes()


@pytest.mark.parametrize("kind", ["Dense", "LayerNorm", "LSTM", "CNN", "WordWeights", "WeightedLayerPooling"])
def test_a_module_with_weights_comes_along_where_the_width_stays(kind, source):
    modules(source, ("Transformer", ""), (kind, "2_Own"))
    (source / "2_Own" / "model.safetensors").touch()
    assert check_companions(source, **SAME) == []
    assert "2_Own" in find_companions(source).copied
    with pytest.raises(UnsupportedModelError, match=rf"{kind} \(2_Own\).* width of 12, not of 8"):
        check_companions(source, width=(12, 8), layers=(3, 3))


def test_a_module_that_weighs_layers_wants_them_all(source):
    modules(source, ("Transformer", ""), ("WeightedLayerPooling", "1_Own"))
    with pytest.raises(UnsupportedModelError, match="weighs all 3 layers"):
        check_companions(source, width=(12, 12), layers=(3, 2))


def test_a_module_with_code_of_its_own_is_refused(source):
    modules(source, ("Transformer", ""), package="custom_st")
    with pytest.raises(UnsupportedModelError, match=r"custom_st\.Transformer, whose code"):
        check_companions(source, **SAME)


@pytest.mark.parametrize(
    "content", ["{", "3", "{}x", "[1]", '[{"path": 1}]', '[{"path": "../x", "type": "y"}]', "[" * 10**5]
)
def test_a_damaged_list_of_modules(content, source):
    (source / "modules.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"modules\.json"):
        check_companions(source, **SAME)


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("---\nlicense: mit\nbase_model: a/b\ntags: [x]\n---\n# x", {"license": "mit", "base_model": "a/b"}),
        ("---\nlicense: other\nlicense_link: l\nbase_model:\n- a/b\n- c/d\n---\n", {
            "license": "other", "license_link": "l", "base_model": ["a/b", "c/d"]}),
        ("# no front matter\n---\nlicense: mit\n---\n", {}),
        ("---\nlicense: mit\n", {}),
        ("---\nlicense: [1, {}]\n---\n", {}),
        ("---\n{\n---\n", {}),
        ("---\n- a\n---\n", {}),
    ],
)  # fmt: skip
def test_license_and_origin_reach_the_card(text, facts, source):
    (source / "README.md").write_text(text)
    assert card_facts(source) == facts


def test_a_record_of_another_version_is_one_message():
    with pytest.raises(CheckpointError, match="this version of neuromeld did not write it"):
        render_card({"source": "x"})
