"""Teach transformers' auto classes the native model types when they are imported, and each type when it is asked for.

So `import neuromeld` costs nothing, and `AutoModelForCausalLM.from_pretrained(folder)` finds a native checkpoint.
"""

import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

AUTO = "transformers.models.auto.configuration_auto"
PREFIX = "neuromeld-"
"""What the model type of a native config begins with."""


class _NativeTypes(dict[str, Any]):
    """The config classes that were registered with transformers, and every native one once it is asked for."""

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or (isinstance(key, str) and _is_native(key))

    def __missing__(self, key: str) -> Any:
        if not _is_native(key):
            raise KeyError(key)
        from neuromeld.model.native.block import register_native

        register_native(key.removeprefix(PREFIX))
        return self[key]


def _is_native(model_type: str) -> bool:
    """Tell whether a model type is the native form of one that transformers has; nothing is imported for others."""
    if not model_type.startswith(PREFIX):
        return False
    from transformers import CONFIG_MAPPING

    return model_type.removeprefix(PREFIX) in CONFIG_MAPPING


class _WhenImported:
    """Finds the module of the auto classes as Python would, and adds the native types to what it holds."""

    def find_spec(self, fullname: str, *_: Sequence[str] | ModuleType | None) -> importlib.machinery.ModuleSpec | None:
        """Return the spec that the other finders give, with a loader that adds the native types."""
        if fullname != AUTO:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _add_types(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _add_types(module: Any) -> None:
    mapping = module.CONFIG_MAPPING
    mapping._extra_content = _NativeTypes(mapping._extra_content)


def install() -> None:
    """Add the native types now if the auto classes are imported already, else when they are; once is enough."""
    if AUTO in sys.modules:
        if not isinstance(sys.modules[AUTO].CONFIG_MAPPING._extra_content, _NativeTypes):
            _add_types(sys.modules[AUTO])
    elif not any(isinstance(finder, _WhenImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported())
