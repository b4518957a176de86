"""How much calibration data there is, and of which source."""

from pydantic import Field, model_validator

from neuromeld.settings import PASSES, Passes, Seed, Settings

BATCH_WINDOWS = 4
"""Windows in one calibration batch, at most."""


class Calibration(Settings):
    """The data that statistics are taken from: `tokens` in all, in windows of `seqlen`, drawn by `seed`.

    source  a named one or `file:PATH`; None is the usual one for the inputs of the model
    """

    source: str | None = Field(
        None,
        description="Named calibration data or file:PATH; by default the usual one for the inputs of the model.",
        json_schema_extra={"flag": "--calibration"},
    )
    tokens: int = Field(
        32768, description="Calibration tokens in all.", json_schema_extra={"flag": "--calibration-tokens"}
    )
    seqlen: int = Field(512, description="Tokens in one calibration window.", json_schema_extra={"flag": "--seqlen"})
    seed: Seed = Field(0, description="Seed for sampling calibration documents.", json_schema_extra={"flag": "--seed"})
    passes: Passes = Field("auto", description=PASSES)

    @model_validator(mode="after")
    def _consistent(self) -> "Calibration":
        problems = []
        if self.seqlen < 2:
            problems.append(f"seqlen={self.seqlen} must be at least 2 tokens")
        if self.tokens < self.seqlen:
            problems.append(f"tokens={self.tokens} is less than one window of seqlen={self.seqlen}")
        if problems:
            raise ValueError("; ".join(problems))
        return self
