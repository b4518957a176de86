"""Mixtral: Mistral with a choice of experts in the place of each FFN."""

from neuromeld.archs.gated import gated_decoder

SPEC = gated_decoder(model_type="mixtral", model_class="MixtralForCausalLM", experts=True)
