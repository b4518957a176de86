"""mT5: T5 1.1 with a vocabulary of many languages."""

from dataclasses import replace

from neuromeld.archs.families import t5

SPEC = replace(t5.SPEC.variants[0], model_type="mt5", model_class="MT5ForConditionalGeneration")
