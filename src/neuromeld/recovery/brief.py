"""A short training of candidates, so that they are compared by what they lose after it."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from neuromeld.modalities import TrainingSet
from neuromeld.model.passes import PassFormat
from neuromeld.recovery.held_out import Measure, by_passes
from neuromeld.recovery.settings import Job, Recovery
from neuromeld.recovery.tune import tune
from neuromeld.runtime.streaming import device_of


@dataclass(frozen=True)
class BriefTuning:
    """Trains models alike, each towards the predictions of the one that it was made of.

    measure  on held-out data, which says which weights are taken
    """

    settings: Recovery
    pool: TrainingSet
    measure: Measure
    passes: PassFormat

    @property
    def tokens(self) -> int:
        """Return the tokens of each training."""
        return self.settings.tokens or 0

    def __call__(self, model: PreTrainedModel, original: PreTrainedModel) -> None:
        """Train a model in place."""
        measure = by_passes(self.measure, self.passes)
        job = Job(self.settings, self.passes, device_of(model), measure, measure(model).nll)
        tune(model, original, self.pool, job, progress=False)
