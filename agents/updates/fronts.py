"""What engagement costs: fronts of policies' (cost, engagement) points, and how far a policy lies above one.

A front is the upper concave hull of points, not the staircase of those that no other beats: who draws before an episode which
of two schedules it follows has, in the mean, any point between theirs, so every point of the hull can be had. It is
therefore the harder front to beat.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agents.updates.intervals import mean_interval
from envs.errors import ConfigurationError


@dataclass(frozen=True)
class Mixture:
    """What is drawn from to get a given cost: at most two policies of a front."""

    weights: Mapping[str, float]
    """Chance of each; they sum to 1."""
    slope: float
    """Engagement that one more unit of cost buys here; 0 beyond the right end."""


@dataclass(frozen=True)
class Front:
    """The upper concave hull of points, up to that of the largest engagement."""

    names: tuple[str, ...]
    """Policies on it, the cheapest first."""
    cost: NDArray[np.float64]
    """[K], rising."""
    engagement: NDArray[np.float64]
    """[K], rising."""

    @classmethod
    def of(cls, points: Mapping[str, tuple[float, float]]) -> "Front":
        """The front of named (cost, engagement) points; of equal points it has the first.

        Source: Andrew (1979), Another efficient algorithm for convex hulls in two dimensions, its upper half.

        Raises:
            ConfigurationError: if there is no point, or one is not finite.
        """
        if not points or not np.isfinite(list(points.values())).all():
            raise ConfigurationError("a front needs one point or more, all of finite cost and engagement.")
        hull: list[tuple[float, float, str]] = []
        for cost, negative, name in sorted(
            ((cost, -engagement, name) for name, (cost, engagement) in points.items()), key=lambda point: point[:2]
        ):
            engagement = -negative
            if hull and engagement <= hull[-1][1]:
                continue  # costs no less and gives no more
            while len(hull) > 1 and _on_or_below(hull[-2], hull[-1], (cost, engagement)):
                hull.pop()
            hull.append((cost, engagement, name))
        costs, engagements, names = zip(*hull, strict=True)
        return cls(names, np.array(costs, np.float64), np.array(engagements, np.float64))

    def at(self, cost: ArrayLike) -> NDArray[np.float64]:
        """The engagement that can be had at each `cost` [...]: between two points by drawing one of them, beyond the right end the
        largest there is (money need not be spent), and NaN below the left end, where nothing can be had."""
        asked = np.asarray(cost, np.float64)
        return np.where(asked < self.cost[0], np.nan, np.interp(asked, self.cost, self.engagement))

    def mixture(self, cost: float) -> Mixture:
        """What gives `at(cost)`.

        Raises:
            ConfigurationError: if `cost` lies below the left end.
        """
        if not cost >= self.cost[0]:
            raise ConfigurationError(f"nothing on the front costs {cost:g} or less; add the policy that never updates.")
        right = int(np.searchsorted(self.cost, cost, side="right"))
        if right == len(self.cost):
            return Mixture({self.names[-1]: 1.0}, 0.0)
        width = self.cost[right] - self.cost[right - 1]
        share = float((cost - self.cost[right - 1]) / width)
        slope = float((self.engagement[right] - self.engagement[right - 1]) / width)
        return Mixture({self.names[right - 1]: 1 - share, self.names[right]: share}, slope)


def _on_or_below(left: tuple[float, float, str], middle: tuple[float, float, str], right: tuple[float, float]) -> bool:
    """Whether the middle point does not lie above the line from the left to the right one."""
    return (middle[1] - left[1]) * (right[0] - left[0]) <= (right[1] - left[1]) * (middle[0] - left[0])


@dataclass(frozen=True)
class AboveFront:
    """How far one policy lies above the front of others at its own cost."""

    value: float
    """In engagement; negative: below."""
    low: float | None
    high: float | None
    """Ends of the 95 % t interval over seeds; None with one seed."""
    cost: float
    """Of the policy."""
    mixture: Mixture
    """What of the others' front costs as much, over all seeds."""
    by_seed: NDArray[np.float64]
    """[S] whose mean is `value`."""


def above_front(
    cost: ArrayLike, engagement: ArrayLike, others: Mapping[str, tuple[ArrayLike, ArrayLike]]
) -> AboveFront:
    """Engagement of a policy minus that of the others' front, interpolated at its cost and paired by seed.

    With which of the others a seed compares is decided by all the other seeds: the mixture of w_k on their front that costs as
    much as the policy there. So nobody's luck is taken for merit (a front of the same seeds' means is too high, the more so the
    more policies there are), and hulls of single seeds are not taken at all. With b the slope of that front,

        d_s = (e_s - b c_s) - sum over k of w_k (e_ks - b c_ks)

    accounts for costs that differ from their means (the delta method). The value is the mean of d_s, its interval a t interval over
    them. It holds what worlds vary by, not what trainings of the policy do. One seed is compared with its own front.

    Source: leave-one-out cross-validation of a selected estimator, Stone (1974), Cross-validatory choice and assessment of
    statistical predictions.

    Args:
        cost: [S] of the policy, by seed.
        engagement: [S] likewise.
        others: by name, (cost [S], engagement [S]) on the same seeds in the same order.

    Raises:
        ConfigurationError: if there are no others, or none of them is as cheap as the policy.
    """
    own_cost, own = np.asarray(cost, np.float64), np.asarray(engagement, np.float64)
    table = {name: (np.asarray(c, np.float64), np.asarray(e, np.float64)) for name, (c, e) in others.items()}

    def alike(seeds: NDArray[np.bool_]) -> Mixture:
        """What costs as much as the policy in `seeds` [S]."""
        front = Front.of({name: (float(c[seeds].mean()), float(e[seeds].mean())) for name, (c, e) in table.items()})
        return front.mixture(float(own_cost[seeds].mean()))

    everywhere = np.ones(len(own), bool)
    by_seed = np.empty(len(own))
    for seed in range(len(own)):
        mixture = alike(np.arange(len(own)) != seed if len(own) > 1 else everywhere)
        by_seed[seed] = own[seed] - mixture.slope * own_cost[seed]
        for name, weight in mixture.weights.items():
            c, e = table[name]
            by_seed[seed] -= weight * (e[seed] - mixture.slope * c[seed])
    return AboveFront(*mean_interval(by_seed), float(own_cost.mean()), alike(everywhere), by_seed)
