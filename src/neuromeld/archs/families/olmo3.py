"""OLMo-3: norms on what attention and FFN write, none on what they read, and norms over all queries and all keys."""

from neuromeld.archs.gated import OLMO_NORMS, gated_decoder

SPEC = gated_decoder("olmo3", "Olmo3ForCausalLM", norms=OLMO_NORMS)
