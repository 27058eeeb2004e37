"""The engagement head: what a user gives to an item that it consumed, its rating or, where the log has none, its watch time.

A latent score = user's level + item's level + slope * utility + noise is cut into the values that the log knows: stars at the
middles between them, watch time at the middles between a hundred of its quantiles, on the scale log(1 + seconds). An item's level
holds an effect of log(1 + duration) where the log tells of watch time and durations.

Levels are shrunk means; how far back a user's events count and how strongly levels are shrunk is chosen by the error on the
early-stopping part. There the score is recalibrated too (a line and the noise, by maximum likelihood of the values seen),
because levels fitted to events predict these too well and users drift. Then levels are computed once more with the early-stopping
part included, since simulated lives begin after it. Test figures come from the test part.
"""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from envs.logs.schema import InteractionLog
from envs.users.likelihood import EventSplit, Part

RIDGES = (2.0, 5.0, 12.0, 30.0)
"""Candidates for the events' worth of prior that a level is the mean."""
HALF_LIVES = (20.0, 60.0, 200.0, np.inf)
"""Candidates for the events after which an event counts half in its user's level."""
_WATCH_VALUES = 100
_MAX_GRID = 64
_MIN_RECALIBRATION = 200
"""Events below which the early-stopping part cannot bear a line."""
_PRIOR_SD = 1.0
"""Standard deviation of the prior of the line about the identity, and of the log of the noise."""
_BINS = 10
_SWEEPS = 6
_RESAMPLES = 200

Interval = tuple[float, float]
UNKNOWN: Interval = (float("nan"), float("nan"))


@dataclass(frozen=True, kw_only=True)
class EngagementFit:
    """Fitted head; see `InterestModel.rate`."""

    unit: str
    """'rating', 'watch_seconds', or '' where the log has neither."""
    user: NDArray[np.float32]
    """[U] level at utility 0."""
    item: NDArray[np.float32]
    """[I] level against the users'."""
    grid: NDArray[np.float32]
    """[G] values that are given, ascending, in the log's unit; empty without engagement."""
    cuts: NDArray[np.float32]
    """[G - 1] scores between which each value lies."""
    slope: float = 0.0
    """Score per logit of utility."""
    slope_interval: Interval = UNKNOWN
    sd: float = 1.0
    """Standard deviation of the score about its mean."""
    sd_interval: Interval = UNKNOWN
    user_spread: float = 0.0
    """Standard deviation of the users' levels."""
    user_spread_interval: Interval = UNKNOWN
    item_spread: float = 0.0
    """Standard deviation of the items' levels."""
    item_spread_interval: Interval = UNKNOWN
    duration_slope: float = 0.0
    """Score per log(1 + seconds of duration); 0 where durations play no part."""
    half_life: float = np.inf
    """Events after which an event counts half in its user's level (chosen)."""
    user_ridge: float = 0.0
    """Events' worth of shrinkage of users' levels (chosen)."""
    item_ridge: float = 0.0
    """Events' worth of shrinkage of items' levels (chosen)."""
    recalibration: tuple[float, float] = (0.0, 1.0)
    """Intercept and slope of the line that the levels were put through."""
    test_rmse: float = float("nan")
    """Root mean squared error of the expected value on the test part, in the log's unit."""
    test_rmse_of_mean: float = float("nan")
    """That of the mean of all earlier events."""
    calibration_error: float = float("nan")
    """Expected calibration error on the test part: mean over ten equal groups, by expected value, of the distance between the mean
    value expected and the mean value seen, in the log's unit."""
    calibration_interval: Interval = UNKNOWN
    """95 % interval of it, users resampled."""

    def figures(self) -> dict[str, float | str | list[float]]:
        """What goes into the fit's report."""
        return {
            "engagement_unit": self.unit,
            "rating_rmse": self.test_rmse,
            "rating_rmse_of_mean": self.test_rmse_of_mean,
            "rating_calibration_error": self.calibration_error,
            "rating_calibration_interval": list(self.calibration_interval),
        }


