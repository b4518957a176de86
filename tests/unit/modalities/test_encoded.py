"""Encoders from a folder: their readers, and what comes of a compression."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, AutoModelForMaskedLM, BertConfig, PreTrainedTokenizerFast

from contract.families import BERT
from neuromeld import compress, parse_recipe
from neuromeld.archs.classes import stock_class
from neuromeld.checkpoint.source import locate
from neuromeld.data.calibration import Calibration
from neuromeld.errors import UnsupportedModelError
from neuromeld.modalities import reader_for


@pytest.fixture(params=["BertForMaskedLM", "BertModel"])
def encoder(request, tmp_path):
    config = BertConfig(**BERT, architectures=[request.param])
    torch.manual_seed(0)
    stock_class(config)._from_config(config).save_pretrained(tmp_path / "model")
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(97)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="w90", sep_token="w91", mask_token="w92")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_batches_are_framed_and_masked_where_the_model_guesses(encoder, text):
    located = locate(encoder)
    config = located.config()
    masked = config.architectures == ["BertForMaskedLM"]
    settings = Calibration(source=text, tokens=640, seqlen=32)
    reader = reader_for(config)
    found = reader.calibration(settings, reader.processor(located.folder), config, 640)
    assert len(found.batches) >= 8
    for batch in (*found.batches, found.check_batch):
        ids = batch["input_ids"]
        assert set(ids[:, 0].tolist()) == {90}
        assert set(ids[:, -1].tolist()) == {91}
        assert ("labels" in batch) == (masked and batch is not found.check_batch)
        if "labels" in batch:
            assert torch.equal(batch["labels"] != -100, ids == 92)
    again = reader.calibration(settings, reader.processor(located.folder), config, 640)
    other = reader.calibration(settings.model_copy(update={"seed": 1}), reader.processor(located.folder), config, 640)
    assert again.sha256 == found.sha256 != other.sha256


def test_an_encoder_is_compressed_from_its_folder(encoder, text, tmp_path):
    masked = locate(encoder).config().architectures == ["BertForMaskedLM"]
    given = {"ffn": {"size": 24}, "calibration": {"source": text, "tokens": 1280, "seqlen": 32}}
    if not masked:
        with pytest.raises(UnsupportedModelError, match="cannot be chosen by their loss"):
            compress(encoder, parse_recipe(given | {"drop_layers": {"count": 1}}), tmp_path / "out")
    given |= {"drop_layers": {"count": 1} if masked else {"layers": [2]}}
    result = compress(encoder, parse_recipe(given), tmp_path / "out")
    assert result.plan.format == "stock"
    assert len(result.record.get("dropped_windows", [])) == (4 if masked else 0)
    loaded = (AutoModelForMaskedLM if masked else AutoModel).from_pretrained(tmp_path / "out")
    assert loaded.num_parameters() == result.record["parameters_after"]
    assert loaded.config.intermediate_size == 24
