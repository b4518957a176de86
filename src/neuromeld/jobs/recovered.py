"""The job of `compress --recover`: compress into the work folder, and train that into the output."""

from dataclasses import replace
from typing import Any

from neuromeld.errors import UserInputError
from neuromeld.jobs.compression import CompressionJob
from neuromeld.planning.plan import Plan
from neuromeld.recovery import Recovery, RecoveryJob
from neuromeld.runtime.distributed import num_ranks
from neuromeld.runtime.workspace import COMPRESSED


def compress_and_recover(job: CompressionJob, source: str, settings: Recovery) -> tuple[Plan, dict[str, Any]]:
    """Do the job and train its result towards the model at `source`; return the plan and the record of both.

    Resumable as a whole: a compressed checkpoint that is there is not made again, and forms that are written of what
    was trained appear together with it.
    """
    workspace = job.journal.workspace
    if workspace is None or num_ranks() > 1 or job.max_memory is not None:
        raise UserInputError(
            "--recover trains in one process, with the weights in memory: leave out torchrun and --max-memory, or run "
            "`neuromeld recover` on the result"
        )
    if job.recipe.reads_processor:
        raise UserInputError(
            "--recover follows the predictions of the original, and a narrower vocabulary has other tokens: compress "
            "without it, and train with `neuromeld recover`, whose default follows the text"
        )
    recovery = RecoveryJob(
        settings if settings.teacher else settings.model_copy(update={"original": settings.original or source}),
        job.out,
        force=job.force,
        device=job.device,
        allow_pickle=job.source.allow_pickle,
        progress=job.progress,
        exports=job.exports.write if job.exports else None,
    )
    recovery.check(source)
    first = replace(job, out=workspace.folder / COMPRESSED, evaluate=False)
    plan, _ = first.run()
    return plan, recovery.run(str(first.out), workspace).record