@dataclass(frozen=True, kw_only=True)
class _Events:
    """E events with a score."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    utility: NDArray[np.float64]
    """[E] less its mean."""
    score: NDArray[np.float64]
    """[E] on the latent scale."""
    value: NDArray[np.float64]
    """[E] in the log's unit."""
    part: NDArray[np.int64]
    place: NDArray[np.int64]
    num_users: int
    num_items: int

    def levels(
        self,
        target: NDArray[np.float64],
        rows: NDArray[np.bool_],
        half_life: float,
        user_ridge: float,
        item_ridge: float,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """([U], [I]) shrunk levels of `target` [E] over the events of `rows`, by turns until they agree (backfitting)."""
        user, item, wanted = self.user[rows], self.item[rows], target[rows]
        last = np.zeros(self.num_users)
        np.maximum.at(last, user, self.place[rows])
        weight = np.exp2((self.place[rows] - last[user]) / half_life)
        of_user = np.bincount(user, weight, minlength=self.num_users) + user_ridge
        of_item = np.bincount(item, minlength=self.num_items) + item_ridge
        users, items = np.zeros(self.num_users), np.zeros(self.num_items)
        for _ in range(_SWEEPS):
            users = np.bincount(user, weight * (wanted - items[item]), minlength=self.num_users) / of_user
            items = np.bincount(item, wanted - users[user], minlength=self.num_items) / of_item
        return users, items

    def summed(self, levels: tuple[NDArray[np.float64], NDArray[np.float64]]) -> NDArray[np.float64]:
        """[E] user's and item's levels of every event."""
        return levels[0][self.user] + levels[1][self.item]


def engagement(log: InteractionLog) -> tuple[NDArray[np.float64], str]:
    """([R] what users gave to the items of the log's rows, NaN where unknown; its unit as in `EngagementFit.unit`): the ratings, or
    the watch times where no consumed item has a rating."""
    if np.isfinite(log.rating[log.clicked]).any():
        return log.rating.astype(np.float64), "rating"
    if log.watch_seconds is not None and np.isfinite(log.watch_seconds[log.clicked]).any():
        return log.watch_seconds.astype(np.float64), "watch_seconds"
    return np.full(len(log), np.nan), ""


def fit_engagement(log: InteractionLog, split: EventSplit, utility: NDArray[np.float32]) -> EngagementFit:
    """Fits the head to the events of `split`, whose consumed items had `utility` [E] for their users."""
    value, unit = engagement(log.consumed())
    value = value[split.row]
    known = np.isfinite(value)
    if not known.any():
        nothing = np.zeros(0, np.float32)
        levels = np.zeros(split.num_users, np.float32), np.zeros(split.num_items, np.float32)
        return EngagementFit(unit="", user=levels[0], item=levels[1], grid=nothing, cuts=nothing)
    grid, cuts = _values(value[known], unit)
    score = np.log1p(np.maximum(value, 0)) if unit == "watch_seconds" else value
    durations = log.catalogue.duration_seconds if unit == "watch_seconds" else None
    part = split.part[known]
    if not (part == Part.FIT).any():
        part = np.zeros_like(part)
    fit = part == Part.FIT
    mean, mean_utility = float(score[known][fit].mean()), float(utility[known][fit].mean())
    duration_slope, of_duration = _duration_effect(score[known], split.item[known], fit, durations, split.num_items)
    events = _Events(
        user=split.user[known],
        item=split.item[known],
        utility=utility[known].astype(np.float64) - mean_utility,
        score=score[known] - mean - of_duration[split.item[known]],
        value=value[known],
        part=part,
        place=split.place[known],
        num_users=split.num_users,
        num_items=split.num_items,
    )
    strength = _chosen_strength(events)
    slope, slope_interval = _utility_slope(events, fit, strength)
    rest = events.score - slope * events.utility
    level = events.summed(events.levels(rest, fit, *strength)) + mean + of_duration[events.item]
    by_utility = slope * events.utility

    stop = part == Part.STOP if (part == Part.STOP).sum() >= _MIN_RECALIBRATION else fit
    line, sd, sd_interval = _recalibrated(
        level[stop],
        by_utility[stop],
        events.value[stop],
        events.user[stop],
        grid,
        cuts,
        max(float((rest - level)[stop].std()), 1e-2),
        stop is not fit,
    )

    users, items = events.levels(rest, part != Part.TEST, *strength)
    user = line[0] + line[1] * (mean + users) - slope * mean_utility
    item = line[1] * (items + of_duration)
    fitted = EngagementFit(
        unit=unit,
        user=user.astype(np.float32),
        item=item.astype(np.float32),
        grid=grid,
        cuts=cuts,
        slope=slope,
        slope_interval=slope_interval,
        sd=sd,
        sd_interval=sd_interval,
        user_spread=float(user.std()),
        user_spread_interval=_interval_of_sd(user),
        item_spread=float(item.std()),
        item_spread_interval=_interval_of_sd(item),
        duration_slope=line[1] * duration_slope,
        half_life=strength[0],
        user_ridge=strength[1],
        item_ridge=strength[2],
        recalibration=line,
    )
    return _tested(fitted, events, utility[known])


def expected_on_grid(
    score: NDArray[np.floating], sd: float, grid: NDArray[np.float32], cuts: NDArray[np.float32]
) -> NDArray[np.float64]:
    """[E] mean of the values that are drawn at mean `score` [E]: noise and cuts included."""
    above = special.ndtr((np.asarray(score, np.float64)[:, None] - cuts) / sd)
    mean: NDArray[np.float64] = grid[0] + (above * np.diff(grid)).sum(axis=1)
    return mean


def _values(value: NDArray[np.float64], unit: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(values that are given, cuts between them on the scale of the score)."""
    if unit == "watch_seconds":
        grid = np.unique(np.quantile(np.maximum(value, 0), (np.arange(_WATCH_VALUES) + 0.5) / _WATCH_VALUES))
        score = np.log1p(grid)
    else:
        grid = np.unique(value)
        if len(grid) > _MAX_GRID:
            grid = np.linspace(grid[0], grid[-1], _MAX_GRID)
        score = grid
    return grid.astype(np.float32), ((score[1:] + score[:-1]) / 2).astype(np.float32)


def _duration_effect(
    score: NDArray[np.float64],
    item: NDArray[np.int64],
    fit: NDArray[np.bool_],
    durations: NDArray[np.float32] | None,
    num_items: int,
) -> tuple[float, NDArray[np.float64]]:
    """(slope, [I] effect) of log(1 + duration) by least squares over the fit part, its mean taken out; 0 where it is unknown."""
    if durations is None:
        return 0.0, np.zeros(num_items)
    length = np.log1p(np.maximum(durations, 0).astype(np.float64))
    rows = fit & np.isfinite(length[item])
    if rows.sum() < 2 or length[item[rows]].std() < 1e-9:
        return 0.0, np.zeros(num_items)
    centred = length - length[item[rows]].mean()
    slope = float(centred[item[rows]] @ (score[rows] - score[rows].mean()) / (centred[item[rows]] ** 2).sum())
    return slope, np.where(np.isfinite(centred), slope * centred, 0.0)


def _chosen_strength(events: _Events) -> tuple[float, float, float]:
    """(half-life, users' ridge, items' ridge) with the least squared error on the early-stopping part."""
    fit, stop = events.part == Part.FIT, events.part == Part.STOP
    if stop.sum() < _MIN_RECALIBRATION:
        return np.inf, RIDGES[1], RIDGES[1]

    def error(strength: tuple[float, float, float]) -> float:
        off = (events.score - events.summed(events.levels(events.score, fit, *strength)))[stop]
        return float(((off - off.mean()) ** 2).sum())

    return min(product(HALF_LIVES, RIDGES, RIDGES), key=error)


def _utility_slope(
    events: _Events, rows: NDArray[np.bool_], strength: tuple[float, float, float]
) -> tuple[float, Interval]:
    """Slope of what levels leave of the score on what they leave of the utility (Robinson 1988), clustered by user."""
    x = events.utility - events.summed(events.levels(events.utility, rows, *strength))
    y = events.score - events.summed(events.levels(events.score, rows, *strength))
    x, y = x[rows] - x[rows].mean(), y[rows] - y[rows].mean()
    total = float(x @ x) + 1e-9
    slope = float(x @ y) / total
    half = 1.96 * float(np.sqrt((np.bincount(events.user[rows], x * (y - slope * x)) ** 2).sum())) / total
    return slope, (slope - half, slope + half)


def _recalibrated(
    levels: NDArray[np.float64],
    by_utility: NDArray[np.float64],
    value: NDArray[np.float64],
    user: NDArray[np.int64],
    grid: NDArray[np.float32],
    cuts: NDArray[np.float32],
    first_sd: float,
    with_line: bool,
) -> tuple[tuple[float, float], float, Interval]:
    """((intercept, slope) of the line through the levels, standard deviation of the noise, its interval), by maximum likelihood
    of the values between their cuts: an ordered probit whose cuts are known. Without a line only the noise is estimated."""
    drawn = np.searchsorted((grid[1:] + grid[:-1]) / 2, value)
    high = np.append(cuts, np.inf)[drawn]
    low = np.insert(cuts, 0, -np.inf)[drawn]

    def loss_of_each(theta: NDArray[np.float64]) -> NDArray[np.float64]:
        mean, sd = by_utility + (theta[0] + theta[1] * levels if with_line else levels), np.exp(theta[2])
        share = special.ndtr((high - mean) / sd) - special.ndtr((low - mean) / sd)
        each: NDArray[np.float64] = -np.log(np.maximum(share, 1e-12))
        return each

    def loss(theta: NDArray[np.float64]) -> float:
        off = theta - start
        return float(loss_of_each(theta).sum() + 0.5 * off @ off / _PRIOR_SD**2)

    start = np.array([0.0, 1.0, np.log(first_sd)])
    theta = optimize.minimize(loss, start, method="BFGS").x
    step = 1e-3
    up, down, here = (loss_of_each(theta + np.array([0, 0, along])) for along in (step, -step, 0.0))
    information = float((up + down - 2 * here).sum()) / step**2 + _PRIOR_SD**-2
    scores = np.bincount(user, (up - down) / (2 * step))
    half = 1.96 * float(np.sqrt((scores**2).sum())) / information
    line = (float(theta[0]), float(theta[1])) if with_line else (0.0, 1.0)
    return line, float(np.exp(theta[2])), (float(np.exp(theta[2] - half)), float(np.exp(theta[2] + half)))


def _interval_of_sd(levels: NDArray[np.float64]) -> Interval:
    """Percentile interval of the standard deviation of `levels`, resampled."""
    rng = np.random.default_rng(0)
    drawn = [levels[rng.integers(len(levels), size=len(levels))].std() for _ in range(_RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _tested(fit: EngagementFit, events: _Events, utility: NDArray[np.float32]) -> EngagementFit:
    """The fit with its figures on the test part; without events there, these stay NaN."""
    test = events.part == Part.TEST
    if not test.any():
        return fit
    user, item, seen = events.user[test], events.item[test], events.value[test]
    score = fit.user[user] + fit.item[item] + fit.slope * utility[test]
    expected = expected_on_grid(score, fit.sd, fit.grid, fit.cuts)
    earlier = events.value[~test].mean() if (~test).any() else seen.mean()
    group = np.empty(len(seen), np.int64)
    group[np.argsort(expected, kind="stable")] = np.arange(len(seen)) * _BINS // len(seen)
    users, who = np.unique(user, return_inverse=True)
    off = np.zeros((len(users), _BINS))
    np.add.at(off, (who, group), expected - seen)
    count = np.bincount(who, minlength=len(users))
    rng = np.random.default_rng(0)
    times = rng.multinomial(len(users), np.full(len(users), 1 / len(users)), size=_RESAMPLES)
    drawn = np.abs(times @ off).sum(axis=1) / (times @ count)
    error = float(np.abs(off.sum(axis=0)).sum() / len(seen))
    # Resampled errors carry the noise twice; the basic bootstrap reflects them about the estimate.
    low, high = np.quantile(drawn, [0.025, 0.975])
    return replace(
        fit,
        test_rmse=float(np.sqrt(((expected - seen) ** 2).mean())),
        test_rmse_of_mean=float(np.sqrt(((earlier - seen) ** 2).mean())),
        calibration_error=error,
        calibration_interval=(max(2 * error - float(high), 0.0), max(2 * error - float(low), error)),
    )
