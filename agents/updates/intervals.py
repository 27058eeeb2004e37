"""Intervals for comparisons on the same users: one rule for means, ratios and differences.

Every figure is a `Measured`: a value with the influence of each user (and training seed) on it. Influences add up the
way that the figures do, so the interval of any difference or ratio of figures is paired on the users by construction.

A figure from several training seeds crosses them with the same users, so both are sources of error. With `z` the
[S, U] influences, the variance of the value is (Owen 2007, The pigeonhole bootstrap; Cameron, Gelbach and Miller 2011)

    s^2(mean of z over users) / S  +  s^2(mean of z over seeds) / U  -  s^2(residuals) / (S U)

with a t quantile at the Welch-Satterthwaite degrees of freedom. With one training seed it is the plain t interval over
users, which says nothing of what another training run would give: `Estimate.num_seeds` is 1 and the reports say so.

Where the figure is also known under M user models fitted to users drawn with replacement, the fitted parameters' uncertainty
comes on top (law of total variance). With `d_m` the difference between the figure under model m and that under the fitted model, of
the same users, it is

    max(s^2(d) - sum over users of s^2(z over models) U / (U - 1), 0)

where `z` [M, U] is the share of each user in `d`: the second term is what the lives of so many users would make the `d` differ by,
were the models all alike (analysis of variance; Searle, Casella and McCulloch 1992, Variance components, ch. 4).
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; NaN bounds where one user alone tells nothing of the spread, or a user model has no figure."""

    value: float
    low: float
    high: float
    num_users: int
    num_seeds: int

    @property
    def margin(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval is above zero."""
        return bool(self.low > 0)

    @property
    def includes_zero(self) -> bool:
        """Whether zero is a value that the interval does not exclude (also where there is no interval)."""
        return not (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Measured:
    """A figure of S training seeds by U users, with each one's influence on it."""

    value: float
    influence: NDArray[np.float64]
    """[S, U] how the figure moves with each (seed, user), to first order; sums to zero."""
    refitted: tuple["Refitted", ...] = ()
    """The figure under each user model of drawn users; empty where there is only the fitted one."""

    @classmethod
    def mean(cls, values: ArrayLike, among: NDArray[np.bool_] | None = None) -> "Measured":
        """The mean of `values` [U] or [S, U]; of the users `among` [U] only, where given, the others having no influence."""
        table = np.atleast_2d(np.asarray(values, np.float64))
        if among is None:
            return cls(float(table.mean()), table - table.mean())
        value = float(table[:, among].mean())
        return cls(value, np.where(among, table - value, 0.0) * (len(among) / among.sum()))

    @classmethod
    def ratio(cls, numerators: ArrayLike, denominators: ArrayLike) -> "Measured":
        """The sum of `numerators` over the sum of `denominators`, each [U] or [S, U]; NaN where that sum is zero."""
        return cls.mean(numerators) / cls.mean(denominators)

    def __sub__(self, other: "Measured") -> "Measured":
        influence = _seeds_matched(self, other) - other.influence
        return Measured(self.value - other.value, influence, _pairwise(operator.sub, self, other))

    def __truediv__(self, other: "Measured") -> "Measured":
        refitted = _pairwise(operator.truediv, self, other)
        if other.value == 0:
            return Measured(float("nan"), np.full_like(_seeds_matched(self, other) - other.influence, np.nan), refitted)
        value = self.value / other.value
        return Measured(value, (_seeds_matched(self, other) - value * other.influence) / other.value, refitted)

    def estimate(self, confidence: float = CONFIDENCE) -> Estimate:
        """The value with its t interval; see the module for which."""
        seeds, users = self.influence.shape
        if users < 2 or not np.isfinite(self.influence).all():
            return Estimate(self.value, float("nan"), float("nan"), users, seeds)
        error, freedom = _standard_error(self.influence)
        if len(self.refitted) > 1:
            error, freedom = _with_user_models(error, freedom, self.refitted)
            if np.isnan(error):
                return Estimate(self.value, float("nan"), float("nan"), users, seeds)
        margin = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error if error > 0 else 0.0
        return Estimate(self.value, self.value - margin, self.value + margin, users, seeds)


@dataclass(frozen=True)
class Refitted:
    """A figure of the users whom a user model of drawn users knows."""

    under: Measured
    """Under that user model."""
    fitted: Measured
    """Under the fitted one."""


def _pairwise(
    operation: Callable[[Measured, Measured], Measured], first: Measured, second: Measured
) -> tuple[Refitted, ...]:
    """The operation under each user model; nothing where one of the figures is known under the fitted one only."""
    if not first.refitted or not second.refitted:
        return ()
    return tuple(
        Refitted(operation(one.under, other.under), operation(one.fitted, other.fitted))
        for one, other in zip(first.refitted, second.refitted, strict=True)
    )


def _seeds_matched(first: Measured, second: Measured) -> NDArray[np.float64]:
    """Influence of `first`, ready to be combined with `second`'s: one seed stands against each of several."""
    (seeds, users), (other_seeds, other_users) = first.influence.shape, second.influence.shape
    if users != other_users or (seeds != other_seeds and 1 not in (seeds, other_seeds)):
        raise ValueError(
            f"figures of {seeds} seeds by {users} users and {other_seeds} by {other_users} cannot be paired; "
            "measure both on the same users and seeds."
        )
    return np.broadcast_to(first.influence, (max(seeds, other_seeds), users))


def _standard_error(influence: NDArray[np.float64]) -> tuple[float, float]:
    """(standard error, degrees of freedom) of the mean of [S, U] crossed values."""
    seeds, users = influence.shape
    by_user = influence.mean(axis=0)
    user_part = float(by_user.var(ddof=1)) / users
    if seeds == 1:
        return float(np.sqrt(user_part)), users - 1
    by_seed = influence.mean(axis=1)
    seed_part = float(by_seed.var(ddof=1)) / seeds
    residual = influence - by_user - by_seed[:, None] + influence.mean()
    cell_freedom = (seeds - 1) * (users - 1)
    cell_part = float((residual**2).sum()) / cell_freedom / (seeds * users)
    variance = max(seed_part + user_part - cell_part, seed_part, user_part)
    if variance == 0:
        return 0.0, users - 1
    spread = seed_part**2 / (seeds - 1) + user_part**2 / (users - 1) + cell_part**2 / cell_freedom
    return float(np.sqrt(variance)), variance**2 / spread


def _with_user_models(error: float, freedom: float, refitted: Sequence[Refitted]) -> tuple[float, float]:
    """(standard error, degrees of freedom) with the spread over user models of drawn users on top of `error`; NaN where it is."""
    within, between = error**2, variance_between(refitted)
    if between == 0:
        return error, freedom
    total = within + between
    welch = total**2 / (within**2 / freedom + between**2 / (len(refitted) - 1))
    return float(np.sqrt(total)), min(welch, freedom)  # more doubt makes no interval narrower


def variance_between(refitted: Sequence[Refitted]) -> float:
    """Variance of a figure between user models of drawn users, less what the chances of the users' lives add to it; not below 0.
    NaN where a figure is not defined under one of them."""
    off = np.array([each.under.value - each.fitted.value for each in refitted])
    users = refitted[0].under.influence.shape[1]
    share = np.stack([(each.under.influence - each.fitted.influence).mean(axis=0) for each in refitted]) / users
    chance = float(share.var(axis=0, ddof=1).sum()) * users / (users - 1)
    return float(np.maximum(off.var(ddof=1) - chance, 0.0))


def paired_difference(first: ArrayLike, second: ArrayLike) -> Estimate:
    """Mean of `first` minus `second` on the same users, each [U] or [S, U]."""
    return (Measured.mean(first) - Measured.mean(second)).estimate()


def mean_interval(values: NDArray[np.floating]) -> tuple[float, float | None, float | None]:
    """Mean of `values` [S], of one seed each, with its t interval; no interval of fewer than two."""
    mean = float(values.mean())
    if len(values) < 2:
        return mean, None, None
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * float(stats.sem(values))
    return mean, mean - margin, mean + margin
