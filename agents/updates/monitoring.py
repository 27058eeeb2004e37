"""What an update policy may do and what it sees: figures that any production monitoring shows, nothing of the simulator."""

from dataclasses import astuple, dataclass, fields
from enum import IntEnum
from typing import Self

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from agents.updates.metrics import calibration_error, population_stability

TREND_DAYS = 7
"""Days before the last period whose engagement the trend compares with."""


class UpdateAction(IntEnum):
    """What is done to the models before a period of traffic; the last one is the most thorough."""

    KEEP = 0
    UPDATE_RECALL = 1
    UPDATE_RANKER = 2
    UPDATE_BOTH = 3
    ROLL_BACK = 4
    CHALLENGER = 5
    FULL_RETRAIN = 6


ACTION_CHOICES = ", ".join(f"{action.value} ({action.name.lower()})" for action in UpdateAction)
"""The actions, for messages."""


@dataclass(frozen=True, kw_only=True)
class Monitoring:
    """What is known before a period of traffic, in natural units."""

    engagement: float
    """Clicks per visit of the last period with traffic, 0 before the first."""
    engagement_trend: float
    """That minus clicks per visit of up to `TREND_DAYS` days before it; 0 where there were none."""
    calibration_error: float
    """Expected calibration error of the slots of the last period in which the champion served, by the map that made scores
    probabilities in the first period that the present version served; 0 until there is one."""
    score_shift: float
    """Population stability index of that period's scores against those of that first period; 0 until there is one."""
    unseen_share: float
    """Share of the slots shown in the last period whose item had no rows when recall last learnt."""
    recall_age: float
    """Days since what recall last learnt from was known."""
    ranker_age: float
    """The same of the ranker; where there is none, recall's."""
    retrain_age: float
    """Days since the last full retrain, or since one was promoted."""
    clicks_since_training: float
    """Clicks known that no served part has learnt from."""
    budget_left: float
    """Share of the budget that is left, in [0, 1]."""
    can_roll_back: float
    """1 where a version that served before is still kept, else 0."""
    challenger_age: float
    """Days since the challenger was trained; -1 where there is none."""
    weekday_sin: float
    """Sine of the coming period's place in the week (Monday 0)."""
    weekday_cos: float
    """Cosine of the same."""
    hour_sin: float
    """Sine of the hour at which the coming period begins."""
    hour_cos: float
    """Cosine of the same."""
    episode_share: float
    """Share of the episode that is over, in [0, 1]."""

    def to_array(self) -> NDArray[np.float32]:
        """[S] float32, scaled to order one: what `driftrec/ModelUpdate-v0` returns as its observation."""
        return (np.array(astuple(self), np.float64) * _SCALES).astype(np.float32)

    @classmethod
    def from_array(cls, observation: NDArray[np.float32]) -> Self:
        """The figures that `to_array` made an observation [S] of (to single precision)."""
        values = np.asarray(observation, np.float64) / _SCALES
        return cls(**{field.name: float(value) for field, value in zip(fields(cls), values, strict=True)})

    @classmethod
    def space(cls) -> Box:
        """The box that observations lie in, the same for all markets."""
        low = np.array([0, -np.inf, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1, -1, -1, -1, -1, 0]) * _SCALES
        high = np.array([np.inf] * 4 + [1] + [np.inf] * 4 + [1, 1, np.inf, 1, 1, 1, 1, 1]) * _SCALES
        return Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


_SCALES = np.array([2.0, 10.0, 50.0, 1.0, 2.0, 1 / 7, 1 / 7, 1 / 7, 1e-3, 1.0, 1.0, 1 / 7, 1.0, 1.0, 1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Reference:
    """The first period that a version served, by which later ones are judged.

    Scores are made probabilities by a logistic map of one slope and intercept.

    Source: Platt (1999), Probabilistic outputs for support vector machines.
    """

    scores: NDArray[np.float64]
    """[n] of its slots."""
    slope: float
    intercept: float

    @classmethod
    def of(cls, clicked: NDArray[np.bool_], scores: NDArray[np.float64]) -> "Reference | None":
        """Of a period's slots: whether each was clicked [n], and its score [n]. None where none was clicked, or all were."""
        if not 0 < clicked.sum() < len(clicked):
            return None
        model = LogisticRegression(C=np.inf).fit(scores[:, None], clicked)
        return cls(scores, float(model.coef_[0, 0]), float(model.intercept_[0]))

    def chance(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Chances of a click of slots with these scores, of any shape; NaN where there is none."""
        return expit(self.slope * np.asarray(scores, np.float64) + self.intercept)

    def calibration_error(self, clicked: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
        """Expected calibration error of a period's slots."""
        return calibration_error(clicked, self.chance(scores))

    def shift(self, scores: NDArray[np.float64]) -> float:
        """Population stability index of a period's scores."""
        return population_stability(self.scores, scores)
