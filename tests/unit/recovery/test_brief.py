"""The short training that candidates are compared after."""

import copy

import torch

from neuromeld.checkpoint.source import locate
from neuromeld.modalities import MODALITIES
from neuromeld.model.surgery import own_parameters
from neuromeld.recovery import parse_recovery, recover_model
from neuromeld.recovery.brief import BriefTuning
from neuromeld.recovery.held_out import held_out_loss


def test_a_model_comes_nearer_to_its_original_which_stays(checkpoint, pattern):
    source = locate(str(checkpoint))
    original, tokenizer, reader = source.load(torch.float32, "cpu"), source.tokenizer(), MODALITIES["tokens"]
    asked = {"train": pattern, "steps": 30, "learning_rate": 0.01, "batch_tokens": 128, "seqlen": 16, "bf16": False}
    recover_model(original, parse_recovery(asked), tokenizer)
    before = {name: value.clone() for name, value in original.state_dict().items()}
    model = copy.deepcopy(original, {id(p): p for p in original.parameters()})
    own_parameters(model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    settings = parse_recovery(asked | {"original": str(checkpoint), "distill_weight": 1.0})
    pool = reader.training(settings.data, tokenizer, model.config)
    measure = held_out_loss(reader, settings.data, tokenizer, model.config)
    harmed = measure(model).nll
    brief = BriefTuning(settings, pool, measure, "own")
    brief(model, original)
    whole = measure(original).nll
    assert harmed - whole > 2 * (measure(model).nll - whole)
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())
