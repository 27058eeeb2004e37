"""Logistic regression on crossed features."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from tensorboardX import SummaryWriter

from agents.rankers.base import Progress, RankerConfig
from agents.rankers.crossed import CrossedRanker, Table, log_loss

_SPREAD_FLOOR = 1e-3


@dataclass(frozen=True, kw_only=True)
class LogisticConfig(RankerConfig):
    """How `Logistic` is made."""

    strength: float = 1.0
    """C: one over the weight of the squared coefficients against the summed loss."""
    iterations: int = 200
    """Steps of L-BFGS at most."""
    update_strength: float = 0.01
    """C of an update, whose coefficients are held to those before."""


class Logistic(CrossedRanker):
    """Logistic regression (scikit-learn, L-BFGS) on standardised crossed features; the floor that others must beat.

    An update minimises the loss of the new events plus the squared distance to the coefficients before it.
    """

    name: ClassVar[str] = "logistic"
    config_class: ClassVar[type[RankerConfig]] = LogisticConfig
    centre_: NDArray[np.float32]
    """[F] means of the features."""
    spread_: NDArray[np.float32]
    """[F] their standard deviations."""
    coefficients_: NDArray[np.float64]
    """[F + 1] of the standardised features, and the intercept."""

    def _learn(
        self, training: Table, validation: Table, progress: Progress | None, curves: SummaryWriter | None
    ) -> None:
        width = training.features.shape[1]
        self.centre_, self.spread_ = np.zeros(width, np.float32), np.ones(width, np.float32)
        self.coefficients_ = np.zeros(width + 1)
        if len(training.labels):
            self.centre_ = training.features.mean(axis=0, dtype=np.float64).astype(np.float32)
            spread = training.features.std(axis=0, dtype=np.float64).astype(np.float32)
            self.spread_ = np.where(spread > _SPREAD_FLOOR, spread, 1).astype(np.float32)
            liked = training.labels.sum()
            if 0 < liked < len(training.labels):
                model = LogisticRegression(C=self.config.strength, max_iter=self.config.iterations)
                model.fit(self._standardised(training.features), training.labels, training.weights)
                self.coefficients_ = np.append(model.coef_[0], model.intercept_)
            else:
                # one label tells of the rate alone
                self.coefficients_[-1] = logit((liked + 0.5) / (len(training.labels) + 1))
        objective = log_loss(self._logits(validation.features), validation)
        if curves is not None:
            curves.add_scalar("log_loss", objective, 1)
        if progress is not None:
            progress(1, 1, objective)

    def _learn_more(self, events: Table) -> None:
        before, features = self.coefficients_, self._standardised(events.features)

        def loss(coefficients: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            logits = features @ coefficients[:-1] + coefficients[-1]
            residual = events.weights * (expit(logits) - events.labels)
            moved = (coefficients - before) / self.config.update_strength
            total = (events.weights * (np.logaddexp(0, logits) - events.labels * logits)).sum()
            gradient = np.append(residual @ features, residual.sum()) + moved
            return float(total + (coefficients - before) @ moved / 2), gradient

        self.coefficients_ = minimize(loss, before, jac=True, method="L-BFGS-B").x

    def _logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = self._standardised(features) @ self.coefficients_[:-1] + self.coefficients_[-1]
        return logits.astype(np.float32)

    def _standardised(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return (features - self.centre_) / self.spread_

    def _arrays(self) -> dict[str, NDArray[Any]]:
        own: dict[str, NDArray[Any]] = {
            "centre": self.centre_,
            "spread": self.spread_,
            "coefficients": self.coefficients_,
        }
        return super()._arrays() | own

    def _restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        super()._restore(arrays)
        self.centre_, self.spread_ = arrays["centre"], arrays["spread"]
        self.coefficients_ = arrays["coefficients"]
