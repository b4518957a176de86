"""Do what a plan says, stage after stage, on a live model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from neuromeld.archs.sizes import Sizes
from neuromeld.errors import UserInputError
from neuromeld.evaluation import unique_parameters
from neuromeld.model.capture import Batch
from neuromeld.model.native.block import make_native, native_block
from neuromeld.model.passes import PassFormat, chosen_passes, passes_in
from neuromeld.model.surgery import copy_structure
from neuromeld.planning.plan import Plan, architecture_of, check_plain
from neuromeld.planning.recipe import Chosen
from neuromeld.planning.served import multiples_of
from neuromeld.runtime.distributed import num_ranks, shard_batches
from neuromeld.runtime.journal import NO_JOURNAL, Journal
from neuromeld.runtime.phases import Phases
from neuromeld.stages.base import Job, Target
from neuromeld.stages.sublayer_stage import Step, SublayerStage, finds_sizes, run_together
from neuromeld.stats.split import is_held_out

SAMPLE_EVERY, SAMPLE_LEAST = 4, 4
"""What is found out before it is done with all data is found on every fourth batch, or on more to have four."""


@dataclass
class Compressed:
    """A smaller model, and what each stage found and did, by its name.

    sizes    of the layers that there are; where layers were found on the way, other than planned
    passes   format that forward passes computed in
    phases   the stages
    processor  of the model, as it was given or as a stage replaced it
    """

    model: PreTrainedModel
    plan: Plan
    sizes: Sizes
    passes: PassFormat = "own"
    results: dict[str, Any] = field(default_factory=dict)
    phases: Phases = field(default_factory=Phases)
    processor: Any = None

    def writers(self) -> list[Callable[[Path, Path], None]]:
        """Return what writes, from a source folder into another, the files that list what stages changed."""
        return [
            partial(chosen.stage.write_files, self.results[chosen.stage.name])
            for chosen in self.plan.recipe.chosen
            if chosen.stage.reads_processor and chosen.stage.name in self.results
        ]

    @property
    def warnings(self) -> list[str]:
        """Warnings of all stages, one sentence each."""
        given = ((chosen.stage, self.results.get(chosen.stage.name)) for chosen in self.plan.recipe.chosen)
        return [warning for stage, result in given if result is not None for warning in stage.warnings(result)]

    def record(self) -> dict[str, Any]:
        """Return what `record.json` keeps of the stages."""
        found: dict[str, Any] = {}
        for chosen in self.plan.recipe.chosen:
            if chosen.stage.name in self.results:
                found |= chosen.stage.record(self.results[chosen.stage.name])
        return found


def compress_model(
    model: PreTrainedModel,
    plan: Plan,
    data: Sequence[Batch],
    *,
    validation: Sequence[Batch] = (),
    cache: Mapping[str, str] | None = None,
    journal: Journal = NO_JOURNAL,
    progress: bool = False,
    processor: Any = None,
) -> Compressed:
    """Make a live model smaller in place, by a plan made for it.

    data        calibration batches: `input_ids (batch, time)` and, where there is padding, `attention_mask`; of several
                processes each is given all of them, and takes its share
    validation  batches that windows of layers are chosen on; by default the calibration batches that are held out
    cache       facts that identify model and data; given, statistics are kept on disk and found there again
    journal     takes and gives the results of long steps, of this very job
    processor   the model's tokenizer, or other processor, where a stage needs it; the result has the one that fits it

    Returns the same model object, in the mode that it was in; in the native format its class and config change.
    """
    check_plain(model)
    if (own := unique_parameters(model)) != plan.parameters_before:
        raise UserInputError(
            f"the plan was made for a model of {plan.parameters_before:,} parameters, and this one has {own:,}: make "
            "it for this model (make_plan); of a checkpoint, check tie_word_embeddings in its config.json"
        )
    training = model.training
    try:
        job = job_of(model, plan, data, validation)
        job.cache, job.journal, job.progress, job.processor = cache, journal, progress, processor
        done = run_stages(job, plan)
        _write_config(job, plan)
    finally:
        model.train(training)
    parameters = unique_parameters(model)
    in_steps = any(finds_sizes(chosen.stage, chosen.options) for chosen in plan.recipe.chosen)
    as_planned = parameters <= plan.parameters_after if in_steps else parameters == plan.parameters_after
    assert as_planned, f"planned {plan.parameters_after} parameters, found {parameters}"
    return done


def job_of(model: PreTrainedModel, plan: Plan, data: Sequence[Batch], validation: Sequence[Batch] = ()) -> Job:
    """Return the job that does a plan, not yet begun; `data` and `validation` as `compress_model` takes them."""
    if not data:
        raise UserInputError("no calibration batches were given")
    if len(data) < 2 and plan.recipe.holds_out:
        raise UserInputError("part of the calibration batches is held out: give at least two")
    arch = architecture_of(model)
    return Job(
        model=model,
        arch=arch,
        target=Target(arch, plan.before, plan.format, multiples_of(plan.recipe.output)),
        before=plan.before,
        after=plan.before,
        data=shard_batches(data),
        sample=_sample(data),
        validation=validation or [batch for b, batch in enumerate(data) if is_held_out(b, len(data))],
        seed=plan.recipe.calibration.seed,
    )


def run_stages(job: Job, plan: Plan) -> Compressed:
    """Run the stages alone, in eval mode: what they leave runs, but its class and config are still the old ones."""
    job.model.eval()
    done = Compressed(job.model, plan, job.after, chosen_passes(plan.recipe.calibration.passes, job.model))
    job.cache = None if job.cache is None else {**job.cache, "passes": done.passes}
    groups = list(_groups(plan.recipe.chosen))
    learning = [number for number, group in enumerate(groups) if any(c.stage.learns(c.options) for c in group)]
    with passes_in(done.passes, job.model):
        for number, group in enumerate(groups):
            if number == 0 and max(learning, default=0) > 0:
                job.original = copy_structure(job.model)
            if number:
                job.cache = None  # it knows the original model only
            with done.phases.measure(" and ".join(chosen.stage.title for chosen in group)):
                done.results |= _run_group(job, group)
            if number == max(learning, default=0):
                job.original = None
            elif job.original is not None and any(chosen.stage.reads_processor for chosen in group):
                job.original = copy_structure(job.model)  # what came before predicts other tokens
    done.sizes, done.processor = job.after, job.processor
    return done


def _groups(chosen: Sequence[Chosen]) -> Iterator[list[Chosen]]:
    """Yield the stages in order; neighbours that narrow sublayers go through the layers together."""
    group: list[Chosen] = []
    for one in chosen:
        if group and not (isinstance(one.stage, SublayerStage) and isinstance(group[-1].stage, SublayerStage)):
            yield group
            group = []
        group.append(one)
    yield group


def _run_group(job: Job, group: Sequence[Chosen]) -> dict[str, Any]:
    if len(group) == 1:
        stage, options = group[0].stage, group[0].options
        job.before = job.after
        job.after = stage.resize(job.before, options, job.target)
        return {stage.name: stage.run(job, options)}
    steps, job.before = [], job.after
    for chosen in group:
        assert isinstance(chosen.stage, SublayerStage)
        before, job.after = job.after, chosen.stage.resize(job.after, chosen.options, job.target)
        steps.append(Step(chosen.stage, chosen.options, job.target, before, job.after))
    return run_together(job, steps)


def _sample(data: Sequence[Batch]) -> Sequence[Batch]:
    """Return this rank's share of every fourth batch; of more where these were fewer than four, or than ranks."""
    return shard_batches(data[:: min(SAMPLE_EVERY, max(1, len(data) // max(SAMPLE_LEAST, num_ranks())))])


def _write_config(job: Job, plan: Plan) -> None:
    """Make the config tell the truth about the smaller model."""
    model, arch = job.model, job.arch
    if plan.format == "native":
        make_native(model, native_block(model, arch))
        return
    if arch.spec.writes_head_dim:
        model.config.head_dim = (
            getattr(model.config, "head_dim", None) or arch.width // model.config.num_attention_heads
        )
    for chosen in plan.recipe.chosen:
        chosen.stage.write_config(model.config, job.target, job.after)
