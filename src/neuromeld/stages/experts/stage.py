"""The stage `experts`: leave fewer experts in every layer of a mixture, and let the router's rows go along."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from markupsafe import Markup
from pydantic import TypeAdapter
from transformers import PreTrainedModel

from neuromeld.archs.resolve import Architecture, find_module
from neuromeld.archs.sizes import Sizes
from neuromeld.archs.spec import ArchSpec, Mixture, Space
from neuromeld.drawing.section import Record, Section, item
from neuromeld.errors import UserInputError
from neuromeld.linalg.ridge import FFN_LAMBDAS
from neuromeld.model.layerwise import LayerInputs, change_once, walk_layers
from neuromeld.model.surgery import keep_experts, write_num_experts
from neuromeld.runtime.distributed import num_ranks
from neuromeld.runtime.progress import track
from neuromeld.stages.base import Cost, Job, Operations, Stage, Target, Workload
from neuromeld.stages.experts.layer import ExpertsResult, fewer_experts
from neuromeld.stages.experts.options import Experts
from neuromeld.stages.experts.report import experts_section
from neuromeld.stages.operations import gram, regression, share_of_pass
from neuromeld.stats.base import TOKENS_PER_BLOCK

_RESULT = TypeAdapter(ExpertsResult)


@dataclass(frozen=True)
class FewerExperts:
    """Hold what became of every layer that has experts."""

    layers: list[ExpertsResult] = field(default_factory=list)


class ExpertsStage(Stage[Experts, FewerExperts]):
    """Leave the experts that matter, as many in every layer; merge the others into them, refit what they write."""

    name = "experts"
    title = "fewer experts"
    prefix = "experts"
    Options = Experts

    def unavailable(self, spec: ArchSpec) -> str | None:
        """Say that there are none, or what of them is not proved."""
        if spec.mixture is not None:
            return None
        reason = spec.refusals.get(self.name, "they have no mixture of experts")
        return f"there cannot be fewer experts in {spec.model_type} models: {reason}"

    def refusals(self, model: PreTrainedModel, arch: Architecture, options: Experts) -> list[str]:  # noqa: ARG002
        """Refuse to look at neurons of experts of which nothing is proved."""
        if options.changes_neurons and not _neurons_known(arch):
            return ["nothing is proved of the neurons of its experts: give compensate=none, and no merge"]
        return []

    def resize(self, sizes: Sizes, options: Experts, target: Target) -> Sizes:
        """Return the sizes with fewer experts; of a share, so many that every group has as many."""
        arch = target.arch
        count = options.count or max(1, int(sizes.experts * (options.ratio or 1)) // arch.groups) * arch.groups
        problem = _impossible(arch, count, sizes.experts)
        if problem:
            raise UserInputError(problem)
        return replace(sizes, experts=count)

    def holds_out(self, options: Experts) -> bool:  # noqa: ARG002
        """Hold data out: errors are measured there, and a refit is kept by them."""
        return True

    def unknowns(self, options: Experts, work: Workload) -> int:
        """Return the neurons of an expert, where its output matrix is refitted."""
        return work.arch.widths[Space.FFN] if options.compensate == "ridge" else 0

    def cost(self, options: Experts, work: Workload) -> Cost:
        """Predict what every token brings and takes away, twice, and the sums of one expert."""
        d, f = work.arch.width, work.arch.widths[Space.FFN] if options.changes_neurons else 0
        tokens = work.tokens * 4 * (5 * d + 4 * work.arch.active)
        return Cost(
            working_bytes=tokens + 8 * 6 * f * (f + d) + 16 * TOKENS_PER_BLOCK * f,
            unmapped=("which experts stay is found with all of them in memory",),
        )

    def operations(self, options: Experts, work: Workload) -> Operations:
        """Predict a walk through the layers, what experts write before, alone and after, and the regressions."""
        found = Operations(4 * work.tokens * share_of_pass(work, work.before))
        if options.compensate == "ridge":
            d, f, layers = work.arch.width, work.arch.widths[Space.FFN], work.before.num_layers
            tokens, fit = work.tokens * work.arch.active, regression(f, d, len(FFN_LAMBDAS))
            found += Operations(0, gram(tokens, f, d), work.after.experts * fit) * layers
        return found

    @torch.no_grad()
    def run(self, job: Job, options: Experts) -> FewerExperts:
        """Go through the layers; each sees the network that has fewer experts before it."""
        if num_ranks() > 1:
            raise UserInputError("experts are chosen in one process; start it without torchrun")
        result, mixture = FewerExperts(), job.arch.spec.mixture
        assert mixture is not None, "the plan refuses it"
        if job.after.experts == job.before.experts:
            return result
        with track(self.title, job.arch.num_layers, enabled=job.progress) as advance:
            for inputs in walk_layers(job.model, job.arch, job.data, offload=job.journal.offload):
                if find_module(inputs.layer, mixture.experts) is not None:
                    result.layers.append(_change(job, inputs, mixture, options))
                advance(inputs.index + 1)
        write_num_experts(job.model, mixture, job.after.experts)
        widths = job.arch.widths
        if Space.EXPERTS in widths:
            widths = widths | {Space.EXPERTS: job.after.experts}
        job.arch = replace(job.arch, experts=job.after.experts, widths=widths)
        return result

    def record(self, result: FewerExperts) -> dict[str, Any]:
        """Return which experts stay in each layer, where the others went, and the errors."""
        return {"experts": [asdict(entry) for entry in result.layers]}

    def sentences(self, record: Record) -> list[Markup]:
        """Say how many stay."""
        layers = record.get("experts")
        if not layers:
            return []
        text = "Of the {} experts of a layer {} are left."
        return [item(text, layers[0]["experts_before"], layers[0]["experts_after"])]

    def sections(self, record: Record) -> list[Section | None]:
        """Draw the errors by layer, and which experts stayed."""
        return [experts_section(record.get("experts"))]


def _change(job: Job, inputs: LayerInputs, mixture: Mixture, options: Experts) -> ExpertsResult:
    """Leave fewer experts in one layer, or take that from the journal, which has its parameters."""

    def change() -> ExpertsResult:
        return fewer_experts(job, inputs, mixture, options)

    done = change_once(job.journal, f"experts-{inputs.index}", inputs.layer, change, _RESULT)
    keep_experts(inputs.layer, mixture, torch.tensor(done.kept), job.before.experts)
    return done


def _neurons_known(arch: Architecture) -> bool:
    """Tell whether the FFNs that are described are the experts."""
    mixture, weights = arch.spec.mixture, (weight for stack in arch.spec.stacks for weight in stack.weights)
    return mixture is not None and any(weight.stacked and weight.path == mixture.experts for weight in weights)


def possible_counts(arch: Architecture) -> range:
    """Return the numbers of experts of a layer that may be left, all but as many as there are; none without experts."""
    least = arch.active if arch.groups == 1 else max(2, arch.active) * arch.groups
    return range(least, arch.experts if arch.spec.mixture else 0, arch.groups)


def _impossible(arch: Architecture, count: int, total: int) -> str | None:
    """Say why a layer cannot have so many experts, and what to give."""
    possible = possible_counts(arch)
    if count == total or count in possible:
        return None
    if count > total:
        return f"experts={count} is more than the {total} that a layer has"
    if arch.groups > 1:
        return (
            f"experts={count}: they come in {arch.groups} groups, of which a token is sent to some; keep a multiple of "
            f"{arch.groups}, at least {possible.start}"
        )
    return f"experts={count} is fewer than the {arch.active} that a token is sent to; keep at least as many"
