"""The part of a recipe that says how the residual stream is narrowed."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from neuromeld.registry import unknown_name
from neuromeld.settings import check_ratio
from neuromeld.stages.base import StageOptions
from neuromeld.stages.width.decoders import DECODERS
from neuromeld.stages.width.merges import MERGES
from neuromeld.stages.width.selectors import SELECTORS


class Width(StageOptions):
    """Narrow the residual stream.  One of `hidden_ratio` and `hidden_size` sets the target."""

    hidden_ratio: float | None = Field(
        None, description="Share of the residual stream's width to keep.", json_schema_extra={"target": True}
    )
    hidden_size: int | None = Field(
        None, description="Width of the residual stream to narrow to.", json_schema_extra={"target": True}
    )
    selector: str = Field("principal", description="Selector of the directions, or neurons, to keep.")
    merge: str = Field("none", description="How removed neurons are merged into kept ones: none or transport.")
    decoder: str = Field("pinv", description="How the full stream is reconstructed: pinv, transport or ridge.")
    regularisation: float | None = Field(
        None, description="Entropic regularisation of the transport, in median distances between neurons."
    )
    weighting: Literal["normalised", "raw"] = Field(
        "normalised", description="Second moment that the selector sees: as the norms hand the stream on, or raw."
    )
    basis: str = Field("shared", description="Layers that share a basis: shared (all), layer (none), or run:N.")
    refit: bool = Field(False, description="Refit the matrices that read the stream on calibration data.")

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
        if self.merge == "transport" and self.selector in ("principal", "learned"):
            problems.append(
                f"merge=transport moves neurons onto kept neurons, and selector={self.selector} keeps none; "
                "use mean_abs_activation, rms or random"
            )
        if self.selector == "learned" and self.refit:
            problems.append(
                "selector=learned is trained with what reads the stream as it is, and refit undoes that "
                "(docs/decisions/0041): leave refit out"
            )
        if self.selector == "learned" and self.basis != "shared":
            problems.append(f"selector=learned learns one basis for all layers; basis={self.basis} has several")
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
        """Return how many layers share one basis."""
        if self.basis == "shared":
            return num_layers
        return 1 if self.basis == "layer" else min(int(self.basis.removeprefix("run:")), num_layers)
