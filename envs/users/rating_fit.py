"""The rating head: what a user says of an item that it consumed.

rating = user mean + item deviation + slope * utility + noise, by ridge regression on the fit part; the noise is the spread
of the residuals on the early-stopping part, so that it holds the error of prediction; test figures come from the test part.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special
from scipy.sparse.linalg import lsqr

_RIDGE = 4.0
"""Ratings' worth of prior that a user's or an item's deviation is zero."""
_MAX_GRID = 64
_CALIBRATION_BINS = 10


@dataclass(frozen=True, kw_only=True)
class RatingFit:
    """Fitted rating head; see `InterestModel.expected_rating`."""

    user: NDArray[np.float32]
    """[U] in the log's unit, at utility 0."""
    item: NDArray[np.float32]
    """[I] deviation."""
    slope: float
    """Rating per logit of utility."""
    slope_interval: tuple[float, float]
    sd: float
    """Standard deviation about the mean."""
    sd_interval: tuple[float, float]
    grid: NDArray[np.float32]
    """Ratings that the log knows, ascending; empty without ratings."""
    test_rmse: float
    """Root mean squared error of the mean on the test part; NaN without ratings there."""
    test_calibration_error: float
    """Expected calibration error on the test part: mean over ten equal groups, by predicted rating, of the distance between
    the mean rating drawn and the mean rating seen."""


def fit_ratings(
    rating: NDArray[np.float32],
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    utility: NDArray[np.float32],
    part: NDArray[np.int64],
    num_users: int,
    num_items: int,
) -> RatingFit:
    """Fits the head to events [E] with their rating (NaN for none), the utility of the consumed item and their part."""
    known = np.isfinite(rating)
    grid = np.unique(rating[known]).astype(np.float32)
    if not known.any():
        nothing = (float("nan"), float("nan"))
        return RatingFit(
            user=np.zeros(num_users, np.float32),
            item=np.zeros(num_items, np.float32),
            slope=0.0,
            slope_interval=nothing,
            sd=1.0,
            sd_interval=nothing,
            grid=grid,
            test_rmse=float("nan"),
            test_calibration_error=float("nan"),
        )
    if len(grid) > _MAX_GRID:
        grid = np.linspace(grid[0], grid[-1], _MAX_GRID, dtype=np.float32)

    fit = known & (part == 0)
    if not fit.any():
        fit = known
    mean_rating, mean_utility = float(rating[fit].mean()), float(utility[fit].mean())
    response, regressor = rating[fit] - mean_rating, (utility[fit] - mean_utility).astype(np.float64)
    rows, width = np.arange(fit.sum()), num_users + num_items
    indicators = sparse.coo_matrix(
        (np.ones(2 * len(rows)), (np.tile(rows, 2), np.concatenate([user[fit], num_users + item[fit]]))),
        shape=(len(rows), width),
    ).tocsr()

    def without_effects(target: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        effects = lsqr(indicators, target, damp=np.sqrt(_RIDGE), atol=1e-8, btol=1e-8)[0]
        return target - indicators @ effects, effects

    # Frisch, Waugh and Lovell: the slope is that of residual on residual.
    utility_rest, utility_effects = without_effects(regressor)
    rating_rest, rating_effects = without_effects(response.astype(np.float64))
    spread = float(utility_rest @ regressor) + 1e-9
    slope = float(utility_rest @ response) / spread
    effects = rating_effects - slope * utility_effects
    error = rating_rest - slope * utility_rest
    slope_sd = np.sqrt((np.bincount(user[fit], utility_rest * error) ** 2).sum()) / spread

    user_mean = (mean_rating - slope * mean_utility + effects[:num_users]).astype(np.float32)
    item_deviation = effects[num_users:].astype(np.float32)
    predicted = user_mean[user] + item_deviation[item] + np.float32(slope) * utility
    held_out = known & (part == 1)
    if held_out.sum() < 2:
        held_out = fit
    squared = (rating - predicted)[held_out].astype(np.float64) ** 2
    sd = max(float(np.sqrt(squared.mean())), 1e-3)
    squared_sd = np.sqrt((np.bincount(user[held_out], squared - squared.mean()) ** 2).sum()) / len(squared)
    half = 1.96 * squared_sd / (2 * sd)

    test = known & (part == 2)
    rmse = calibration = float("nan")
    if test.any():
        rmse = float(np.sqrt(((rating - predicted)[test].astype(np.float64) ** 2).mean()))
        calibration = _calibration_error(expected_on_grid(predicted[test], sd, grid), rating[test])
    return RatingFit(
        user=user_mean,
        item=item_deviation,
        slope=slope,
        slope_interval=(slope - 1.96 * slope_sd, slope + 1.96 * slope_sd),
        sd=sd,
        sd_interval=(sd - half, sd + half),
        grid=grid,
        test_rmse=rmse,
        test_calibration_error=calibration,
    )


def expected_on_grid(mean: NDArray[np.float32], sd: float, grid: NDArray[np.float32]) -> NDArray[np.float64]:
    """[E] mean of the ratings that `InterestModel.rate` draws, noise and rounding to the grid included."""
    middles = (grid[1:] + grid[:-1]) / 2
    above = special.ndtr((mean[:, None] - middles) / sd)
    return grid[0] + (above * np.diff(grid)).sum(axis=1)


def _calibration_error(drawn: NDArray[np.float64], seen: NDArray[np.float32]) -> float:
    groups = np.array_split(np.argsort(drawn, kind="stable"), _CALIBRATION_BINS)
    return float(sum(abs((drawn[rows] - seen[rows]).sum()) for rows in groups) / len(seen))
