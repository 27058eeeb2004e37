"""Recall: from the whole catalogue to some hundred candidates a request, by embeddings learnt from the policy's log.

`EmbeddingRecall` fulfils `envs.candidate_source.CandidateSource`, so an environment takes it as `candidate_source`.
"""

from recall.embedding import EmbeddingConfig, EmbeddingRecall
from recall.index import InnerProductIndex

__all__ = ["EmbeddingConfig", "EmbeddingRecall", "InnerProductIndex"]
