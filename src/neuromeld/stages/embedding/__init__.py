"""A narrower embedding: two matrices in its place, and in that of the head."""

from neuromeld.stages.embedding.options import EmbeddingOptions
from neuromeld.stages.embedding.stage import EmbeddingStage

__all__ = ["EmbeddingOptions", "EmbeddingStage"]
