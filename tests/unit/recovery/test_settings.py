"""Settings that are refused, and the recipes that ship."""

import pytest

from neuromeld.errors import UserInputError
from neuromeld.recovery import RECOVERY_RECIPES, load_recovery, parse_recovery


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({}, "say how long to train"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"steps": 9, "shard": True, "lora_rank": 4}, "leave lora_rank and layerwise_tokens out"),
        ({"steps": 9, "learning_rate": 0}, "learning_rate=0.0 must be positive"),
        ({"steps": 9, "learning_rate": float("nan")}, "learning_rate: Input should be a finite number"),
        ({"steps": 9, "lerning_rate": 1}, "Did you mean 'learning_rate'"),
        ({"steps": 9, "train": "wikipedia"}, "Did you mean 'wikipedia-sample'"),
        ({"steps": 9, "batch_tokens": 100, "seqlen": 64}, "batch_tokens=100 must be a multiple of seqlen=64"),
        ({"steps": 9, "warmup": 9}, "warmup=9 leaves none of steps=9"),
        ({"steps": 9, "schedule": "step"}, "schedule: Input should be 'inverse_sqrt'"),
        ({"steps": 9, "temperature": 2}, "temperature: there is no original"),
        ({"steps": 9, "original": "x", "distill_weight": 0}, "distill_weight=0.0 is outside"),
        ({"steps": 9, "lora_rank": 0}, "lora_rank=0 must be at least 1"),
        ({"steps": 9, "batch_size": 4, "batch_tokens": 512}, "batch_size=4 and batch_tokens=512: give one"),
        ({"steps": 9, "decay_steps": 10}, "schedule=inverse_sqrt has no decay_steps"),
        ({"steps": 9, "schedule": "linear", "decay_steps": 10}, "decay_steps=10 is not above warmup=0 and at most"),
        ({"steps": 9, "schedule": "linear", "final_learning_rate": 1}, "final_learning_rate=1.0 is outside"),
        ({"steps": 9, "base_bits": 4}, "base_bits is for low-rank updates; set lora_rank"),
        ({"steps": 9, "lora_rank": 1, "base_bits": 8}, "base_bits: Input should be 4"),
    ],
)
def test_mistakes_are_explained(stated, message):
    with pytest.raises(UserInputError) as error:
        parse_recovery(stated)
    assert message in str(error.value)


def test_several_mistakes_are_one_error():
    with pytest.raises(UserInputError, match=r"steps=0.*clip=-1\.0.*multiple of seqlen"):
        parse_recovery({"steps": 0, "clip": -1, "batch_tokens": 1})


def test_shipped_recipes_are_valid_and_the_papers_is_the_papers():
    assert set(RECOVERY_RECIPES) == {"distil", "image-model", "language-model", "layerwise", "quick", "translation"}
    paper = load_recovery("language-model")
    assert (paper.steps, paper.batch_tokens, paper.learning_rate, paper.clip) == (100_000, 2048, 5e-5, 1.0)
    assert paper.schedule == "inverse_sqrt"
    assert load_recovery("quick").steps == 300
    images, pairs = load_recovery("image-model"), load_recovery("translation")
    assert (images.steps, images.batch_size, images.learning_rate) == (50_000, 128, 5e-5)
    assert (images.schedule, images.decay_steps, images.final_learning_rate) == ("linear", 20_000, 1e-6)
    assert (pairs.steps, pairs.batch_size, pairs.seqlen) == (100_000, 64, 128)


def test_unknown_recipe_is_suggested():
    with pytest.raises(UserInputError, match="Did you mean 'quick'"):
        load_recovery("quik")
