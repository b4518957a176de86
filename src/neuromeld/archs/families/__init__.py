"""The families that are known: every module here is one, and says in `SPEC` what it is, in `MORE` for other heads."""

from importlib import import_module
from pkgutil import iter_modules

from neuromeld.archs.spec import ArchSpec

_MODULES = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]

SPECS: list[ArchSpec] = [module.SPEC for module in _MODULES if hasattr(module, "SPEC")]

OTHER_HEADS: list[ArchSpec] = [spec for module in _MODULES for spec in getattr(module, "MORE", ())]
