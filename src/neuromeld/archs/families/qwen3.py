"""Qwen3: Llama's shape with an RMSNorm on every query and key head."""

from neuromeld.archs.gated import EVERY_HEAD, Norms, gated_decoder

SPEC = gated_decoder("qwen3", "Qwen3ForCausalLM", norms=Norms(query_key=EVERY_HEAD))
