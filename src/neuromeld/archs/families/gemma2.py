"""Gemma 2: Llama's shape with norms on what sublayers read and on what they write, and scaled embeddings."""

from neuromeld.archs.gated import GEMMA_NORMS, gated_decoder

SPEC = gated_decoder("gemma2", "Gemma2ForCausalLM", norms=GEMMA_NORMS, hidden_multiple_of_heads=True)
