"""A job made of plain sizes, for tests of what stages do: no recipe, no plan, no format."""

from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedModel

from neuromeld.archs import Architecture
from neuromeld.archs.sizes import sizes_of
from neuromeld.planning.plan import architecture_of
from neuromeld.stages.base import Job, Target


def job(
    model: PreTrainedModel, data: Sequence[dict[str, Tensor]], *, arch: Architecture | None = None, seed: int = 0
) -> Job:
    """Return a job not yet begun; `arch` is that of the whole model, where some of it is narrow already."""
    arch = arch or architecture_of(model)
    sizes = sizes_of(arch, model.config)
    return Job(model, arch, Target(arch, sizes, "native"), sizes, sizes, data, seed=seed)
