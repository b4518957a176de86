import pytest
import torch
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from neuromeld.errors import UserInputError
from neuromeld.evaluation import top1_accuracy

CONFIG = ViTConfig(
    hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4,
    num_labels=3, hidden_dropout_prob=0.5,
)  # fmt: skip


def test_accuracy_and_loss_are_those_of_all_images_at_once():
    torch.manual_seed(0)
    model = ViTForImageClassification(CONFIG).train()
    pixels, labels = torch.randn(50, 3, 8, 8) * 20, torch.randint(3, (50,))
    batches = [{"pixel_values": x, "labels": y} for x, y in zip(pixels.split(7), labels.split(7), strict=True)]
    found = top1_accuracy(model, iter(batches))
    logits = model.eval()(pixels).logits
    assert found.correct == tuple((logits.argmax(1) == labels).tolist())
    assert 0 < found.accuracy == (logits.argmax(1) == labels).double().mean().item() < 1
    assert found.nll == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)


def test_what_has_no_classes_has_no_accuracy():
    batch = {"pixel_values": torch.randn(2, 3, 8, 8)}
    with pytest.raises(UserInputError, match="given as labels"):
        top1_accuracy(ViTForImageClassification(CONFIG), [batch])
    with pytest.raises(UserInputError, match="ViTModel has no loss"):
        top1_accuracy(ViTModel(CONFIG), [batch | {"labels": torch.tensor([0, 1])}])
    with pytest.raises(UserInputError, match="nothing to measure"):
        top1_accuracy(ViTForImageClassification(CONFIG), [])
