"""The job of `choose`: read model and data, and let the planner find a recipe for a budget."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from neuromeld.checkpoint.source import ModelSource
from neuromeld.data.calibration import Calibration
from neuromeld.data.mixture import check_not_own
from neuromeld.errors import UserInputError
from neuromeld.jobs.opening import check_alone, device_limit, identity_of
from neuromeld.modalities import inputs_of, reader_for, with_own_text
from neuromeld.model.passes import chosen_passes
from neuromeld.planning import Budget, Choice, Planner, Sweep
from neuromeld.planning.effort import EFFORTS, STANDARD
from neuromeld.planning.limits import NO_LIMITS, Limits, footprint_of_choice
from neuromeld.planning.plan import meta_model
from neuromeld.planning.served import OutputFormat
from neuromeld.recovery import Recovery, recovery_of
from neuromeld.recovery.brief import BriefTuning
from neuromeld.recovery.held_out import held_out_loss
from neuromeld.recovery.settings import FOLLOWING
from neuromeld.runtime.distributed import is_first_rank, num_ranks
from neuromeld.runtime.journal import NO_JOURNAL, Journal
from neuromeld.runtime.memory import keep_no_freed_memory
from neuromeld.runtime.streaming import DeviceWindow, streaming

FINAL_TOKENS = 16384
"""Validation tokens that the finalists of a budget are measured on."""


@dataclass(frozen=True)
class ChoiceJob:
    """One call of `neuromeld.choose`, which says what its arguments mean.

    source   the model, located
    journal  of the output that the recipe is chosen for: it takes and gives the losses of candidates, and the changes
             that the best of them are made of, so that a `CompressionJob` need not make them again
    force    discard what the journal has of another job
    vocab_from  the text that tokens may be chosen by; without one, all tokens stay
    effort   how much is tried, by name
    others   texts of other kinds, which the finalists are measured on, too
    limits   of memory; with one of memory here, a journal with a folder takes the weights of candidates
    rank_after  tokens that finalists are trained on before they are compared; what is written is not trained
    """

    source: ModelSource
    budget: Budget
    calibration: Calibration
    output: OutputFormat
    journal: Journal = NO_JOURNAL
    dtype: torch.dtype | None = None
    device: str = "cpu"
    force: bool = False
    progress: bool = False
    vocab_from: str | None = None
    effort: str = STANDARD.name
    others: tuple[str, ...] = ()
    limits: Limits = NO_LIMITS
    rank_after: int | None = None

    def run(self) -> Choice:
        """Return the choice; candidates are built in memory, and only the journal is written."""
        self._check_ranking()
        if (allowed := self.budget.allowed) is not None:
            if allowed.unit == "accuracy" and self.vocab_from is not None:
                raise UserInputError(
                    "--vocab-from goes with --max-loss in nats: the next tokens of another vocabulary are others, and "
                    "their accuracy cannot be compared"
                )
            with self.within_limits():
                return Sweep(self.planner(accuracy=allowed.unit == "accuracy")).smallest(allowed)
        with self.within_limits():
            return self.planner().choose()

    def _check_ranking(self) -> None:
        """Raise `UserInputError` where finalists cannot be trained."""
        if self.rank_after is None:
            return
        if self.vocab_from is not None:
            raise UserInputError(
                "--rank-after follows the original's predictions, so tokens stay: leave --vocab-from out"
            )
        if self.limits != NO_LIMITS:
            raise UserInputError(
                "--rank-after has weights, gradients and moments in memory: leave --max-memory and --device-memory out"
            )
        least = self._tuning.batch_tokens
        if self.rank_after < least:
            raise UserInputError(f"--rank-after {self.rank_after} is less than one update, which has {least} tokens")

    @property
    def _tuning(self) -> Recovery:
        """Return how finalists are trained."""
        own = {"tokens": self.rank_after, "train": self.calibration.source, "seqlen": self.calibration.seqlen}
        return recovery_of(FOLLOWING, self.source.name).model_copy(update=own)

    @contextmanager
    def within_limits(self) -> Iterator[None]:
        """Leave weights elsewhere inside, where the limits want it; `UserInputError` where that is not enough."""
        with streaming(self._window() if self.limits != NO_LIMITS else None):
            yield

    def _window(self) -> DeviceWindow | None:
        """Return what the weights are seen through, and let the journal say whether they stay in their files."""
        check_alone(num_ranks())
        check_not_own(self.calibration.source)
        if self.budget.objective == "latency":
            raise UserInputError(
                "--objective latency takes the time of models as they are served, not with weights on the way: leave "
                "--max-memory and --device-memory out, or budget by params or flops"
            )
        config = self.source.config()
        own = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
        footprint = footprint_of_choice(meta_model(config), self.calibration, self.dtype or own)
        memory_mapped = footprint.within(self.limits.max_memory)[1]
        if memory_mapped:
            self.source.check_stays_in_files()
            keep_no_freed_memory()
            self.journal.memory_mapped = True
        limit = device_limit(self.device, self.limits.max_memory, self.limits.device_memory)
        if limit is None or footprint.streamed(limit, memory_mapped=memory_mapped) is None:
            return None
        return DeviceWindow(torch.device(self.device), footprint.least_window, drops_pages=memory_mapped)

    def planner(self, *, accuracy: bool = False, **facts: Any) -> Planner:
        """Read model and data and begin the job; `facts` decide, too, what it is that is chosen.

        accuracy  next-token accuracy is measured, too
        """
        config, settings, effort = self.source.config(), self.calibration, EFFORTS[self.effort]
        if (inputs := inputs_of(config)) != "tokens":
            raise UserInputError(
                f"budgets are for language models, and {self.source.name} reads {inputs}: name stages, as with "
                "--ffn-ratio or --share-ffns"
            )
        reader = with_own_text(reader_for(config), self.source, self.device, progress=self._told)
        processor = reader.processor(self.source.folder)
        data = reader.calibration(settings, processor, config, settings.tokens)
        validation = reader.validation(settings, processor, config, FINAL_TOKENS)
        named = (settings.model_copy(update={"source": text, "prompts": None}) for text in self.others)
        others = [reader.validation(one, processor, config, FINAL_TOKENS) for one in named]
        identity: dict[str, Any] = {"job": "choose a recipe", "budget": asdict(self.budget), "output": self.output}
        identity |= {"vocab_from": self.vocab_from, "effort": effort.name} | facts
        identity |= {"others": [text.sha256 for text in others]}
        model = self.source.load(self.dtype, self.device, scratch=self.journal.scratch)
        passes = chosen_passes(settings.passes, model)
        identity |= identity_of(self.source, data, validation, self.dtype, self.device, passes)
        tuning: BriefTuning | None = None
        if self.rank_after is not None:
            asked = self._tuning
            pool, measure = (
                reader.training(asked.data, processor, config),
                held_out_loss(reader, asked.data, processor, config),
            )
            tuning = BriefTuning(asked, pool, measure, passes)
            identity |= {"rank_after": asked.stated() | {"train_sha256": pool.sha256}}
        self.journal.begin(identity | {"calibration": settings.model_dump()}, force=self.force)
        return Planner(
            model,
            self.budget,
            settings,
            self.output,
            data.batches,
            validation.batches,
            journal=self.journal if num_ranks() == 1 else NO_JOURNAL,
            progress=self._told,
            processor=processor,
            vocab_from=self.vocab_from,
            effort=effort,
            others={name: text.batches for name, text in zip(self.others, others, strict=True)},
            accuracy=accuracy,
            limits=self.limits,
            tune=tuning,
        )

    @property
    def _told(self) -> bool:
        return self.progress and is_first_rank()
