"""The part of a recipe that says how the residual stream is narrowed."""

import re
from typing import Literal

from pydantic import field_validator, model_validator

from neuromeld.registry import unknown_name
from neuromeld.settings import Settings, check_ratio
from neuromeld.stages.width.decoders import DECODERS
from neuromeld.stages.width.merges import MERGES
from neuromeld.stages.width.selectors import SELECTORS


class Width(Settings):
    """How the residual stream is narrowed.  One of `hidden_ratio` and `hidden_size` sets the target.

    selector        which directions to start from
    merge           how the other neurons reach them
    decoder         how the full stream is reconstructed
    regularisation  of the transport, in median distances between neurons; set only with `merge: transport`
    weighting       whether the selector sees the stream as the norms hand it on, or as it is
    basis           `shared`, `layer`, or `run:N` for one basis every N layers
    refit           whether consumers are refitted on calibration data
    """

    hidden_ratio: float | None = None
    hidden_size: int | None = None
    selector: str = "principal"
    merge: str = "none"
    decoder: str = "pinv"
    regularisation: float | None = None
    weighting: Literal["normalised", "raw"] = "normalised"
    basis: str = "shared"
    refit: bool = False

    @field_validator("hidden_ratio")
    @classmethod
    def _ratio(cls, value: float | None) -> float | None:
        return check_ratio("hidden_ratio", value)

    @field_validator("hidden_size")
    @classmethod
    def _size(cls, value: int | None) -> int | None:
        if value is not None and value < 2:
            raise ValueError(f"hidden_size={value} must be at least 2")
        return value

    @field_validator("basis")
    @classmethod
    def _basis(cls, value: str) -> str:
        if not re.fullmatch(r"shared|layer|run:[1-9][0-9]{0,5}", value):
            raise ValueError(f"basis={value!r} must be shared, layer, or run:N with N layers sharing one basis")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Width":
        problems = [
            unknown_name(registry.kind, name, list(registry))
            for registry, name in ((SELECTORS, self.selector), (MERGES, self.merge), (DECODERS, self.decoder))
            if name not in registry
        ]
        if (self.hidden_ratio is None) == (self.hidden_size is None):
            problems.append("give one of hidden_ratio and hidden_size")
        if self.merge == "transport" and self.selector == "principal":
            problems.append(
                "merge=transport moves neurons onto kept neurons, and selector=principal keeps none; "
                "use magnitude, rms or random"
            )
        if self.decoder == "transport" and self.merge != "transport":
            problems.append("decoder=transport runs a transport plan backwards; it needs merge=transport")
        if self.regularisation is not None and self.merge != "transport":
            problems.append("regularisation is for merge=transport; remove it")
        if self.regularisation is not None and self.regularisation <= 0:
            problems.append(f"regularisation={self.regularisation} must be positive; 0.1 is the default")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def run_length(self, num_layers: int) -> int:
        """How many layers share one basis."""
        if self.basis == "shared":
            return num_layers
        return 1 if self.basis == "layer" else min(int(self.basis.removeprefix("run:")), num_layers)
