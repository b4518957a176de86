"""The request of an evaluation: its fields are the options of `neuromeld evaluate`."""

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from neuromeld.data.mixture import listed_sources
from neuromeld.errors import UserInputError
from neuromeld.modalities.modality import EvaluationData, Modality
from neuromeld.settings import PASSES, Passes, Settings


class EvaluationRequest(Settings):
    """Data to measure models on, and what else to measure.

    Fields that are for other models than those measured are refused by `evaluate`.
    """

    text: str | None = Field(
        None,
        description="A named text, or file:PATH; its evaluation split is used.  Several, with commas between, are "
        "measured one by one.  By default wikipedia-sample.",
    )
    images: str | None = Field(
        None,
        description="Named images, or file:FOLDER; their evaluation split is used.  By default fashion-mnist.",
    )
    num_images: int | None = Field(None, ge=1, description="Evaluation images, from the first; by default all.")
    pairs: str | None = Field(None, description="Named pairs of texts, or file:PATH; their evaluation split is used.")
    speech: str | None = Field(None, description="file:FOLDER with recordings; their evaluation split is used.")
    num_examples: int | None = Field(
        None, ge=1, description="Evaluation pairs or recordings, from the first; by default all."
    )
    tokens: int = Field(32768, ge=2, description="Evaluation tokens in all; by default 32768.")
    seqlen: int = Field(512, ge=2, description="Tokens in one window; by default 512.")
    against: str | None = Field(
        None,
        description="The original, in the place of labels: how close what models say of the data is to what it says.  "
        "For classifiers, rewards and embeddings, which text has no labels for, and for all others.",
        json_schema_extra={"metavar": "MODEL"},
    )
    passes: Passes = Field("auto", description=PASSES)
    speed: bool = Field(False, description="Also measure prefill and decode speed, in alternation.")
    batch_size: int | None = Field(None, ge=1, description="Of --speed: sequences at a time; by default 1.")
    prompt_tokens: int | None = Field(None, ge=1, description="Of --speed: tokens that are read; by default 512.")
    new_tokens: int | None = Field(None, ge=1, description="Of --speed: tokens that are written; by default 32.")
    tasks: tuple[str, ...] | None = Field(
        None, description="Tasks of lm-evaluation-harness, with commas between: arc_easy,piqa."
    )
    include_path: Path | None = Field(None, description="A folder with further tasks in YAML.")
    limit: int | None = Field(None, ge=1, description="Questions of each task, from the first; by default all.")

    @field_validator("tasks", mode="before")
    @classmethod
    def _separate(cls, given: Any) -> Any:
        return tuple(name.strip() for name in given.split(",")) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _consistent(self) -> "EvaluationRequest":
        problems = []
        try:
            listed_sources(self.text or "")
        except UserInputError as error:
            problems.append(str(error))
        if self.tasks is None and (self.include_path or self.limit is not None):
            problems.append("--include-path and --limit are for --tasks; name the tasks, or leave them out")
        if self.speed_sizes and not self.speed:
            problems.append("--batch-size, --prompt-tokens and --new-tokens are for --speed; add it, or leave them out")
        if self.against is not None and len(listed_sources(self.text or "")) > 1:
            problems.append("--against compares on one text; name one, or leave --against out")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def given(self) -> list[str]:
        """The fields that were set, in order."""
        return [
            name
            for name in type(self).model_fields
            if name in self.model_fields_set and getattr(self, name) not in (None, False)
        ]

    @property
    def speed_sizes(self) -> dict[str, int]:
        """Return the sizes of a measurement of speed that were set."""
        sizes = {name: getattr(self, name) for name in ("batch_size", "prompt_tokens", "new_tokens")}
        return {name: value for name, value in sizes.items() if value is not None}

    def data(self, modality: Modality) -> list[EvaluationData]:
        """Return the data to measure models of one kind on: one, or several texts."""
        limit = None if modality.limit_option is None else getattr(self, modality.limit_option)
        source = getattr(self, modality.data_option)
        sources = [source] if source is None or modality.data_option != "text" else listed_sources(source)
        return [EvaluationData(one, tokens=self.tokens, seqlen=self.seqlen, limit=limit) for one in sources]
