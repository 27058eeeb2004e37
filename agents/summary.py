"""A request in some tens of bounded numbers: what an agent that sets re-ranking weights needs to see."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from agents.rerankers import log_counts
from envs.errors import AgentError
from envs.logs.schema import InteractionLog
from envs.observation import Observation

BOUND = 3.0
"""Every number of a summary lies in [-BOUND, BOUND]; most lie in [0, 1]."""
FRESH_DAYS = (14.0, 365.0)
"""Shares of candidates younger than these many days are part of a summary."""
TOP = 10
"""Number of best-scored candidates that are described on their own."""
RECENT = 10
"""Number of last consumed items whose categories are described on their own."""
_QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class PublicItems:
    """What an agent knows of the catalogue besides an observation: learnt from the policy's log, saved with the agent."""

    popularity: NDArray[np.float32]
    """[I] log(1 + times consumed in the policy's log)."""
    categories: NDArray[np.float32]
    """[I, G] category memberships."""

    @classmethod
    def from_log(cls, log: InteractionLog) -> Self:
        """Counts a policy's log."""
        return cls(log_counts(log), log.catalogue.categories.astype(np.float32))


def summary_names(num_user_features: int, num_categories: int) -> list[str]:
    """Names of the columns of `summarise`, in order."""
    return [
        *("hour_sin", "hour_cos", "weekday_sin", "weekday_cos", "weekend", "place_in_visit", "day"),
        *(f"user_{place}" for place in range(num_user_features)),
        *("history_length", "days_since_last", "days_over_recent", "history_popularity", "history_spread"),
        *(f"history_category_{place}" for place in range(num_categories)),
        *("candidates", "score_mean", "score_sd", "score_max", "popularity_mean", "popularity_sd"),
        *(f"age_quantile_{100 * quantile:.0f}" for quantile in _QUANTILES),
        *(f"younger_than_{days:.0f}" for days in FRESH_DAYS),
        *("score_with_age", "score_with_popularity", "age_with_popularity", "candidate_spread"),
        *("like_history", "like_last", "top_age", "top_fresh", "top_popularity", "top_like_history"),
        *(f"candidate_category_{place}" for place in range(num_categories)),
    ]


def summary_space(num_user_features: int, num_categories: int) -> Box:
    """The box that summaries lie in."""
    return Box(-BOUND, BOUND, (len(summary_names(num_user_features, num_categories)),), np.float32)


def summarise(observation: Observation, items: PublicItems) -> NDArray[np.float32]:
    """Describes each request by numbers of order one; see `summary_names` and docs/rl.md for what they are.

    Rows are independent of each other, and the candidates' order does not matter (sums aside, whose last bits it moves).

    Args:
        observation: N requests.
        items: what is known of the catalogue.

    Returns:
        [N, S] float32 in `summary_space`, finite.

    Raises:
        AgentError: if the observation has other categories or more items than the catalogue of `items`.
    """
    num_categories = items.categories.shape[1]
    if observation.candidates.categories.shape[2] != num_categories:
        raise AgentError(
            f"the observation has {observation.candidates.categories.shape[2]} categories, the agent learnt from a log with "
            f"{num_categories}; train the agent on this data set."
        )
    if max(observation.candidates.items.max(initial=-1), observation.history.max(initial=-1)) >= len(items.popularity):
        raise AgentError(
            f"the observation has an item beyond the {len(items.popularity)} that the agent learnt from; "
            "train the agent on this data set."
        )
    history, profile, last = _describe_history(observation, items)
    parts = (
        _describe_context(observation.context),
        observation.user_features,
        history,
        profile,
        *_describe_candidates(observation, items, profile, last),
    )
    summary = np.concatenate(parts, axis=1).astype(np.float32)
    return np.clip(np.nan_to_num(summary, nan=0.0, posinf=BOUND, neginf=-BOUND), -BOUND, BOUND)


def _describe_context(context: NDArray[np.float32]) -> NDArray[np.float32]:
    hour, weekday = 2 * np.pi * context[:, 0] / 24, 2 * np.pi * context[:, 1] / 7
    weekend = context[:, 1] >= 5
    place, day = np.log1p(context[:, 2]) / 4, context[:, 3] / 30
    return np.stack([np.sin(hour), np.cos(hour), np.sin(weekday), np.cos(weekday), weekend, place, day], axis=1)


