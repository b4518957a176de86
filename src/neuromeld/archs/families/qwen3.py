"""Qwen3: Llama's shape with an RMSNorm on every query and key head."""

from neuromeld.archs.gated import gated_decoder

SPEC = gated_decoder(model_type="qwen3", model_class="Qwen3ForCausalLM", query_key_norm="head")
