"""Build every promising candidate on a small sample, measure it, and take the simplest of the best."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import Space
from neuromeld.data.calibration import Calibration
from neuromeld.data.text import respelled_batch
from neuromeld.data.text.usage import tokenizer_in
from neuromeld.errors import UserInputError
from neuromeld.evaluation import batch_errors, batch_losses, mean_of
from neuromeld.evaluation.mode import eval_mode
from neuromeld.model.capture import Batch, backward_batches
from neuromeld.model.passes import chosen_passes, passes_in
from neuromeld.model.surgery import own_parameters, reversible
from neuromeld.planning.budget import Budget
from neuromeld.planning.built import (
    BuiltCandidate,
    accuracy_lost,
    by_batch,
    in_time,
    simplest_of_the_best,
    standard_error,
)
from neuromeld.planning.candidates import Candidate, SearchSpace, candidates
from neuromeld.planning.choice import Choice, Measured
from neuromeld.planning.effort import STANDARD, Amounts, Effort, learned_candidates, told_beforehand
from neuromeld.planning.latency import Timer, TimeTable, alias_copy, measured_times, time_ratio
from neuromeld.planning.limits import NO_LIMITS, Limits
from neuromeld.planning.pipeline import job_of, run_stages
from neuromeld.planning.plan import architecture_of, make_plan
from neuromeld.planning.recipe import Recipe
from neuromeld.planning.sensitivity import FisherScores, UnitLosses, fisher_scores, measured_losses
from neuromeld.planning.served import OutputFormat
from neuromeld.planning.shared import Shared
from neuromeld.runtime.journal import NO_JOURNAL, Journal
from neuromeld.runtime.phases import Phases
from neuromeld.runtime.progress import say, track
from neuromeld.runtime.streaming import is_streaming
from neuromeld.stages.base import Job
from neuromeld.stages.vocabulary import vocabulary_range

Figures = Callable[[PreTrainedModel, Any], dict[str, float]]
"""`(model, processor) -> figures by name`."""

Losses = list[tuple[float, int]]
"""Of each batch: the nats, or the wrong predictions, and the number of predictions."""

WINDOW = 8
"""Tokens of the text that sizes are made of which are only timed."""

FEW_TOKENS = 8192
"""Calibration tokens that all candidates are built from, at least; half of them tell the sensitivities."""


class Tune(Protocol):
    """Trains a model in place, on so many tokens, towards the predictions of the original."""

    @property
    def tokens(self) -> int: ...
    def __call__(self, model: PreTrainedModel, original: PreTrainedModel) -> None: ...


@dataclass(frozen=True)
class _Round:
    """A round of measuring: candidates are built from `data`, and measured on `text` and on each of the `others`.

    journal  keeps what the builds are made of
    accuracy  next-token accuracy is measured on `text`, too
    timed    the time of a request is measured, where the budget is of that
    figures  further ones are measured
    tuned    what is lost after a short training is measured, too
    """

    name: str
    data: Sequence[Batch]
    text: Sequence[Batch]
    others: Mapping[str, Sequence[Batch]] = field(default_factory=dict)
    journal: Journal = NO_JOURNAL
    accuracy: bool = False
    timed: bool = False
    figures: Figures | None = None
    tuned: bool = False


@dataclass
class Planner:
    """Finds the recipe that meets a budget and loses least, for a live model.

    calibration  goes into the recipe, and so does `output`
    data         calibration batches: some of them for sensitivities and for all candidates, all of them for finalists
    validation   other text: a quarter to measure all candidates on, all of it for finalists
    timer        takes the time where the objective is latency; with any other, the same seed makes the same choice
    shared       what other budgets found out: the kind of candidate that should lose least is then built alone
    keeps_builds  whether the journal keeps what finalists are made of, for the compression
    processor    of the model, where `vocab_from` names the text that tokens may be chosen by
    effort       how much is tried
    others       texts of other kinds by name, which finalists are measured on, too, and not chosen by
    accuracy     the next-token accuracy of finalists is measured, too, and nothing chosen by it
    limits       of memory; candidates that take more are left out
    figures      further ones of finalists by name, nothing is chosen by
    tune         trains finalists a little, and they are compared by what they lose then; what is written is not trained
    """

    model: PreTrainedModel
    budget: Budget
    calibration: Calibration
    output: OutputFormat
    data: Sequence[Batch]
    validation: Sequence[Batch]
    journal: Journal = NO_JOURNAL
    timer: Timer = time_ratio
    progress: bool = False
    original: PreTrainedModel | None = None
    phases: Phases = field(default_factory=Phases)
    processor: Any = None
    vocab_from: str | None = None
    shared: Shared = field(default_factory=Shared)
    keeps_builds: bool = True
    effort: Effort = STANDARD
    others: Mapping[str, Sequence[Batch]] = field(default_factory=dict)
    accuracy: bool = False
    limits: Limits = NO_LIMITS
    figures: Figures | None = None
    tune: Tune | None = None

    @torch.no_grad()
    def choose(self) -> Choice:
        """Return the recipe that loses least, or a simpler one that cannot be told from it by the validation text.

        The model is as before when this returns.  Raises `UserInputError` where no candidate meets the budget.
        """
        if self.budget.objective == "latency" or self.tune:
            self.original = alias_copy(self.model).eval()
        passes = chosen_passes(self.calibration.passes, self.model)
        with eval_mode(self.model), passes_in(passes, self.model):
            arch = architecture_of(self.model)
            few = self._few(arch)
            space = self._search_space(arch, few)
            with self.phases.measure("making candidates"):
                everything = self._within_limits(space, candidates(space))
            first, finalists = self._first_round(space, everything, few)
            journal = self.journal if self.keeps_builds else NO_JOURNAL
            last = _Round("measuring finalists", self.data, self.validation, self.others, journal, self.accuracy)
            last = replace(last, timed=True, figures=self.figures, tuned=self.tune is not None)
            final = self._measure(last, list(finalists.values()))
            late = chain(self.shared.better(everything, self.budget, final), self._sized_again(space, finalists, final))
            for one in late:
                finalists[one.name] = one
                final |= self._measure(replace(last, name="measuring finalists again"), [one])
            self.shared.learn(self.budget, everything, final, first)
            ranked = sorted(finalists.values(), key=lambda candidate: final[candidate.name].ranked.loss)
            learned = learned_candidates(space, ranked, self.effort)
            learned = [one for one in learned if self.limits.refusal(self.model, one.recipe, space.arch) is None]
            final |= self._measure(replace(last, name="measuring learned units"), learned) if learned else {}
            finalists |= {one.name: one for one in learned}
        everything += learned
        compared = {name: final[name].ranked for name in in_time(self.budget, final)}
        chosen = simplest_of_the_best(compared)
        least = final[min(compared, key=lambda name: compared[name].loss)]
        measured = [
            Measured.of(self.model, finalists.get(one.name, one), first.get(one.name), final.get(one.name), least)
            for one in everything
        ]
        measured = [replace(one, chosen=one.name == chosen) for one in measured]
        measured.sort(key=lambda m: (m.excess_loss is None, m.first_loss is None, m.ranked_loss or m.first_loss or 0.0))
        recipe = next(one.recipe for one in measured if one.chosen)
        return Choice(recipe, measured, self.budget.objective, self.phases)

    def _within_limits(self, space: SearchSpace, everything: list[Candidate]) -> list[Candidate]:
        """Return the candidates that take no more memory than they may; `UserInputError` where there are none."""
        if not everything:
            told = f" (times of sizes, over the original's: {space.times})" if space.times else ""
            raise UserInputError(f"no candidate meets this budget{told}: ask for less compression")
        refusals = {one.name: self.limits.refusal(self.model, one.recipe, space.arch) for one in everything}
        left_out = {name: why for name, why in refusals.items() if why is not None}
        if len(left_out) == len(everything):
            raise UserInputError("; ".join(dict.fromkeys(left_out.values())))
        if left_out and self.progress:
            say(f"left out, since they take more memory than they may: {', '.join(left_out)}")
        return [one for one in everything if refusals[one.name] is None]

    @property
    def _is_short(self) -> bool:
        """Whether weights lie elsewhere than what is worked on."""
        return self.journal.memory_mapped or is_streaming()

    def _few(self, arch: Architecture) -> Sequence[Batch]:
        """Return the batches that all candidates are built from: enough for a regression on as many hidden neurons."""
        batch = self.data[0]["input_ids"].numel()
        return self.data[: max(2, math.ceil(max(FEW_TOKENS, arch.widths[Space.FFN]) / batch))]

    def _search_space(self, arch: Architecture, few: Sequence[Batch]) -> SearchSpace:
        """Measure sensitivities on half of the few batches."""
        self.budget.check_needed(self.model, arch)
        if self.progress and self.shared.scores is None:
            amounts = Amounts.of(few, self.data, self.validation, tuned=self.tune.tokens if self.tune else 0)
            say(told_beforehand(self.effort, self.model, arch, self.calibration, amounts))
        scores = self.shared.scores = self.shared.scores or self._sensitivities(arch, _half(few))
        settings = {"calibration": self.calibration.model_dump(), "output": self.output}
        text = self.vocab_from
        vocabulary = None if text is None else vocabulary_range(self.model, self.processor, text)
        measures = self.effort.measured and self.output != "stock" and not self._is_short
        losses = self._measured_losses(arch) if measures else None
        space = SearchSpace(self.model, arch, self.budget, scores, settings, vocabulary, losses)
        return replace(space, times=self._times(space)) if self.budget.objective == "latency" else space

    def _times(self, space: SearchSpace) -> TimeTable:
        """Time some sizes of the model, once for all budgets."""
        what, choices = "timing sizes", space.vocabulary
        few = choices.at(0.5) if choices else None
        tokens = (choices.text, few) if choices and few else None
        if self.shared.times is None:
            with self.phases.measure(what):
                self.shared.times = measured_times(self.model, space.arch, space.recipe, tokens, self._time)
        return self.shared.times

    def _time(self, name: str, recipe: Recipe) -> float:
        """Return the time of a request at the sizes that a recipe makes, over the original's."""
        window = [{"input_ids": batch["input_ids"][:1, :WINDOW]} for batch in self.data[:2]]

        def time() -> float:
            assert self.original is not None
            with self._made(recipe, window, window, NO_JOURNAL):
                return self.timer(self.model, self.original)

        return float(self.journal.once(f"timing {name}", time))

    def _measured_losses(self, arch: Architecture) -> UnitLosses | None:
        """Measure what widths of layers cost, once for all budgets."""
        what = "measuring widths of layers"
        if self.shared.losses is None:
            with self.phases.measure(what), track(what, arch.num_layers, enabled=self.progress) as advance:
                losses = measured_losses(self.model, arch, self.data, self.validation, self.journal, advance)
            self.shared.losses = losses
        return self.shared.losses

    def _sensitivities(self, arch: Architecture, batches: Sequence[Batch]) -> FisherScores:
        what, windows = "measuring sensitivities", backward_batches(self.model, batches)
        with self.phases.measure(what), track(what, len(windows), enabled=self.progress) as advance:
            return fisher_scores(self.model, arch, windows, advance, light=self._is_short)

    def _first_round(
        self, space: SearchSpace, everything: Sequence[Candidate], few: Sequence[Batch]
    ) -> tuple[dict[str, BuiltCandidate], dict[str, Candidate]]:
        """Return what the candidates that were built from few tokens lose, and the finalists.

        Of kinds that other budgets measured from all tokens, the one with the least loss to expect is built at once.
        """
        known = self.shared.led(everything, self.budget)
        if known:
            return {}, {known[0].name: known[0]}
        promising = self.effort.promising(space, everything)
        simplest = [] if self.effort.finalists < 2 else everything[:1]
        # Where there is no more to build finalists from, they are built already.
        journal = self.journal if len(few) == len(self.data) and self.keeps_builds else NO_JOURNAL
        first = self._measure(_Round("measuring candidates", few, self.validation[::4], journal=journal), promising)
        finalists = self._finalists(promising, simplest, first)
        if journal is not NO_JOURNAL:
            for one in promising:
                if one.name not in finalists:
                    journal.within(one.name).forget()
        return first, finalists

    def _finalists(
        self, promising: Sequence[Candidate], simplest: Sequence[Candidate], first: Mapping[str, BuiltCandidate]
    ) -> dict[str, Candidate]:
        """Return the best of those that were built from few tokens, and the simplest, where it is to be built, too.

        A ridge gains from more tokens and a dropped layer does not, so few alone would favour the latter.
        """
        ranked = sorted(promising, key=lambda candidate: first[candidate.name].loss)
        best = ranked[: self.effort.finalists if simplest else 1]
        return {one.name: one for one in promising if one in best or one in simplest}

    def _sized_again(
        self, space: SearchSpace, finalists: Mapping[str, Candidate], final: Mapping[str, BuiltCandidate]
    ) -> Iterator[Candidate]:
        """Yield finalists that take longer than they may in the size at which they should not, by what they took."""
        for name, built in final.items():
            if built.latency is None or built.latency <= (self.budget.keep or 0):
                continue
            assert space.times is not None
            after = make_plan(self.model, finalists[name].recipe).after
            slower = replace(space, times=space.times.held_to(after, built.latency))
            yield from (one for one in candidates(slower) if one.name == name and one != finalists[name])

    def _measure(self, now: _Round, those: Sequence[Candidate]) -> dict[str, BuiltCandidate]:
        """Build each candidate and measure it; what is not to be kept of one that lies in files is removed."""
        keeps = now.journal is not NO_JOURNAL or not self.journal.memory_mapped
        journal = now.journal if keeps else self.journal.within(now.name)

        def build(
            candidate: Candidate,
        ) -> tuple[Losses, float | None, dict[str, float], Losses, dict[str, float], Losses]:
            with self._built(candidate, now.data, now.text, journal.within(candidate.name)) as job:
                timed = now.timed and self.budget.objective == "latency"
                latency = self.timer(self.model, self.original) if timed and self.original else None
                others = {name: mean_of(self._losses(text, job.processor)) for name, text in now.others.items()}
                wrong = batch_errors(self.model, now.text) if now.accuracy else []
                figures = now.figures(self.model, job.processor) if now.figures else {}
                losses = self._losses(now.text, job.processor)
                tuned = self._tuned_losses(now.text) if now.tuned else []
                return losses, latency, others, wrong, figures, tuned

        dense = self._dense(now.name, now.text)
        original = BuiltCandidate(mean_of(dense), by_batch(dense), None)
        whole = {name: mean_of(self._dense(f"{now.name} {name}", text)) for name, text in now.others.items()}
        errors = self._dense("accuracy", now.text, batch_errors) if now.accuracy else []
        found = {}
        with self.phases.measure(now.name), track(now.name, len(those), enabled=self.progress) as advance:
            for done, candidate in enumerate(those, start=1):
                losses, latency, others, wrong, figures, tuned = self.journal.once(
                    f"{now.name} {candidate.name}", build, candidate
                )
                if not keeps:
                    journal.within(candidate.name).forget()
                excess = {name: loss - whole[name] for name, loss in others.items()}
                built = BuiltCandidate(
                    mean_of(losses) - original.loss, by_batch(losses), latency, excess, figures=figures
                )
                accuracy = accuracy_lost(wrong, errors) if wrong else None
                built = replace(built, error=standard_error(built, original), accuracy=accuracy)
                after = (mean_of(tuned) - original.loss, by_batch(tuned)) if tuned else None
                found[candidate.name] = replace(built, tuned=after)
                advance(done)
        return found

    def _dense(self, what: str, text: Sequence[Batch], measure: Callable[..., Losses] = batch_losses) -> Losses:
        """Return the losses of the original on a text, which all budgets share."""
        if what not in self.shared.dense:
            self.shared.dense[what] = self.journal.once(f"{what} dense", measure, self.model, text)
        return self.shared.dense[what]

    @contextmanager
    def _built(
        self, candidate: Candidate, data: Sequence[Batch], validation: Sequence[Batch], journal: Journal
    ) -> Iterator[Job]:
        """Make the model, inside, what the candidate makes of it."""
        with self._made(_built_on(candidate.recipe, data), data, validation, journal) as job:
            yield job

    @contextmanager
    def _made(
        self, recipe: Recipe, data: Sequence[Batch], validation: Sequence[Batch], journal: Journal
    ) -> Iterator[Job]:
        """Make the model, inside, what a recipe makes of it."""
        plan = make_plan(self.model, recipe)
        with reversible(self.model):
            job = job_of(self.model, plan, data, validation)
            job.journal, job.processor = journal, self.processor
            run_stages(job, plan)
            yield job

    def _tuned_losses(self, text: Sequence[Batch]) -> Losses:
        """Train the model as it is now, and return the losses then."""
        assert self.tune is not None
        assert self.original is not None
        own_parameters(self.model)
        self.tune(self.model, self.original)
        return batch_losses(self.model, text)

    def _losses(self, text: Sequence[Batch], processor: Any) -> Losses:
        """Return the nats of each batch of the text and the tokens that are predicted in it, of the original tokenizer.

        So losses of models with other tokens are per token of the same text, too: bits per byte in another unit.
        """
        if processor is self.processor:
            return batch_losses(self.model, text)
        before, after = tokenizer_in(self.processor), tokenizer_in(processor)
        most = getattr(self.model.config, "max_position_embeddings", None)
        spelled = [respelled_batch(batch, before, after, most) for batch in text]
        counts = [batch["input_ids"][:, 1:].numel() for batch in text]
        return [(nats, count) for (nats, _), count in zip(batch_losses(self.model, spelled), counts, strict=True)]


def _half(batches: Sequence[Batch]) -> Sequence[Batch]:
    """Return the batches that tell the sensitivities."""
    return batches[: max(1, len(batches) // 2)]


def _built_on(recipe: Recipe, data: Sequence[Batch]) -> Recipe:
    """Return the recipe with the amount of calibration that it is really built on."""
    amount = {"tokens": sum(batch["input_ids"].numel() for batch in data), "seqlen": data[0]["input_ids"].shape[1]}
    return recipe.model_copy(update={"calibration": recipe.calibration.model_copy(update=amount)})
