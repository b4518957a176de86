"""Granite 3: Llama's shape with constant factors on embeddings, sublayers and logits."""

from neuromeld.archs.gated import gated_decoder

SPEC = gated_decoder("granite", "GraniteForCausalLM", factor_key="residual_multiplier")
