"""SmolLM3: Llama's shape, with layers that know no positions."""

from dataclasses import replace

from neuromeld.archs.gated import gated_decoder

SPEC = replace(
    gated_decoder("smollm3", "SmolLM3ForCausalLM"),
    layer_lists=("layer_types", "no_rope_layers"),
)