def _describe_history(
    observation: Observation, items: PublicItems
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Scalars [N, 5], mean categories of the last items [N, G], and the last item's categories [N, G] (0 without any)."""
    known = observation.history >= 0
    rows = np.maximum(observation.history, 0)
    recent = slice(0, RECENT)
    profile = _masked_mean(items.categories[rows[:, recent]], known[:, recent])
    oldest = np.where(known[:, recent], observation.history_days[:, recent], 0).max(axis=1)
    latest = np.where(known[:, 0], observation.history_days[:, 0], 0)
    scalars = np.stack(
        [
            known.mean(axis=1),
            _log_days(latest),
            _log_days(np.maximum(oldest - latest, 0)),
            _masked_mean(items.popularity[rows][:, :, None], known)[:, 0] / 5,
            1 - _length(profile),
        ],
        axis=1,
    )
    return scalars, profile, items.categories[rows[:, 0]] * known[:, :1]


def _describe_candidates(
    observation: Observation, items: PublicItems, profile: NDArray[np.float32], last: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scalars [N, ...] and mean categories [N, G] of the candidates that may be shown."""
    candidates = observation.candidates
    shown = candidates.mask == 1
    score = np.where(shown, candidates.score, 0).astype(np.float32)
    age = np.where(shown, _log_days(candidates.age), 0)
    popularity = np.where(shown, items.popularity[np.maximum(candidates.items, 0)] / 5, 0).astype(np.float32)
    score_mean, score_sd = _moments(score, shown)
    popularity_mean, popularity_sd = _moments(popularity, shown)
    categories = _masked_mean(candidates.categories, shown)
    best = np.argsort(np.where(shown, -score, np.inf), axis=1, kind="stable")[:, :TOP]
    of_best = np.take_along_axis(shown, best, axis=1)

    def of_top(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return _masked_mean(np.take_along_axis(values, best, axis=1)[:, :, None], of_best)[:, 0]

    top_categories = _masked_mean(np.take_along_axis(candidates.categories, best[:, :, None], axis=1), of_best)
    number = shown.sum(axis=1)
    sorted_age = np.sort(np.where(shown, age, np.inf), axis=1)
    quantiles = [
        np.where(
            number > 0, sorted_age[np.arange(len(age)), (quantile * np.maximum(number - 1, 0)).astype(np.int64)], 0
        )
        for quantile in _QUANTILES
    ]
    younger = [(shown & (candidates.age < days)).sum(axis=1) / np.maximum(number, 1) for days in FRESH_DAYS]
    scalars = [
        number / max(shown.shape[1], 1),
        _bounded(score_mean),
        _bounded(score_sd),
        _bounded(np.where(number > 0, np.where(shown, score, -np.inf).max(axis=1, initial=-np.inf), 0)),
        popularity_mean,
        popularity_sd,
        *quantiles,
        *younger,
        _correlation(score, age, shown),
        _correlation(score, popularity, shown),
        _correlation(age, popularity, shown),
        1 - _length(categories),
        _cosine(categories, profile),
        _cosine(categories, last),
        of_top(age),
        of_top((candidates.age < FRESH_DAYS[0]).astype(np.float32)),
        of_top(popularity),
        _cosine(top_categories, profile),
    ]
    return np.stack(scalars, axis=1), categories


def _log_days(days: NDArray[np.float32]) -> NDArray[np.float32]:
    """log(1 + days) over that of 100 years, in [0, 1] up to a century."""
    return (np.log1p(np.maximum(days, 0)) / np.log1p(36_500)).astype(np.float32)


def _bounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return values / (1 + np.abs(values))


def _masked_mean(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[N, G] mean over the second axis of `values` [N, C, G] where `mask` [N, C]; 0 where there is nothing."""
    return (values * mask[:, :, None]).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)[:, None]


def _moments(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    mean = _masked_mean(values[:, :, None], mask)[:, 0]
    return mean, np.sqrt(_masked_mean(((values - mean[:, None]) ** 2)[:, :, None], mask)[:, 0])


def _correlation(left: NDArray[np.float32], right: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    (left_mean, left_sd), (right_mean, right_sd) = _moments(left, mask), _moments(right, mask)
    product = (left - left_mean[:, None]) * (right - right_mean[:, None])
    covariance = _masked_mean(product[:, :, None], mask)[:, 0]
    spread = left_sd * right_sd
    return np.where(spread > 1e-6, covariance / np.maximum(spread, 1e-6), 0)


def _length(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.sqrt((values**2).sum(axis=1))


def _cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    return (left * right).sum(axis=1) / np.maximum(_length(left) * _length(right), 1e-6)
