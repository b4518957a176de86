"""Gemma 2: Llama's shape with norms on what sublayers read and on what they write, and scaled embeddings."""

from neuromeld.archs.gated import gated_decoder

SPEC = gated_decoder(
    model_type="gemma2",
    model_class="Gemma2ForCausalLM",
    input_norms=("input_layernorm", "pre_feedforward_layernorm"),
    output_norms=("post_attention_layernorm", "post_feedforward_layernorm"),
    norm_offset=1.0,
    hidden_multiple_of_heads=True,
)
