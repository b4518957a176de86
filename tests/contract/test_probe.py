"""Probing: known parts are recognised, unknown ones are named, and the draft is a data file."""

import pytest
from transformers import ArceeConfig, Olmo2Config, PhiConfig

from contract.families import FAMILIES, GATED
from neuromeld.archs import ARCHITECTURES, ArchSpec
from neuromeld.archs.families import olmo2
from neuromeld.archs.probe import probe
from neuromeld.planning.plan import meta_model


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_known_architecture_describes_itself_whole(name):
    found = probe(meta_model(FAMILIES[next(f for f in FAMILIES if f.split("-")[0] == name)]()))
    assert found.unclaimed == found.missing == ()


def test_what_is_missing_is_named():
    found = probe(meta_model(ArceeConfig(**GATED)))
    assert found.unclaimed == ()
    assert found.missing == ("model.layers.*.mlp.gate_proj",)


def test_what_is_unclaimed_is_named_and_left_to_describe():
    found = probe(meta_model(PhiConfig(**GATED)))
    assert "model.layers.*.mlp.fc1.weight" in found.unclaimed
    assert "# to describe: model.layers.*.mlp.fc1.weight\n" in found.draft
    assert not {*found.described} & {*found.unclaimed}


def test_draft_for_a_familiar_shape_is_the_data_file(monkeypatch):
    known = {name: spec for name, spec in ARCHITECTURES.items() if name != "olmo2"}
    monkeypatch.setattr(ARCHITECTURES, "_entries", known)
    found = probe(meta_model(Olmo2Config(**GATED)))
    assert found.nearest == "olmo3"
    namespace: dict[str, ArchSpec] = {}
    exec(found.draft, namespace)
    assert namespace["SPEC"] == olmo2.SPEC
