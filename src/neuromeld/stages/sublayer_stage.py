"""Stages that narrow one sublayer of every layer; neighbours in the order of stages go through the layers together.

Every sublayer sees the network that is already narrow before it.  Its consumer, the matrix that writes back into the
residual stream, is then refitted to write what the whole sublayer would have written there.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import torch
from pydantic import TypeAdapter
from torch import nn
from transformers import PreTrainedModel

from neuromeld.archs.resolve import Architecture, has_bias
from neuromeld.archs.sizes import Sizes, layer_entries, space_size
from neuromeld.archs.spec import ArchSpec, Space
from neuromeld.drawing.section import Record, Section
from neuromeld.linalg.ridge import FFN_LAMBDAS
from neuromeld.model.layerwise import change_once, walk_layers
from neuromeld.registry import Need
from neuromeld.runtime.progress import track
from neuromeld.stages.base import (
    Cost,
    Job,
    Operations,
    Stage,
    StageOptions,
    Target,
    Workload,
    largest_layer_bytes,
    layer_bytes,
)
from neuromeld.stages.importance import Importance, Selection, importance_for
from neuromeld.stages.operations import (
    BACKWARD,
    LEARNING,
    gram,
    measuring_levels,
    regression,
    share_of_pass,
    share_of_reading,
    share_of_writing,
)
from neuromeld.stages.sublayer_report import learned_section, sublayer_section
from neuromeld.stages.teaching import backward_bytes, light_backward_bytes, no_predictions
from neuromeld.stages.windows import search_bytes
from neuromeld.stats.base import TOKENS_PER_BLOCK
from neuromeld.stats.split import HELD_OUT
from neuromeld.units.compensation import COMPENSATIONS
from neuromeld.units.learned import Learned
from neuromeld.units.levels import TOKENS
from neuromeld.units.pools import LayerUnits, Pool
from neuromeld.units.selectors import SELECTORS, learns, sees_whole_model
from neuromeld.units.sublayer import Sublayer, SublayerResult

_RESULTS = TypeAdapter(dict[str, list[SublayerResult]])

O = TypeVar("O", bound=StageOptions)  # noqa: E741


@dataclass(frozen=True)
class NarrowedLayers:
    """Hold what became of every layer, and how the units were learned, where they were."""

    layers: list[SublayerResult] = field(default_factory=list)
    learned: Learned | None = None


class SublayerStage(Stage[O, NarrowedLayers]):
    """A stage that narrows one space of every layer, with a selector and a compensation in its options.

    space    that is narrowed
    unit     what its sizes count, for the record
    refused  how a refusal begins
    touched  the spaces whose weights change
    """

    space: ClassVar[Space]
    unit: ClassVar[str]
    refused: ClassVar[str]
    touched: ClassVar[tuple[Space, ...]]

    @abstractmethod
    def sizes(self, sizes: Sizes) -> tuple[int, ...]:
        """Return the size of the space in each layer."""

    @abstractmethod
    def with_sizes(self, sizes: Sizes, by_layer: Mapping[int, int]) -> Sizes:
        """Return the sizes with others of the space in some layers."""

    @abstractmethod
    def narrow(self, sublayer: Sublayer, options: O, keep: int, job: Job) -> list[SublayerResult]:
        """Narrow one sublayer in place to `keep` units."""

    @abstractmethod
    def features(self, work: Workload, sizes: Sizes) -> int:
        """Return the largest number of features that the consumer of a layer reads."""

    def step_of(self, target: Target, before: Sizes) -> int:  # noqa: ARG002
        """Return what sizes are multiples of where layers share a budget."""
        return 1

    def pools(self, options: Any, target: Target, before: Sizes, after: Sizes) -> list[Pool]:
        """Return the budgets that units are chosen under: one where layers may differ, else one for each that is
        narrowed.
        """
        olds, news = self.sizes(before), self.sizes(after)
        if options.by_layer:
            step = self.step_of(target, before)
            units = (LayerUnits(self.space, layer, old, step=step) for layer, old in enumerate(olds) if old)
            return [Pool(tuple(units), sum(news))]
        sizes = enumerate(zip(olds, news, strict=True))
        return [Pool((LayerUnits(self.space, layer, old),), new) for layer, (old, new) in sizes if new < old]

    def unavailable(self, spec: ArchSpec) -> str | None:
        """Say what the architecture's norms or its config forbid."""
        reason = spec.refusal(self.space)
        return None if reason is None else f"{self.refused} {spec.model_type} models: {reason}"

    def refusals(self, model: PreTrainedModel, arch: Architecture, options: Any) -> list[str]:
        """Refuse a compensation that needs a bias, and a selector that needs a loss, where there are none."""
        consumer, found = arch.consumer(arch.layers_with(self.space)[0], self.space), []
        selector, compensation = SELECTORS[options.selector], COMPENSATIONS[options.compensate]
        if Need.BIAS in compensation.needs and (consumer.stacked or not has_bias(model, consumer)):
            what = "biases of experts stay as they are" if consumer.stacked else f"{consumer.path} has no bias"
            found.append(f"compensate={compensation.name}: {what}; use ridge or none")
        by_loss = sees_whole_model(selector.name) or self.searches(options)
        if by_loss and consumer.stacked:
            found.append(f"selector={selector.name} does not look at single experts; use another")
        if by_loss and not arch.spec.has_loss:
            found.append(no_predictions(selector.name, arch.spec.model_class))
        return found

    def native_reasons(self, options: O, target: Target, after: Sizes) -> list[str]:  # noqa: ARG002
        """Say what the family's config cannot state."""
        native_only = target.arch.spec.native_only
        return [native_only[self.space]] if self.space in native_only else []

    def learns(self, options: Any) -> bool:
        """Ask the selector."""
        return learns(options.selector)

    def holds_out(self, options: O) -> bool:  # noqa: ARG002
        """Hold data out: the compensation is chosen by it."""
        return True

    def unknowns(self, options: Any, work: Workload) -> int:
        """Return the features of a ridge regression."""
        return self.features(work, work.after) if options.compensate == "ridge" else 0

    def cost(self, options: Any, work: Workload) -> Cost:
        """Predict sums and regressions of the widest sublayer, measured in docs/decisions/0013 and 0016."""
        d, f = work.arch.width, self.features(work, work.target.original)
        working = work.tokens * 4 * 3 * d + 8 * 6 * f * (f + d) + 16 * TOKENS_PER_BLOCK * f
        mapped = largest_layer_bytes(work) + self.regression_bytes(options, work)
        if sees_whole_model(options.selector):
            working, mapped = max(working, backward_bytes(work)), max(mapped, light_backward_bytes(work))
        wide = replace(work.after, hidden=work.before.hidden)
        searched = search_bytes(work) if self.searches(options) else 0
        return Cost(
            working_bytes=working,
            mapped_bytes=mapped + searched,
            journal_bytes=sum(layer_bytes(work, layer, wide, self.touched) for layer in range(wide.num_layers)),
            held_bytes=(2 * work.tokens + work.batch_tokens) * d * work.itemsize,
        )

    def regression_bytes(self, options: Any, work: Workload) -> int:
        """Predict sums for a fit and a test, and what is done with them, where `f` features become `k`."""
        d, f, k = work.arch.width, self.features(work, work.target.original), self.features(work, work.after)
        gram, sums = 8 * f * f, 8 * f * (f + d)
        block = 2 * 8 * TOKENS_PER_BLOCK * f + work.batch_tokens * work.itemsize * (f + 2 * d)
        collecting = 3 * gram + 3 * 8 * f * d + block
        solving = 2 * 8 * k * (k + d) + 3 * 8 * k * k + 5 * 8 * k * d
        choosing = 2 * sums + 8 * f * d
        choosing += 4 * gram if Need.INVERSE_GRAM in SELECTORS[options.selector].needs else 0
        return max(collecting, choosing, solving)

    def operations(self, options: Any, work: Workload) -> Operations:
        """Predict the scores of the whole model, a walk through the layers, and what is done in each."""
        sizes = zip(self.sizes(work.before), self.sizes(work.after), strict=True)
        walk = share_of_pass(work, replace(work.after, hidden=work.before.hidden))
        walk *= 1 + len(work.before.depths) / work.before.num_layers  # the first layer of a stack runs once more
        found = self._scoring(options, work) + Operations(0.0 if work.walked else work.tokens * walk)
        for layer, (old, new) in enumerate(sizes):
            found += self._in_layer(options, work, layer) if new < old else Operations()
        return found

    def looks(self, options: O) -> int:  # noqa: ARG002
        """Return how often what its consumer reads is computed while a layer is narrowed."""
        return 1

    def _in_layer(self, options: Any, work: Workload, layer: int) -> Operations:
        """Predict what is written before a layer is narrowed, sums, the choice and the regression; of each expert."""
        arch, consumer, looks = work.arch, work.left.consumer(layer, self.space), self.looks(options)
        f, k = (space_size(arch, work.target.original, sizes, layer, self.space) for sizes in (work.before, work.after))
        d, copies, tokens = arch.width, 1, float(work.tokens)
        if consumer.stacked:
            copies = work.before.experts
            tokens *= arch.active
            if work.tokens * arch.active < copies * f:  # too few for a regression: each sees all
                tokens = float(work.tokens * copies)
        read = share_of_reading(work, layer, consumer, self.touched)
        fits = options.compensate == "ridge"
        looked_at = work.tokens / min(HELD_OUT, max(1, work.tokens // work.batch_tokens)) if fits else 0.0
        looked_at *= read + share_of_writing(work, layer, consumer)
        chosen = 2.0 * f**3 if Need.INVERSE_GRAM in SELECTORS[options.selector].needs else 0.0
        fitted = regression(k, d, len(FFN_LAMBDAS) if fits else 1)
        return Operations(
            tokens * read * looks / (arch.active if consumer.stacked else 1) + looked_at,
            gram(tokens, f) + (gram(tokens, k, d) if looks > 1 else 0.0),
            copies * (4.0 * f * f * d + chosen + fitted),
        )

    def _scoring(self, options: Any, work: Workload) -> Operations:
        """Predict the passes through the whole model that scores are taken from."""
        needs, found = SELECTORS[options.selector].needs, Operations()
        if Need.LEARNING in needs:
            found += Operations(LEARNING * work.tokens)
        if Need.GRADIENT in needs:
            found += Operations(BACKWARD * work.tokens)
        return found + (
            measuring_levels(work.tokens, TOKENS, work.before.num_layers) if self.searches(options) else Operations()
        )

    def run(self, job: Job, options: O) -> NarrowedLayers:
        """Go through the layers with this stage alone."""
        return run_together(job, [Step(self, options, job.target, job.before, job.after)])[self.name]

    def record(self, result: NarrowedLayers) -> dict[str, Any]:
        """Return the sizes and errors of every layer, some pictures of merges, and how units were learned."""
        pictured = shown(len(result.layers))
        entries = [_entry(entry, self.unit, shown=i in pictured) for i, entry in enumerate(result.layers)]
        return {self.space: entries} | self._learned_record(result.learned)

    def _learned_record(self, learned: Learned | None) -> dict[str, Any]:
        if learned is None:
            return {}
        scores = [{"layer": one.layer, "deciles": one.deciles} for one in learned.layers if one.space == self.space]
        return {f"{self.space}_learned": {"looks": [asdict(look) for look in learned.looks], "scores": scores}}

    def sections(self, record: Record) -> list[Section | None]:
        """Draw sizes and errors by layer, and how units were learned."""
        title, learned = self.title.capitalize(), record.get(f"{self.space}_learned")
        return [sublayer_section(record.get(self.space), title, self.unit), learned_section(learned, title)]


@dataclass(frozen=True)
class Step:
    """One of the stages that go through the layers together, and the sizes around it."""

    stage: SublayerStage[Any]
    options: Any
    target: Target
    before: Sizes
    after: Sizes

    @property
    def pools(self) -> list[Pool]:
        """The budgets that its units are chosen under."""
        pools: list[Pool] = self.stage.pools(self.options, self.target, self.before, self.after)
        return pools

    def costs(self, model: nn.Module, arch: Architecture, pool: Pool) -> list[int]:
        """Return the parameters of a unit of each member of one of its pools; `arch` is of the layers that are left."""
        original, costs = self.target.original, []
        for member in pool.members:
            entries = layer_entries(arch, original, self.before, member.layer, self.stage.touched)
            for weight in arch.layer_weights(member.layer):
                if weight.out in self.stage.touched and has_bias(model, weight):
                    size = space_size(arch, original, self.before, member.layer, weight.out)
                    entries += weight.repeats * size * (self.before.experts if weight.stacked else 1)
            costs.append(entries // member.count)
        return costs


def finds_sizes(stage: Any, options: Any) -> bool:
    """Tell whether a stage finds the size of each layer, under a budget that is spent in steps."""
    return isinstance(stage, SublayerStage) and bool(options.by_layer)


def _learns_sizes(step: Step) -> bool:
    return finds_sizes(step.stage, step.options) and step.stage.learns(step.options)


def _selections(model: nn.Module, arch: Architecture, steps: Sequence[Step]) -> list[Selection]:
    """Return the selectors with their budgets.

    Sizes that several stages learn by layer are under one, which counts parameters.
    """
    if sum(map(_learns_sizes, steps)) < 2:
        return [Selection(step.options.selector, step.pools) for step in steps]
    members, budget, selections = [], 0, []
    for step in steps:
        if not _learns_sizes(step):
            selections.append(Selection(step.options.selector, step.pools))
            continue
        (pool,) = step.pools
        costs, sizes = step.costs(model, arch, pool), step.stage.sizes(step.after)
        for member, cost in zip(pool.members, costs, strict=True):
            members.append(replace(member, cost=cost))
            budget += cost * sizes[member.layer]
    return [*selections, Selection("learned", [Pool(tuple(members), budget)])]


def _resized(
    steps: Sequence[Step], selections: Sequence[Selection], arch: Architecture, importance: Importance
) -> list[Step]:
    """Return the steps with the sizes that were found, where layers share a budget."""
    found: dict[Space, dict[int, int]] = {step.stage.space: {} for step in steps}
    for pool in (pool for selection in selections for pool in selection.pools if pool.compares):
        scores = [
            importance.scores[arch.consumer(m.layer, m.space).path].view(m.count, -1).mean(1) for m in pool.members
        ]
        for member, width in zip(pool.members, pool.widths(scores), strict=True):
            found[member.space][member.layer] = width
    done: list[Step] = []
    for step in steps:
        before, after = step.before, step.after
        for earlier in done:
            before, after = (earlier.stage.with_sizes(x, found[earlier.stage.space]) for x in (before, after))
        done.append(replace(step, before=before, after=step.stage.with_sizes(after, found[step.stage.space])))
    return done


@torch.no_grad()
def run_together(job: Job, steps: Sequence[Step]) -> dict[str, NarrowedLayers]:
    """Narrow the sublayers of every layer in place, a layer after the other; return results by stage.

    Memory: the residual stream of all batches, unless the journal holds it, and the Gram matrix of one sublayer twice;
    before that, for selectors that see the whole model, the activations of one window.
    """
    model, arch, journal = job.model, job.arch, job.journal
    selections = _selections(model, arch, steps)
    importance = importance_for(job, selections)
    steps = _resized(steps, selections, arch, importance)
    job.after = steps[-1].after
    results = {step.stage.name: NarrowedLayers(learned=importance.learned) for step in steps}
    what = " and ".join(step.stage.title for step in steps)
    with track(what, arch.num_layers, enabled=job.progress) as advance:
        for inputs in walk_layers(model, arch, job.data, offload=journal.offload):

            def change(inputs: Any = inputs) -> dict[str, list[SublayerResult]]:
                return {
                    step.stage.name: _narrow(job, step, inputs, importance)
                    for step in steps
                    if step.stage.sizes(step.after)[inputs.index] < step.stage.sizes(step.before)[inputs.index]
                }

            done = change_once(journal, f"neurons-{inputs.index}", inputs.layer, change, _RESULTS)
            for name, found in done.items():
                results[name].layers.extend(found)
            advance(inputs.index + 1)
    return results


def _narrow(job: Job, step: Step, inputs: Any, importance: Importance) -> list[SublayerResult]:
    space = step.stage.space
    consumer = inputs.arch.consumer(inputs.index, space)
    sublayer = Sublayer(job.model, inputs, space, importance.scores.get(consumer.path))
    return step.stage.narrow(sublayer, step.options, step.stage.sizes(step.after)[inputs.index], job)


def _entry(result: SublayerResult, unit: str, *, shown: bool) -> dict[str, Any]:
    place = {"layer": result.layer} | ({} if result.expert is None else {"expert": result.expert})
    entry = place | {f"{unit}_before": result.before, f"{unit}_after": result.after} | asdict(result.fit)
    return entry | ({"merges": asdict(result.merges)} if result.merges is not None and shown else {})


def shown(count: int) -> set[int]:
    """Return which of many layers or runs there are pictures of: first, middle and last."""
    return {0, count // 2, count - 1}
