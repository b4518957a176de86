"""The plugin by which vLLM learns of native checkpoints, declared in pyproject.toml as `vllm.general_plugins`."""

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from neuromeld.archs import ARCHITECTURES
from neuromeld.errors import UserInputError
from neuromeld.model.native.block import register_native
from neuromeld.model.native.modeling import PREFIX
from neuromeld.model.native.nemotron_nas import MODEL_TYPE, NemotronNasConfig

BACKEND = "vllm.model_executor.models.transformers:TransformersForCausalLM"
"""vLLM's own class that runs models of transformers; named, not imported, since that would start CUDA."""


def register_with_vllm() -> None:
    """Register native checkpoints with vLLM, which calls this in each of its processes; it may be called again.

    transformers learns the native classes and the config of what `neuromeld export --to vllm` writes, and vLLM that its
    transformers backend runs the former: no remote code is needed.
    Raises `UserInputError` where there is no vLLM.
    """
    register_native()
    AutoConfig.register(MODEL_TYPE, NemotronNasConfig, exist_ok=True)
    try:
        from vllm import ModelRegistry
    except ImportError as error:
        raise UserInputError(
            f"vLLM cannot be imported ({error}); this function is a plugin that vLLM calls itself once it is installed"
        ) from error
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    for spec in (spec for spec in ARCHITECTURES.values() if spec.model_class in causal):
        ModelRegistry.register_model(f"{PREFIX}{spec.model_class}", BACKEND)
