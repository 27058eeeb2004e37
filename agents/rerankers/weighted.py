"""The weighted rule: a greedy slate from candidate terms and four weights, which heuristics, constant weights and RL share."""

import numpy as np
from numpy.typing import NDArray

from agents.rerankers import kernels
from envs.compiled import over_rows
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.observation import Candidates, Observation

WEIGHT_NAMES = ("relevance", "diversity", "freshness", "popularity")
"""Order of the weights wherever they are an array."""
FRESHNESS_DAYS = 30.0
"""Age at which the freshness of an item has fallen to 1/e."""


def log_counts(log: InteractionLog) -> NDArray[np.float32]:
    """[I] popularity of each item: log(1 + times consumed in `log`)."""
    return np.log1p(log.item_counts()).astype(np.float32)


def candidate_terms(
    observation: Observation, popularity: NDArray[np.float32], scores: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """(relevance, freshness, popularity), each [N, C] and 0 for masked candidates.

    Relevance (the score) and popularity are standardised over a request's unmasked candidates, so that a weight means
    the same to every user. Freshness is exp(-age / 30 days), between 0 and 1 and not standardised: where all candidates are
    old it should not tell them apart, and one new item among them should not stand ten deviations out.

    Args:
        observation: of N requests.
        popularity: [I] of the items, as `log_counts` makes it.
        scores: [N, C] of a ranker; the recall score where None.
    """
    candidates = observation.candidates
    shown = candidates.mask == 1
    relevance = standardised(candidates.score if scores is None else scores, shown)
    freshness = np.exp(candidates.age * np.float32(-1 / FRESHNESS_DAYS)) * shown
    return relevance, freshness, standardised(popularity[np.maximum(candidates.items, 0)], shown)


def rerank(
    observation: Observation, weights: NDArray[np.float32], popularity: NDArray[np.float32], slate_size: int
) -> NDArray[np.int64]:
    """Fills slates slot by slot with the candidate of largest gain.

    gain = w_relevance * relevance + w_freshness * freshness + w_popularity * popularity
           + w_diversity * (1 - largest cosine of public categories to an item already in the slate)

    Args:
        observation: of N requests.
        weights: [N, 4] or [4], see `WEIGHT_NAMES`.
        popularity: [I] of the items, as `log_counts` makes it.
        slate_size: K.

    Returns:
        [N, K] distinct indices into the candidates. Ties go to the earlier candidate; masked ones come after all others.

    Raises:
        ConfigurationError: if the weights have another shape or are not finite, or there are fewer candidates than slots.

    Source: Carbonell and Goldstein (1998), The use of MMR, diversity-based reranking, is the case of two weights.
    """
    weights = np.asarray(weights, np.float32)
    if (
        weights.shape not in ((len(WEIGHT_NAMES),), (len(observation), len(WEIGHT_NAMES)))
        or not np.isfinite(weights).all()
    ):
        raise ConfigurationError(
            f"weights of shape {weights.shape} cannot re-rank {len(observation)} requests; "
            f"give finite numbers for {', '.join(WEIGHT_NAMES)}, [4] or [N, 4]."
        )
    if slate_size > observation.candidates.items.shape[1]:
        raise ConfigurationError(
            f"slate_size is {slate_size}, but there are {observation.candidates.items.shape[1]} candidates; "
            "ask for more candidates or a shorter slate."
        )
    weights = np.broadcast_to(weights, (len(observation), len(WEIGHT_NAMES)))
    candidates, slates = observation.candidates, np.empty((len(observation), slate_size), np.int64)
    over_rows(
        kernels.fill_by_terms,
        len(observation),
        np.ascontiguousarray(candidates.items, np.int32),
        np.ascontiguousarray(candidates.mask),
        np.ascontiguousarray(candidates.features, np.float32),
        np.ascontiguousarray(popularity, np.float32),
        np.ascontiguousarray(weights),
        1 / FRESHNESS_DAYS,
        slates,
    )
    return slates


def fill_slates(
    value: NDArray[np.float32], diversity: NDArray[np.float32], candidates: Candidates, slate_size: int
) -> NDArray[np.int64]:
    """[N, K] slot by slot the candidate of largest `value` [N, C] less `diversity` [N] times its largest cosine to the slate."""
    slates = np.empty((len(value), slate_size), np.int64)
    over_rows(
        kernels.fill_weighted,
        len(value),
        np.ascontiguousarray(value, np.float32),
        np.ascontiguousarray(candidates.mask),
        np.ascontiguousarray(candidates.features),
        np.ascontiguousarray(diversity, np.float32),
        slates,
    )
    return slates


def best_first(values: NDArray[np.float32], mask: NDArray[np.int8], slate_size: int) -> NDArray[np.int64]:
    """[N, K] candidates of largest `values` [N, C]; ties go to the earlier candidate, masked ones come last."""
    return np.argsort(np.where(mask == 1, -values, np.inf), axis=1, kind="stable")[:, :slate_size]


def standardised(values: NDArray[np.float32], shown: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Less the mean and over the standard deviation of the shown entries of each row [N, C]; 0 where all are alike."""
    outputs = np.empty(values.shape, np.float32)
    over_rows(
        kernels.standardise,
        len(values),
        np.ascontiguousarray(values, np.float32),
        np.ascontiguousarray(shown).view(np.int8),
        outputs,
    )
    return outputs
