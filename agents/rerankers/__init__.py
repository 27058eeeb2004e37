"""Re-rankers: they choose and order the slate from candidates that any ranker has scored.

A re-ranker is a class with a rule of its own (`base.Reranker`), one file each; `RERANKERS` names those that come with
driftrec. Their loops over slots and candidates are kernels (`kernels.py`) that work on many requests at once. Heuristics, constant
weights and the RL agents share the weighted rule, `rerank`.
"""

from agents.rerankers.base import Greedy, Reranker
from agents.rerankers.boosted import Boosted, BoostedConfig
from agents.rerankers.calibrated import Calibrated, CalibratedConfig
from agents.rerankers.dpp import DeterminantalPointProcess, DPPConfig
from agents.rerankers.marginal import MaximalMarginalRelevance, MMRRerankerConfig
from agents.rerankers.weighted import (
    FRESHNESS_DAYS,
    WEIGHT_NAMES,
    best_first,
    candidate_terms,
    log_counts,
    rerank,
)

RERANKERS: dict[str, type[Reranker]] = {
    kind.name: kind for kind in (Greedy, MaximalMarginalRelevance, DeterminantalPointProcess, Calibrated, Boosted)
}
"""Re-rankers by the name under which a configuration asks for them."""

__all__ = [
    "FRESHNESS_DAYS",
    "RERANKERS",
    "WEIGHT_NAMES",
    "Boosted",
    "BoostedConfig",
    "Calibrated",
    "CalibratedConfig",
    "DPPConfig",
    "DeterminantalPointProcess",
    "Greedy",
    "MMRRerankerConfig",
    "MaximalMarginalRelevance",
    "Reranker",
    "best_first",
    "candidate_terms",
    "log_counts",
    "rerank",
]
