"""Scores of generated text: perfect against the model's own output, and independent of who shares a batch."""

import numpy as np
import pytest
from scipy.io import wavfile

from contract.families import FAMILIES, build, randomise
from neuromeld.archs.classes import stock_class
from neuromeld.data.text import Clip
from neuromeld.evaluation import translation_quality, word_error_rate
from unit.modalities.text_to_text import tiny_processor, tiny_tokenizer

SOURCES = [" ".join(f"w{10 + i + j:02}" for j in range(1 + i)) for i in range(10)]


@pytest.mark.parametrize("family", ["marian", "t5"])
def test_translation_of_what_the_model_itself_says_is_perfect(family):
    model, tokenizer = build(family), tiny_tokenizer()
    said = translation_quality(model, tokenizer, [(source, "w50") for source in SOURCES])
    assert 0 <= said.scores["bleu"] < 100
    again = translation_quality(model, tokenizer, list(zip(SOURCES, said.hypotheses, strict=True)))
    assert again.scores == {"bleu": pytest.approx(100), "chrf": pytest.approx(100)}
    alone = [translation_quality(model, tokenizer, [(source, "w50")]).hypotheses[0] for source in SOURCES]
    assert alone == said.hypotheses
    assert again.protocol["examples"] == 10
    assert "case:mixed" in str(again.protocol["bleu_signature"])


def test_words_that_are_left_out_are_errors(tmp_path):
    config = FAMILIES["whisper"]()
    config.max_source_positions = 50
    model = randomise(stock_class(config)._from_config(config).eval())
    processor = tiny_processor()
    clips = []
    for i in range(9):
        samples = np.random.default_rng(i).integers(-9999, 9999, 9000)
        wavfile.write(tmp_path / f"{i}.wav", 16000, samples.astype(np.int16))
        clips.append(Clip(tmp_path / f"{i}.wav", "one two"))
    said = word_error_rate(model, processor, clips)
    assert said.protocol["words"] == 18
    assert all(text for text in said.hypotheses)
    own = [Clip(clip.path, text) for clip, text in zip(clips, said.hypotheses, strict=True)]
    assert word_error_rate(model, processor, own).scores == {"word_error_rate": 0}
    longer = [Clip(clip.path, f"{clip.transcript} x x") for clip in own]
    words = sum(len(clip.transcript.split()) for clip in longer)
    found = word_error_rate(model, processor, longer)
    assert found.scores["word_error_rate"] == pytest.approx(18 / words, abs=2 / words)
