"""What an update policy may do and what it sees: figures that any production monitoring shows, nothing of the simulator."""

from dataclasses import astuple, dataclass, fields
from enum import IntEnum
from typing import Self

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

TREND_DAYS = 7
"""Days before the last one whose mean click rate the trend compares with."""


class UpdateAction(IntEnum):
    """What is done to the models in the night before a day."""

    KEEP = 0
    INCREMENTAL = 1
    REFIT = 2


@dataclass(frozen=True, kw_only=True)
class Monitoring:
    """What is known on the morning of a day, before its traffic, in natural units."""

    click_rate: float
    """Clicks per request of the last day with traffic, 0 before the first."""
    click_trend: float
    """That click rate minus the mean of up to `TREND_DAYS` days before it; 0 where there are none."""
    unseen_share: float
    """Share of the slots shown on the last day whose item had no rows when the models were last fitted or updated."""
    days_since_refit: float
    """Age of the models: days since the last full refit."""
    days_since_update: float
    """Days since the last update of either kind."""
    clicks_since_update: float
    """Events that the models have not learnt from."""
    budget_left: float
    """Share of the budget that is left, in [0, 1]."""
    weekday_sin: float
    """Sine of the coming day's place in the week (Monday 0)."""
    weekday_cos: float
    """Cosine of the same."""
    day_share: float
    """Share of the episode that is over, in [0, 1]."""

    def to_array(self) -> NDArray[np.float32]:
        """[S] float32, scaled to order one: what `driftrec/ModelUpdate-v0` returns as its observation."""
        return (np.array(astuple(self)) * _SCALES).astype(np.float32)

    @classmethod
    def from_array(cls, observation: NDArray[np.float32]) -> Self:
        """The figures that `to_array` made an observation [S] of (to single precision)."""
        values = np.asarray(observation, np.float64) / _SCALES
        return cls(**{field.name: float(value) for field, value in zip(fields(cls), values, strict=True)})

    @classmethod
    def space(cls, *, days: int, requests: int) -> Box:
        """The box that observations lie in, for episodes of `days` days with at most `requests` requests in all."""
        low = np.array([0, -1, 0, 0, 0, 0, 0, -1, -1, 0]) * _SCALES
        high = np.array([1, 1, 1, days, days, requests, 1, 1, 1, 1]) * _SCALES
        return Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


_SCALES = np.array([4.0, 20.0, 4.0, 1 / 7, 1 / 7, 1e-3, 1.0, 1.0, 1.0, 1.0])
"""[S] factor of each figure in an observation."""
