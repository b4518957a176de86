"""Mistral: Llama's shape with sliding-window attention."""

from neuromeld.archs.gated import gated_decoder

SPEC = gated_decoder("mistral", "MistralForCausalLM")
