"""Write a tiny Llama as llama.cpp's converter would."""

from pathlib import Path

import gguf
import numpy as np
from transformers import LlamaForCausalLM

TOKENS = ["<unk>", "<s>", "</s>", "a", "b", "ab"]
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def interleaved(matrix: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of q or k in the order of llama.cpp, which rotates neighbours where transformers rotates halves."""
    rows, columns = matrix.shape
    return matrix.reshape(num_heads, 2, rows // num_heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(model: LlamaForCausalLM, path: Path, *, quantised: str | None = None) -> Path:
    """All tensors in float32, those named `quantised` in blocks of 8-bit integers."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)

    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS + [f"<{i}>" for i in range(len(TOKENS), config.vocab_size)])
    writer.add_token_merges(["a b"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)

    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", tensors["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", tensors["model.norm.weight"])
    for layer in range(config.num_hidden_layers):
        for theirs, ours in NAMES.items():
            matrix = tensors[f"model.layers.{layer}.{theirs}.weight"]
            if theirs.endswith("q_proj"):
                matrix = interleaved(matrix, config.num_attention_heads)
            if theirs.endswith("k_proj"):
                matrix = interleaved(matrix, config.num_key_value_heads)
            name, blocks = f"blk.{layer}.{ours}.weight", None
            if theirs == quantised:
                blocks = gguf.GGMLQuantizationType.Q8_0
                matrix = gguf.quants.quantize(matrix, blocks)
            writer.add_tensor(name, np.ascontiguousarray(matrix), raw_dtype=blocks)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
