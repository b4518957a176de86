"""OLMo-2: norms on what attention and FFN write, none on what they read, and norms over all queries and all keys."""

from neuromeld.archs.gated import gated_decoder

SPEC = gated_decoder(
    model_type="olmo2",
    model_class="Olmo2ForCausalLM",
    input_norms=(None, None),
    output_norms=("post_attention_layernorm", "post_feedforward_layernorm"),
    query_key_norm="heads",
)
