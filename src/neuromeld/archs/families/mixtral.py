"""Mixtral: Mistral with a choice of experts in the place of each FFN."""

from neuromeld.archs.gated import gated_decoder

SPEC = gated_decoder("mixtral", "MixtralForCausalLM", experts_key="num_local_experts")
