"""Llama 1 to 3, SmolLM2 and their kin: RMSNorm, grouped-query attention, gated FFN."""

from neuromeld.archs.gated import gated_decoder

SPEC = gated_decoder("llama", "LlamaForCausalLM", hidden_multiple_of_heads=True)
