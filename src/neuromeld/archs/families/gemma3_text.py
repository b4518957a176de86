"""Gemma 3, text only: Gemma 2 with a norm on every query and key head."""

from dataclasses import replace

from neuromeld.archs.gated import EVERY_HEAD, GEMMA_NORMS, gated_decoder

SPEC = gated_decoder(
    "gemma3_text",
    "Gemma3ForCausalLM",
    norms=replace(GEMMA_NORMS, query_key=EVERY_HEAD),
    hidden_multiple_of_heads=True,
)
