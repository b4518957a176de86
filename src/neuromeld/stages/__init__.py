"""The stages of a compression, one package each, in the order in which they run.

To add one, write its package (docs/add-a-stage.md) and its line in `STAGES`.
"""

from neuromeld.stages.base import AnyStage
from neuromeld.stages.drop_layers import DropLayersStage
from neuromeld.stages.embedding import EmbeddingStage
from neuromeld.stages.experts import ExpertsStage
from neuromeld.stages.ffn import FfnStage
from neuromeld.stages.heads import HeadsStage
from neuromeld.stages.remove_ffns import RemoveFfnsStage
from neuromeld.stages.share_ffns import ShareFfnsStage
from neuromeld.stages.vocabulary import VocabularyStage
from neuromeld.stages.width import WidthStage

STAGES: list[AnyStage] = [
    DropLayersStage(),
    RemoveFfnsStage(),
    ExpertsStage(),
    HeadsStage(),
    FfnStage(),
    WidthStage(),
    ShareFfnsStage(),
    EmbeddingStage(),
    VocabularyStage(),
]

__all__ = ["STAGES"]
