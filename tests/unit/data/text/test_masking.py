import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from neuromeld.data.text import MASKED_RATIO, in_frames, mask_tokens
from neuromeld.errors import UserInputError

IDS = torch.randint(40, (50, 20), generator=torch.Generator().manual_seed(0))


def tokenizer(**special: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(40)}, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


BERT = tokenizer(cls_token="w1", sep_token="w2", mask_token="w3")


def test_a_frame_takes_the_ends_of_a_window():
    framed = in_frames(IDS, BERT)
    assert set(framed[:, 0].tolist()) == {1}
    assert set(framed[:, -1].tolist()) == {2}
    assert torch.equal(framed[:, 1:-1], IDS[:, 1:-1])
    assert torch.equal(in_frames(IDS, tokenizer()), IDS)


def test_labels_are_what_is_hidden_and_nothing_else():
    hidden, labels = mask_tokens(IDS, BERT, seed=0)
    masked = labels != -100
    assert torch.equal(torch.where(masked, labels, hidden), IDS)
    assert set(hidden[masked].tolist()) == {3}
    assert masked.sum(1).tolist() == [round(MASKED_RATIO * 20)] * 50
    assert not torch.isin(labels[masked], torch.tensor([1, 2, 3])).any()


def test_windows_of_special_tokens_stay():
    ids = torch.tensor([[1, 2, 1, 2], [1, 9, 2, 2]])
    _, labels = mask_tokens(ids, BERT, seed=0)
    assert labels.tolist() == [[-100] * 4, [-100, 9, -100, -100]]


def test_a_seed_hides_the_same_tokens_and_another_others():
    first, second, third = (mask_tokens(IDS, BERT, seed)[1] for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_there_must_be_a_mask_token():
    with pytest.raises(UserInputError, match="no mask token"):
        mask_tokens(IDS, tokenizer(), seed=0)
