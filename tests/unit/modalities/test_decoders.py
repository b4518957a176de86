"""What encoder-decoders are calibrated on, against what transformers makes of the same text."""

import copy

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from transformers import PreTrainedTokenizerFast, WhisperProcessor

from contract.families import FAMILIES
from neuromeld.archs.classes import stock_class
from neuromeld.archs.spec import Space
from neuromeld.data.calibration import Calibration
from neuromeld.data.text import Clip, speech_features
from neuromeld.errors import CheckpointError, UserInputError
from neuromeld.evaluation import mean_loss
from neuromeld.modalities import reader_for
from neuromeld.planning.plan import architecture_of
from unit.modalities.text_to_text import tiny_processor, tiny_tokenizer

PAIRS = [
    (f"w{5 + i % 9:02} w{6 + i % 7:02} w{5 + i:02}", " ".join(f"w{5 + (i + j) % 60:02}" for j in range(1 + i % 5)))
    for i in range(90)
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def processor() -> WhisperProcessor:
    return tiny_processor()


@pytest.fixture
def settings(tmp_path) -> Calibration:
    (tmp_path / "pairs.tsv").write_text("\n".join("\t".join(pair) for pair in PAIRS))
    return Calibration(source=f"file:{tmp_path / 'pairs.tsv'}", tokens=200, seqlen=16)


def model_of(family: str) -> torch.nn.Module:
    config = FAMILIES[family]()
    torch.manual_seed(0)
    return stock_class(config)._from_config(config).eval()


@pytest.mark.parametrize("family", ["marian", "t5"])
def test_a_batch_of_pairs_is_what_transformers_trains_on(family, settings, tokenizer):
    model = model_of(family)
    data = reader_for(model.config).calibration(settings, tokenizer, model.config, 200)
    assert len(data.batches) >= 8
    total = 0
    for batch in data.batches:
        expected = model.prepare_decoder_input_ids_from_labels(batch["labels"])
        real = batch["decoder_attention_mask"].bool()
        torch.testing.assert_close(batch["decoder_input_ids"][real], expected[real])
        torch.testing.assert_close(real, batch["labels"] != -100)
        total += int(batch["attention_mask"].sum() + batch["decoder_attention_mask"].sum())
    assert data.num_tokens == total >= 200
    seen = [
        (tokenizer.decode(ids, skip_special_tokens=True), tokenizer.decode(t.clamp(min=0), skip_special_tokens=True))
        for batch in data.batches
        for ids, t in zip(batch["input_ids"], batch["labels"], strict=True)
    ]
    assert set(seen) <= set(PAIRS)


def test_the_loss_is_that_of_transformers(settings, tokenizer):
    model = model_of("marian")
    data = reader_for(model.config).validation(settings, tokenizer, model.config, 60)
    total, count = 0.0, 0
    for source, target in [
        pair for batch in data.batches for pair in zip(batch["input_ids"], batch["labels"], strict=True)
    ]:
        labels = target[target != -100][None]
        loss = model(input_ids=source[source != 0][None], labels=labels).loss
        total, count = total + float(loss) * labels.shape[1], count + labels.shape[1]
    assert mean_loss(model, data.batches) == pytest.approx(total / count, rel=1e-5)


def test_the_seed_draws_other_pairs_and_validation_takes_the_first(settings, tokenizer):
    config = FAMILIES["marian"]()
    reader = reader_for(config)
    first, again, other = (
        reader.calibration(settings.model_copy(update={"seed": seed}), tokenizer, config, 100).sha256
        for seed in (0, 0, 1)
    )
    assert first == again != other
    assert reader.validation(settings, tokenizer, config, 20).num_tokens < 40


def test_a_foreign_tokenizer_and_a_missing_source_are_refused(settings, tokenizer):
    config = FAMILIES["marian"]()
    config.vocab_size = 30
    with pytest.raises(UserInputError, match="not the model's own"):
        reader_for(config).calibration(settings, tokenizer, config, 200)
    for family in ("marian", "whisper"):
        with pytest.raises(UserInputError, match="no usual calibration data"):
            reader_for(FAMILIES[family]()).calibration(Calibration(), tokenizer, FAMILIES[family](), 200)


def test_a_batch_of_speech_has_the_features_and_the_transcript(tmp_path, processor):
    config = FAMILIES["whisper"]()
    config.max_source_positions, config.decoder_start_token_id = 50, processor.tokenizer("a")["input_ids"][0]
    for i in range(30):
        wave = np.random.default_rng(i).integers(-999, 999, 8000)
        wavfile.write(tmp_path / f"{i}.wav", 16000, wave.astype(np.int16))
    (tmp_path / "transcripts.tsv").write_text("".join(f"{i}.wav\tspoken {'abcdefghij'[i % 10]}\n" for i in range(30)))
    reader = reader_for(config)
    settings = Calibration(source=f"file:{tmp_path}", tokens=600)
    data = reader.calibration(settings, processor, config, 500)
    batch = data.batches[0]
    assert batch["input_features"].shape[1:] == (8, 100)
    assert sum(len(b["labels"]) for b in data.batches) == 10
    torch.testing.assert_close(batch["decoder_input_ids"][:, 1:], batch["labels"][:, :-1])
    assert "spoken " in processor.tokenizer.decode(batch["labels"][0], skip_special_tokens=True)
    assert (batch["decoder_input_ids"][:, 0] == config.decoder_start_token_id).all()
    config.vocab_size = 97
    model = stock_class(config)._from_config(config).eval()
    assert architecture_of(model).widths[Space.FRAMES] == 50
    assert np.isfinite(mean_loss(model, data.batches))


def test_a_tokenizer_alone_is_no_processor_of_speech(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="(no feature extractor|cannot be read)"):
        reader_for(FAMILIES["whisper"]()).processor(tmp_path)


@pytest.mark.parametrize(
    "damage", [{"hop_length": -160}, {"hop_length": 80}, {"n_samples": 10**12}, {"sampling_rate": "x"}]
)
def test_a_feature_extractor_that_is_not_the_models(tmp_path, processor, damage):
    config = FAMILIES["whisper"]()
    config.max_source_positions = 50
    wavfile.write(tmp_path / "a.wav", 16000, np.ones(8000, np.int16))
    (clip,) = [Clip(tmp_path / "a.wav", "spoken")]
    assert speech_features([clip], processor, config).shape == (1, 8, 100)
    processor = copy.deepcopy(processor)
    for name, value in damage.items():
        setattr(processor.feature_extractor, name, value)
    with pytest.raises(CheckpointError, match="the feature extractor that lies beside the model"):
        speech_features([clip], processor, config)
