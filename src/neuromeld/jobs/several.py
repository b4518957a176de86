"""The job of `compress` to several budgets: what they have in common is found out once, and each has its folder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuromeld.checkpoint import check_free
from neuromeld.jobs.choosing import ChoiceJob
from neuromeld.jobs.compression import CompressionJob
from neuromeld.jobs.opening import open_job
from neuromeld.planning import Budget, Choice, Sweep
from neuromeld.runtime.distributed import is_first_rank
from neuromeld.runtime.journal import Journal
from neuromeld.runtime.workspace import work_folder


@dataclass(frozen=True)
class SeveralJob:
    """Choose for each budget, then write each.

    choice    the job for the first budget, without a journal: that of all is kept beside `out`
    further   the other shares of the same objective
    out       folders are named after it, with the share behind: `out-0.9`
    """

    choice: ChoiceJob
    further: Sequence[Budget]
    out: Path
    evaluate: bool = True

    def run(self) -> dict[Path, dict[str, Any]]:
        """Return the records that were written, by folder; none in processes that do not write.

        A folder that was written before an interruption is kept.
        """
        keeps = [float(budget.keep or 1) for budget in (self.choice.budget, *self.further)]
        outs = {keep: self.out.with_name(f"{self.out.name}-{keep:g}") for keep in keeps}
        if not work_folder(self.out).exists():
            for place in outs.values():
                check_free(place, force=self.choice.force, source=self.choice.source.name)
        with open_job(self.out) as journal:
            choosing = replace(self.choice, journal=journal)
            with choosing.within_limits():
                sweep = Sweep(choosing.planner(keeps=keeps))
                choices = {keep: sweep.at(keep) for keep in keeps}
            del sweep  # and its model
            written = {
                outs[keep]: journal.once(f"written {keep:g}", self._write, choice, outs[keep], journal)
                for keep, choice in choices.items()
            }
            return written if is_first_rank() else {}

    def _write(self, choice: Choice, out: Path, journal: Journal) -> dict[str, Any]:
        job = self.choice
        settings: dict[str, Any] = {"dtype": job.dtype, "device": job.device, "force": job.force}
        settings |= {"progress": job.progress, "evaluate": self.evaluate, "choice": choice, "chosen_in": journal}
        settings |= {"max_memory": job.limits.max_memory, "device_memory": job.limits.device_memory}
        with open_job(out) as own:
            return CompressionJob(job.source, choice.recipe, out, own, **settings).run()[1]
