"""Step measures and the reward: one definition each (design: engagement, diversity and freshness of what was consumed)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.catalogue import SECONDS_PER_DAY
from envs.rewards import Parts, Reward

RECENT_ITEMS = 10
"""Number of last consumed items that a new one is compared with for the diversity of consumption."""


@dataclass(frozen=True, kw_only=True)
class RewardWeights(Reward):
    """Weights of the scalar reward, in units of one click."""

    engagement: float = 1.0
    """Per item consumed."""
    diversity: float = 0.5
    """Per item consumed, times its distance (0 to 1) from the last items consumed."""
    freshness: float = 0.5
    """Per item consumed that is younger than the run's `fresh_days`."""

    def of(self, parts: Parts) -> NDArray[np.float32]:
        """[N] the weighted sum of engagement, diversity and freshness."""
        return self.engagement * parts.engagement + self.diversity * parts.diversity + self.freshness * parts.freshness


def consumed_diversity(
    directions: NDArray[np.float32], item: NDArray[np.int32], history: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Diversity of what was consumed: 1 - mean cosine between the item's categories and those of the last items.

    Args:
        directions: [I, G] public categories of unit length.
        item: [N] item consumed, -1 for none.
        history: [N, H] items consumed before, newest first, -1 where there are fewer.

    Returns:
        [N] in [0, 1]; 0 where nothing was consumed, or nothing before.
    """
    recent = history[:, :RECENT_ITEMS]
    known = recent >= 0
    cosine = np.matmul(directions[np.maximum(recent, 0)], directions[np.maximum(item, 0)][:, :, None])[:, :, 0]
    number = known.sum(axis=1)
    mean = (cosine * known).sum(axis=1) / np.maximum(number, 1)
    return np.where((item >= 0) & (number > 0), 1 - mean, 0).astype(np.float32)


def intra_list_distance(directions: NDArray[np.float32], slates: NDArray[np.int32]) -> NDArray[np.float32]:
    """[N] mean over pairs of shown items of 1 - cosine of their public categories; 0 for slates of fewer than two items.

    Args:
        directions: [I, G] public categories of unit length.
        slates: [N, K] items, -1 for an empty slot.

    Source: Ziegler et al. (2005), Improving recommendation lists through topic diversification, eq. 6 (as a distance).
    """
    shown = slates >= 0
    vectors = directions[np.maximum(slates, 0)] * shown[:, :, None]
    # the sum over pairs of cosines is (|sum of vectors|² - sum of |vector|²) / 2
    total = (vectors.sum(axis=1) ** 2).sum(axis=1) - (vectors**2).sum(axis=(1, 2))
    number = shown.sum(axis=1)
    pairs = number * (number - 1)
    return np.where(pairs > 0, 1 - total / np.maximum(pairs, 1), 0).astype(np.float32)


def category_entropy(category_mass: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N] Shannon entropy in nats of consumption over categories, from the mass in each category [N, G]."""
    total = category_mass.sum(axis=1, keepdims=True)
    share = category_mass / np.where(total > 0, total, 1)
    return -(share * np.log(np.where(share > 0, share, 1))).sum(axis=1)


def catalogue_coverage(exposures: NDArray[np.int64]) -> float:
    """Share of the catalogue shown at least once, from the number of exposures of each item [I]."""
    return float((exposures > 0).mean())


def gini(exposures: NDArray[np.int64]) -> float:
    """Gini coefficient of exposures [I]: 0 when all items are shown alike, near 1 when few get all; 0 without exposures."""
    ordered = np.sort(exposures.astype(np.float64))
    total, count = ordered.sum(), len(ordered)
    if total == 0:
        return 0.0
    return float((2 * np.arange(1, count + 1) - count - 1) @ ordered / (count * total))


def time_to_exposure(birth_clock: NDArray[np.float64], first_shown: NDArray[np.float64]) -> tuple[float, float]:
    """How soon new items reach anybody.

    Args:
        birth_clock: [B] seconds at which each item was born.
        first_shown: [B] seconds at which it was first shown to anybody, infinite if never.

    Returns:
        (share of the items that were ever shown, mean days from birth to first exposure of those); NaN where there are none.
    """
    shown = np.isfinite(first_shown)
    share = float(shown.mean()) if len(shown) else float("nan")
    days = (first_shown[shown] - birth_clock[shown]) / SECONDS_PER_DAY
    return share, float(days.mean()) if len(days) else float("nan")
