"""Gemma 3, text only: Gemma 2 with a norm on every query and key head."""

from neuromeld.archs.gated import gated_decoder

SPEC = gated_decoder(
    model_type="gemma3_text",
    model_class="Gemma3ForCausalLM",
    input_norms=("input_layernorm", "pre_feedforward_layernorm"),
    output_norms=("post_attention_layernorm", "post_feedforward_layernorm"),
    norm_offset=1.0,
    query_key_norm="head",
    hidden_multiple_of_heads=True,
)
