"""Recall: from the whole catalogue to some hundred candidates a request, by channels learnt from the policy's log.

`EmbeddingRecall` (one channel) and `MergedRecall` (several, by quotas) fulfil `envs.candidate_source.CandidateSource`, so an
environment takes either as `candidate_source`.
"""

from recall.channels.base import RecallChannel
from recall.embedding import EmbeddingConfig, EmbeddingRecall
from recall.index import InnerProductIndex
from recall.merging import MergedCandidates, MergedRecall, RecallConfig

__all__ = [
    "EmbeddingConfig",
    "EmbeddingRecall",
    "InnerProductIndex",
    "MergedCandidates",
    "MergedRecall",
    "RecallChannel",
    "RecallConfig",
]
