"""How much calibration data there is, and of which source."""

from pydantic import Field, model_validator

from neuromeld.data.mixture import OWN, parse_mixture
from neuromeld.errors import UserInputError
from neuromeld.settings import PASSES, Passes, Seed, Settings

BATCH_WINDOWS = 4
"""Windows in one calibration batch, at most."""


class Calibration(Settings):
    """The data that statistics are taken from: `tokens` in all, in windows of `seqlen`, drawn by `seed`.

    source  a named one, `file:PATH`, `self`, or several with weights; None is the usual one for the inputs of the model
    """

    source: str | None = Field(
        None,
        description="Named calibration data or file:PATH; by default the usual one for the inputs of the model, of a "
        "language model wikipedia-sample:3,python-docs:1. Of one also self, text that it writes, or others by weight.",
        json_schema_extra={"flag": "--calibration"},
    )
    prompts: str | None = Field(
        None,
        description="A text file with a prompt on each line, which texts of self begin with in turn.",
        json_schema_extra={"flag": "--prompts"},
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
        try:
            parts = parse_mixture(self.source) if self.source is not None else []
        except UserInputError as error:
            problems.append(str(error))
        else:
            if self.prompts is not None and not any(part.source == OWN for part in parts):
                problems.append(f"prompts={self.prompts} is for text that the model writes; set the source to self")
        if problems:
            raise ValueError("; ".join(problems))
        return self
