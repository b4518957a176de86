"""Measurements: perplexity, tasks, cost and speed, each with the protocol it was measured by."""

from neuromeld.evaluate.cost import bytes_on_disk, flops_per_token, unique_parameters
from neuromeld.evaluate.loss import mean_loss
from neuromeld.evaluate.outcome import OUTCOME_TOKENS, Outcome
from neuromeld.evaluate.perplexity import Perplexity, perplexity
from neuromeld.evaluate.retained import Retained, retained_performance
from neuromeld.evaluate.speed import Rate, Speed, measure_speed
from neuromeld.evaluate.tasks import TaskScore, TaskScores, evaluate_tasks

__all__ = [
    "OUTCOME_TOKENS",
    "Outcome",
    "Perplexity",
    "Rate",
    "Retained",
    "Speed",
    "TaskScore",
    "TaskScores",
    "bytes_on_disk",
    "evaluate_tasks",
    "flops_per_token",
    "mean_loss",
    "measure_speed",
    "perplexity",
    "retained_performance",
    "unique_parameters",
]
