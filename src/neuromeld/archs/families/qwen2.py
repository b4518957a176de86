"""Qwen2 and Qwen2.5: Llama's shape with biases on q, k and v."""

from neuromeld.archs.gated import gated_decoder

SPEC = gated_decoder("qwen2", "Qwen2ForCausalLM")
