"""Keep the tokens that a text uses, with their rows of embedding and head."""

from neuromeld.stages.vocabulary.choose import VocabularyRange, vocabulary_range
from neuromeld.stages.vocabulary.options import VocabularyOptions
from neuromeld.stages.vocabulary.stage import VocabularyStage

__all__ = ["VocabularyOptions", "VocabularyRange", "VocabularyStage", "vocabulary_range"]
