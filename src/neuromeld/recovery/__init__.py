"""Recovery tuning: train a compressed checkpoint on text, images or speech, in the shapes and ties that it has."""

from neuromeld.recovery.run import RecoverResult, RecoveryJob, recover, recover_model
from neuromeld.recovery.settings import RECOVERY_RECIPES, Recovery, load_recovery, parse_recovery, recovery_of
from neuromeld.recovery.teaching import Teaching, TeachResult, teach

__all__ = [
    "RECOVERY_RECIPES",
    "RecoverResult",
    "Recovery",
    "RecoveryJob",
    "TeachResult",
    "Teaching",
    "load_recovery",
    "parse_recovery",
    "recover",
    "recover_model",
    "recovery_of",
    "teach",
]
