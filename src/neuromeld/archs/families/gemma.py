"""Gemma 1: Llama's shape with norms that multiply by 1 + gain, and scaled embeddings."""

from dataclasses import replace

from neuromeld.archs.gated import gated_decoder
from neuromeld.archs.spec import Space

SPEC = replace(
    gated_decoder("gemma", "GemmaForCausalLM"),
    refusals={Space.RESIDUAL: "its norms multiply by 1 + gain, and no width map folds such a gain yet"},
)
