"""Measurements: perplexity, tasks, cost and speed, each with the protocol it was measured by."""

from neuromeld.evaluation.accuracy import Accuracy, batch_errors, top1_accuracy
from neuromeld.evaluation.closeness import Closeness, closeness
from neuromeld.evaluation.cost import bytes_on_disk, bytes_per_token, flops_per_token, unique_parameters
from neuromeld.evaluation.generation import Generated, translation_quality, word_error_rate
from neuromeld.evaluation.loss import batch_losses, mean_loss, mean_of
from neuromeld.evaluation.outcome import OUTCOME_TOKENS, Outcome
from neuromeld.evaluation.perplexity import Perplexity, perplexity, pseudo_perplexity
from neuromeld.evaluation.retained import Retained, retained_performance
from neuromeld.evaluation.speed import Rate, Speed, measure_speed
from neuromeld.evaluation.tasks import TaskScore, TaskScores, evaluate_tasks

__all__ = [
    "OUTCOME_TOKENS",
    "Accuracy",
    "Closeness",
    "Generated",
    "Outcome",
    "Perplexity",
    "Rate",
    "Retained",
    "Speed",
    "TaskScore",
    "TaskScores",
    "batch_errors",
    "batch_losses",
    "bytes_on_disk",
    "bytes_per_token",
    "closeness",
    "evaluate_tasks",
    "flops_per_token",
    "mean_loss",
    "mean_of",
    "measure_speed",
    "perplexity",
    "pseudo_perplexity",
    "retained_performance",
    "top1_accuracy",
    "translation_quality",
    "unique_parameters",
    "word_error_rate",
]
