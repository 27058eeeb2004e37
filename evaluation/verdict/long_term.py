"""What lasts: visits, coming back, and how wide interests stay over the days."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from evaluation.statistics import Measured

LASTING_METRICS = ("visits", "day_7_return")
"""Figures of `evaluation.summary` that tell of the long run."""
DAYS_BETWEEN = 2.0
"""Days between two points of the curves."""


def interest_entropy(interest: pl.DataFrame, days: int) -> pl.DataFrame:
    """Entropy of the traced users' hidden interest over categories, over the days of the run.

    A user's interest is that of its last request so far, so whoever has left counts with what it left with: else only
    those who stay would be seen.

    Args:
        interest: as `Served.interest` (agent, training_seed, user, request, day, category, share), of one or more agents.
        days: horizon of a life.

    Returns:
        agent, day, value, low, high: mean over users in nats, with 95 % intervals over users and trainings.
    """
    keys = ["agent", "training_seed", "user", "request"]
    share = pl.col("share").clip(lower_bound=1e-12)
    each = (
        interest.group_by(keys, maintain_order=True)
        .agg(pl.col("day").first(), entropy=-(share * share.log()).sum())
        .sort(keys)
    )
    points = np.arange(0, days + 1e-9, DAYS_BETWEEN)
    rows = []
    for (agent,), own in each.group_by("agent", maintain_order=True):
        lives = [_carried(life, points) for _, life in own.group_by("training_seed", "user", maintain_order=True)]
        seeds = own["training_seed"].n_unique()
        table = np.stack(lives).reshape(seeds, -1, len(points))
        for place, day in enumerate(points):
            estimate = Measured.mean(table[:, :, place]).estimate()
            rows.append(
                {"agent": agent, "day": float(day), "value": estimate.value, "low": estimate.low, "high": estimate.high}
            )
    return pl.DataFrame(rows)


def _carried(life: pl.DataFrame, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """[T] entropy of one life's last request at or before each point; before the first request that of the first."""
    place = np.searchsorted(life["day"].to_numpy(), points, side="right") - 1
    return life["entropy"].to_numpy()[np.maximum(place, 0)].astype(np.float64)
