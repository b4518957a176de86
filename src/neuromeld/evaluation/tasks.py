"""Accuracy on tasks of lm-evaluation-harness, through its Python API, with the model object at hand."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from neuromeld.errors import NeuromeldError, UserInputError
from neuromeld.evaluation.mode import eval_mode

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

ACCURACIES = ("acc", "exact_match")
"""Metrics that are a share of questions; the first that a task has is taken."""

FEWSHOT_SEED = 1234
"""Draws the examples in a prompt: the harness's own default."""


@dataclass(frozen=True)
class TaskScore:
    """`correct` holds one entry a question, in the task's order, and `accuracy` is its mean."""

    accuracy: float
    correct: tuple[float, ...]
    protocol: dict[str, str | int | None]


TaskScores = Mapping[str, TaskScore]
"""Scores by the name of the task; a group of tasks has an entry for each of its members."""


def evaluate_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    include_path: Path | None = None,
    limit: int | None = None,
    batch_size: int = 4,
) -> TaskScores:
    """Measure the accuracy of a causal language model on tasks of the harness.

    tasks         names the harness knows, groups included
    include_path  a folder of further tasks in YAML, which may name local data
    limit         questions of each task, from the first; None for all

    `UserInputError` when the harness is not installed, a task is unknown, cannot be had here, or has no accuracy.
    """
    if limit is not None and limit < 1:
        raise UserInputError(f"limit={limit} must be at least 1 question")
    if include_path is not None and not include_path.is_dir():
        raise UserInputError(
            f"--include-path {include_path} is not a folder; give the one that holds your tasks in YAML"
        )
    try:
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise UserInputError(
            f"tasks need lm-evaluation-harness, which cannot be imported ({error}): pip install 'neuromeld[tasks]'"
        ) from error
    with _naming_tasks(tasks):
        manager = _manager(include_path)
    _check_names(manager, tasks)
    with _naming_tasks(tasks):
        found: Any = manager.load(list(tasks))
        metrics = {name: _metric(name, task) for name, task in found["tasks"].items()}
        for task in found["tasks"].values():
            task.set_fewshot_seed(FEWSHOT_SEED)
        with eval_mode(model):
            harness = HFLM(pretrained=model, backend="causal", tokenizer=tokenizer, batch_size=batch_size)
            results = evaluate(harness, found, limit=limit, bootstrap_iters=0)
        return {
            name: _score(results["samples"][name], metric, results["configs"][name], limit, model)
            for name, metric in metrics.items()
        }


@lru_cache
def _manager(include_path: Path | None) -> "TaskManager":
    """Return the index of all tasks: reading it takes seconds, and the next model asks the same ones."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path)


def _check_names(manager: "TaskManager", names: Sequence[str]) -> None:
    for name in names:
        if name not in manager.all_tasks:
            near = get_close_matches(name, manager.all_tasks, n=3)
            hint = f"  Did you mean {', '.join(near)}?" if near else ""
            raise UserInputError(
                f"unknown task {name!r}.{hint}  A task of your own is a YAML file in the folder given by --include-path"
            )


@contextmanager
def _naming_tasks(names: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except NeuromeldError:
        raise
    except Exception as error:  # errors of the hub, of datasets, of a task's own YAML and code
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserInputError(
            f"the tasks {', '.join(names)} cannot be had here ({reason}); their data is downloaded from the Hugging "
            "Face Hub, or named by data_files in a task of your own (--include-path)"
        ) from error


def _metric(name: str, task: Any) -> str:
    known = list(task.aggregation())
    metric = next((metric for metric in ACCURACIES if metric in known), None)
    if metric is None:
        raise UserInputError(
            f"task {name!r} measures {', '.join(known)}, and none of {', '.join(ACCURACIES)}; choose a task that does"
        )
    return metric


def _score(
    samples: list[dict[str, Any]], metric: str, config: dict[str, Any], limit: int | None, model: PreTrainedModel
) -> TaskScore:
    answers = sorted((s for s in samples if s["filter"] == samples[0]["filter"]), key=lambda s: int(s["doc_id"]))
    correct = tuple(float(s[metric]) for s in answers)
    return TaskScore(
        accuracy=sum(correct) / len(correct),
        correct=correct,
        protocol={
            "metric": metric,
            "filter": answers[0]["filter"],
            "questions": len(correct),
            "limit": limit,
            "num_fewshot": config.get("num_fewshot") or 0,
            "task_version": str((config.get("metadata") or {}).get("version")),
            "lm_eval": version("lm-eval"),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
        },
    )
