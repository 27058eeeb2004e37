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
from agents.rankers.crossed import PRIOR_ROWS, RECENT_DAYS, CrossedRanker, Table, log_loss
from agents.rankers.linear_kernel import score_pairs
from agents.rankers.ranking_input import RankingInput
from envs.compiled import over_rows

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
    block_pairs: ClassVar[int | None] = None
    _terms: "_Terms | None" = None
    """Made of coefficients and rates when it is first asked for."""

    def _learn(
        self, training: Table, validation: Table, progress: Progress | None, curves: SummaryWriter | None
    ) -> None:
        width = training.features.shape[1]
        before = self._plain() if self._is_warm else None
        self._terms = None
        self.centre_, self.spread_ = np.zeros(width, np.float32), np.ones(width, np.float32)
        self.coefficients_ = np.zeros(width + 1)
        if len(training.labels):
            self.centre_ = training.features.mean(axis=0, dtype=np.float64).astype(np.float32)
            spread = training.features.std(axis=0, dtype=np.float64).astype(np.float32)
            self.spread_ = np.where(spread > _SPREAD_FLOOR, spread, 1).astype(np.float32)
            liked = training.labels.sum()
            if 0 < liked < len(training.labels):
                model = LogisticRegression(
                    C=self.config.strength, max_iter=self.config.iterations, warm_start=before is not None
                )
                if before is not None:
                    # the same function of the features, in terms of their new means and spreads
                    model.coef_ = (before[:-1] * self.spread_)[None]
                    model.intercept_ = before[-1:] + before[:-1] @ self.centre_
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
        self._terms = None

    def _score(self, batch: RankingInput) -> NDArray[np.float32]:
        """As `_logits` of `features`, but for rounding: no table is made of what pairs of a request or of an item share."""
        assert batch.counts is not None
        if self._terms is None:
            self._terms = self._made_terms()
        terms, size, mean = self._terms, self.config.samples.history_size, self.rates_.mean
        of_user, tastes = self.rates_.of_users(batch.user)
        user_rate = (of_user[:, 1] + PRIOR_ROWS * mean) / (of_user[:, 0] + PRIOR_ROWS)
        of_request = (self._of_request(batch) * terms.request).sum(axis=1) + terms.user_rate * user_rate
        logits = np.empty(batch.items.shape, np.float32)
        over_rows(
            score_pairs,
            len(batch),
            np.ascontiguousarray(batch.items),
            *(np.ascontiguousarray(array, np.float32) for array in (batch.ages, batch.counts)),
            np.ascontiguousarray(batch.history[:, :size]),
            np.ascontiguousarray(batch.history_days[:, :size], np.float32),
            self.categories_,
            terms.item,
            of_request,
            user_rate,
            tastes,
            terms.pair,
            np.float32(RECENT_DAYS),
            np.float32(PRIOR_ROWS),
            logits,
        )
        return logits

    def _plain(self) -> NDArray[np.float64]:
        """[F + 1] coefficients of the features as they are, and the intercept."""
        weights = self.coefficients_[:-1].astype(np.float64) / self.spread_
        return np.append(weights, self.coefficients_[-1] - weights @ self.centre_)

    def _made_terms(self) -> "_Terms":
        # in the order of `features`
        plain, groups, mean = self._plain(), self.categories_.shape[1], self.rates_.mean
        of_pair, of_rates, of_categories = plain[:7], plain[7:10], plain[10 : 10 + groups]
        by_item = self.rates_.by_item
        rate = (by_item[:, 1] + PRIOR_ROWS * mean) / (by_item[:, 0] + PRIOR_ROWS)
        return _Terms(
            item=self.categories_ @ of_categories + of_rates[1] * rate + of_pair[6] * self.known_items_ + plain[-1],
            request=plain[10 + groups : -1],
            user_rate=float(of_rates[0]),
            pair=np.append(of_pair[:6], of_rates[2]),
        )

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

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_terms"}

    def _restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        super()._restore(arrays)
        self.centre_, self.spread_ = arrays["centre"], arrays["spread"]
        self.coefficients_ = arrays["coefficients"]


@dataclass(frozen=True)
class _Terms:
    """A linear model of crossed features, sorted by what they hang on."""

    item: NDArray[np.float64]
    """[I] what an item adds, and the intercept."""
    request: NDArray[np.float64]
    """[Fr] weights of what all items of a request share."""
    user_rate: float
    """Weight of the user's rate."""
    pair: NDArray[np.float64]
    """[7] weights of what hangs on both, see `score_pairs`."""
