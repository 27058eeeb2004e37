"""What is told of a user's sequence of items: the statistics that the boosted trees see (docs/fidelity.md lists them).

All come from items, their order and the user's history, never from times: so what differs is taste, not the calendar. Items are
described by public features (categories, birth), by how often the fit part has them, and by a co-occurrence embedding of the
fit part that owes nothing to the user model under test.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

from envs.catalogue import SECONDS_PER_DAY, Catalogue
from envs.users.likelihood import EventSplit, Part
from evaluation.fidelity.free_running import Sequences

LAGS = tuple(range(1, 11))
"""Distances at which a category is looked for again."""
_EMBEDDING_SIZE = 16
_DAYS_PER_YEAR = 365.25
_RECENT = 10


@dataclass(frozen=True, kw_only=True)
class ItemFeatures:
    """What is known of I items without any user model."""

    popularity: NDArray[np.float64]
    """[I] log(1 + events of the fit part)."""
    directions: NDArray[np.float64]
    """[I, G] categories at unit length."""
    categories: NDArray[np.float64]
    """[I, G] categories; rows sum to 1."""
    birth_years: NDArray[np.float64]
    """[I] birth in years since 1970."""
    embedding: NDArray[np.float64]
    """[I, d] co-occurrence embedding at unit length, 0 for an item that the fit part lacks."""

    @classmethod
    def of(cls, catalogue: Catalogue, split: EventSplit) -> "ItemFeatures":
        """From the fit part of `split` and the public catalogue."""
        return cls(
            popularity=np.log1p(split.counts(Part.FIT)),
            directions=catalogue.directions.astype(np.float64),
            categories=catalogue.categories.astype(np.float64),
            birth_years=catalogue.birth / (SECONDS_PER_DAY * _DAYS_PER_YEAR),
            embedding=_co_occurrence(split),
        )

    @cached_property
    def popularity_rank(self) -> NDArray[np.float64]:
        """[I] rank by popularity from 0 (least) to 1."""
        return np.argsort(np.argsort(self.popularity, kind="stable")) / max(len(self.popularity) - 1, 1)


def _co_occurrence(split: EventSplit) -> NDArray[np.float64]:
    """[I, d] right singular vectors of the users-by-items matrix of the fit part, scaled by tf-idf, at unit length."""
    fit = split.part == Part.FIT
    shape = (split.num_users, split.num_items)
    seen = csr_matrix((np.ones(fit.sum()), (split.user[fit], split.item[fit])), shape=shape)
    seen.data[:] = 1
    of_item, of_user = np.asarray(seen.sum(axis=0))[0], np.asarray(seen.sum(axis=1))[:, 0]
    seen = (
        seen.multiply(1 / np.sqrt(np.maximum(of_user, 1))[:, None])
        .multiply(1 / np.sqrt(np.maximum(of_item, 1)))
        .tocsr()
    )
    size = min(_EMBEDDING_SIZE, min(shape) - 1)
    _, strength, vectors = svds(seen, k=size, random_state=0)
    embedding = vectors.T * strength
    return embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)


def sequence_statistics(
    sequences: Sequences, past: Sequences, features: ItemFeatures
) -> tuple[NDArray[np.float64], tuple[str, ...], NDArray[np.int64]]:
    """([S, k] statistics, their k names, [S] users) of all users with at least two events; NaN where there are too few."""
    starts, past_starts = sequences.starts, past.starts
    users = np.flatnonzero(np.diff(starts) >= 2)
    rows = []
    for user in users:
        items = sequences.item[starts[user] : starts[user + 1]]
        earlier = past.item[past_starts[user] : past_starts[user + 1]]
        rows.append(_statistics(items, earlier, features))
    names = tuple(rows[0]) if rows else ()
    return np.array([list(row.values()) for row in rows]), names, users


def _statistics(items: NDArray[np.int64], earlier: NDArray[np.int64], features: ItemFeatures) -> dict[str, float]:
    popularity, years = features.popularity[items], features.birth_years[items]
    directions, embedding = features.directions[items], features.embedding[items]
    shares = features.categories[items].mean(axis=0)
    found = {
        "length": float(np.log(len(items))),
        **_summary("popularity", popularity),
        "popularity_lag_1": _autocorrelation(popularity),
        "popularity_trend": _trend(popularity),
        "popularity_against_past": float(popularity.mean() - features.popularity[earlier].mean()),
        "popularity_against_recent": float(
            popularity[:_RECENT].mean() - features.popularity[earlier[-_RECENT:]].mean()
        ),
        "unseen_share": float((popularity == 0).mean()),
        "hit_share": float((features.popularity_rank[items] > 0.9).mean()),
        **_summary("birth", years),
        "birth_lag_1": _autocorrelation(years),
        "birth_step": float(np.median(np.abs(np.diff(years)))),
        "birth_trend": _trend(years),
        "birth_against_past": float(years.mean() - features.birth_years[earlier].mean()),
        "newest_share": float((years > np.quantile(features.birth_years, 0.8)).mean()),
        "category_entropy": _entropy(shares),
        "top_category_share": float(shares.max(initial=0)),
        "categories_seen": float((shares > 0).sum()),
        "category_against_past": _cosine(shares, features.categories[earlier].mean(axis=0)),
    }
    for lag in LAGS:
        found[f"category_lag_{lag}"] = _lagged(directions, lag)
    for lag in (1, 2, 3, 5, 10):
        found[f"similarity_lag_{lag}"] = _lagged(embedding, lag)
    mean = embedding.mean(axis=0)
    past_mean, recent = features.embedding[earlier].mean(axis=0), features.embedding[earlier[-_RECENT:]].mean(axis=0)
    found["similarity_spread"] = float(1 - mean @ mean)
    found["similarity_to_past"] = float((embedding @ past_mean).mean())
    found["similarity_to_recent"] = float((embedding[:_RECENT] @ recent).mean())
    found["similarity_first"] = float(embedding[0] @ features.embedding[earlier[-1]]) if len(earlier) else np.nan
    found["similarity_lowest"] = float(np.quantile(embedding @ past_mean, 0.1))
    return found


def _summary(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return {
        f"{name}_mean": float(values.mean()),
        f"{name}_sd": float(values.std()),
        f"{name}_low": float(low),
        f"{name}_median": float(middle),
        f"{name}_high": float(high),
    }


def _autocorrelation(values: NDArray[np.float64]) -> float:
    """Correlation of neighbours about the sequence's mean."""
    centred = values - values.mean()
    total = (centred**2).sum()
    return float((centred[1:] * centred[:-1]).sum() / total) if total > 0 else float("nan")


def _trend(values: NDArray[np.float64]) -> float:
    """Mean of the second half less that of the first."""
    half = len(values) // 2
    return float(values[half:].mean() - values[:half].mean())


def _lagged(vectors: NDArray[np.float64], lag: int) -> float:
    """Mean cosine of items `lag` apart."""
    if len(vectors) <= lag:
        return float("nan")
    return float((vectors[lag:] * vectors[:-lag]).sum(axis=1).mean())


def _entropy(shares: NDArray[np.float64]) -> float:
    total = shares.sum()
    kept = shares[shares > 0] / total if total > 0 else np.ones(1)
    return float(-(kept * np.log(kept)).sum())


def _cosine(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float(first @ second / max(float(np.linalg.norm(first) * np.linalg.norm(second)), 1e-12))
