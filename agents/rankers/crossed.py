"""Crossed features of users, items and contexts, and the base of rankers that learn from a table of them."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboardX import SummaryWriter

from agents.rankers.base import Progress, Ranker
from agents.rankers.log_history import SoFar
from agents.rankers.network_inputs import context_features
from agents.rankers.ranking_input import RankingInput
from agents.rankers.samples import Samples

PRIOR_ROWS = 5.0
"""A rate counts so many rows of the mean rate beside its own."""
_CHUNK_PAIRS = 65_536
RECENT_DAYS = 7


@dataclass(frozen=True)
class Table:
    """P pairs (request, item) as a table."""

    features: NDArray[np.float32]
    """[P, F]."""
    labels: NDArray[np.float32]
    """[P] 1 for liked, else 0."""
    weights: NDArray[np.float32]
    """[P]."""


class Rates:
    """Rows and liked rows by user, by item, and by user and category (rows count by membership).

    In training each row gets the rates of what is older than itself by a second at least, in serving those of all that was
    learnt from.
    """

    def __init__(self, num_users: int, categories: NDArray[np.float32]) -> None:
        self.categories = categories
        items, groups = categories.shape
        self.total = np.zeros(2)
        """[2] rows, liked rows."""
        self.by_user = np.zeros((num_users, 2))
        self.by_item = np.zeros((items, 2))
        self.by_taste = np.zeros((num_users, groups, 2))

    @property
    def mean(self) -> float:
        """Share of rows that are liked, with half a row of each kind added."""
        return float((self.total[1] + 0.5) / (self.total[0] + 1))

    def add(self, samples: Samples) -> None:
        """Takes in the rows of `samples`."""
        user, item, liked = self._rows(samples)
        self.total += [len(liked), liked.sum()]
        for column, value in enumerate((np.ones(len(liked)), liked)):
            self.by_user[:, column] += np.bincount(user, value, len(self.by_user))
            self.by_item[:, column] += np.bincount(item, value, len(self.by_item))
            for group in range(self.categories.shape[1]):
                member = value * self.categories[item, group]
                self.by_taste[:, group, column] += np.bincount(user, member, len(self.by_user))

    def served(self, inputs: RankingInput) -> NDArray[np.float32]:
        """[N, C, 3] smoothed rates of user, item, and of the user in the item's categories."""
        of_user, tastes = self.of_users(inputs.user)
        item = np.maximum(inputs.items, 0)
        taste = np.einsum("ngk,ncg->nck", tastes, self.categories[item])
        return self._smoothed(of_user, self.by_item[item], taste, self.mean)

    def of_users(self, users: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """([N, 2] rows and liked rows of `users` [N], [N, G, 2] the same by category); zeros for strangers."""
        known = ((users >= 0) & (users < len(self.by_user)))[:, None]
        user = np.clip(users, 0, len(self.by_user) - 1)
        return self.by_user[user] * known, self.by_taste[user] * known[:, :, None]

    def so_far(self, samples: Samples) -> "RatesSoFar":
        """The rates at the time of each row of the log of `samples`, which go on from those here."""
        return RatesSoFar(self, samples)

    @staticmethod
    def _rows(samples: Samples) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
        log = samples.history.log
        return log.user[samples.rows], log.item[samples.rows], samples.labels[samples.rows].astype(np.float64)

    @staticmethod
    def _smoothed(
        by_user: NDArray[np.float64], by_item: NDArray[np.float64], by_taste: NDArray[np.float64], mean: float
    ) -> NDArray[np.float32]:
        """From sums [N, 2], [N, C, 2] and [N, C, 2]; a user's rates lean on the mean, those in categories on the user's own."""
        user = (by_user[:, 1] + PRIOR_ROWS * mean) / (by_user[:, 0] + PRIOR_ROWS)
        item = (by_item[..., 1] + PRIOR_ROWS * mean) / (by_item[..., 0] + PRIOR_ROWS)
        taste = (by_taste[..., 1] + PRIOR_ROWS * user[:, None]) / (by_taste[..., 0] + PRIOR_ROWS)
        return np.stack([np.broadcast_to(user[:, None], item.shape), item, taste], axis=2).astype(np.float32)


class RatesSoFar:
    """Rates at the time of rows of a log; made by `Rates.so_far`."""

    def __init__(self, rates: Rates, samples: Samples) -> None:
        self._rates, self._log, self._delay = rates, samples.history.log, samples.history.delay
        user, item, liked = rates._rows(samples)
        now, groups = self._log.timestamp[samples.rows], rates.categories.shape[1]
        values = (np.ones(len(liked)), liked)
        self._by_user = [SoFar(user, now, value) for value in values]
        self._by_item = [SoFar(item, now, value) for value in values]
        member = rates.categories[item]
        row, group = np.nonzero(member)
        key = user[row].astype(np.int64) * groups + group
        self._by_taste = [SoFar(key, now[row], value[row] * member[row, group]) for value in values]

    def at(self, rows: NDArray[np.int64], items: NDArray[np.int32]) -> NDArray[np.float32]:
        """[B, C, 3] as `Rates.served`, at the time of `rows` [B] for `items` [B, C]."""
        rates, user, now = self._rates, self._log.user[rows], self._log.timestamp[rows] - self._delay
        item, groups = np.maximum(items, 0), rates.categories.shape[1]
        key = user[:, None].astype(np.int64) * groups + np.arange(groups)
        of_user = rates.by_user[user] + np.stack([past.before(user, now) for past in self._by_user], axis=1)
        of_item = rates.by_item[item] + np.stack([past.before(item, now[:, None]) for past in self._by_item], axis=2)
        tastes = rates.by_taste[user] + np.stack([past.before(key, now[:, None]) for past in self._by_taste], axis=2)
        taste = np.einsum("ngk,ncg->nck", tastes, rates.categories[item])
        return rates._smoothed(of_user, of_item, taste, rates.mean)


class CrossedRanker(Ranker):
    """Base of rankers over a table of crossed features: how the history meets the item's categories, how often user, item, and
    user in these categories were liked so far, popularity, age, attributes, context.

    A subclass adds `_learn`, `_learn_more` and `_logits`, and its arrays for checkpoints.
    """

    rates_: Rates

    @abstractmethod
    def _learn(
        self, training: Table, validation: Table, progress: Progress | None, curves: SummaryWriter | None
    ) -> None:
        """Learns from a table, anew; `validation` may be empty."""

    @abstractmethod
    def _learn_more(self, events: Table) -> None:
        """Learns from a table of new events in small steps."""

    @abstractmethod
    def _logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """[P] logits of rows [P, F]."""

    # ------------------------------------------------------------------ Ranker
    def _fit(self, training: Samples, validation: Samples, progress: Progress | None, folder: Path | None) -> None:
        nothing = Rates(len(self.known_users_), self.categories_)
        nothing.total = np.array([training.rows.sum(), training.labels[training.rows].sum()], float)
        curves = SummaryWriter(str(folder)) if folder is not None else None
        self.rates_ = Rates(len(self.known_users_), self.categories_)
        self.rates_.add(training)
        try:
            learnt = self._table(training, nothing.so_far(training))
            self._learn(learnt, self._table(validation, self.rates_.so_far(validation)), progress, curves)
        finally:
            if curves is not None:
                curves.close()

    def _update(self, samples: Samples) -> None:
        events = self._table(samples, self.rates_.so_far(samples))
        self.rates_.add(samples)
        self._learn_more(events)

    def _score(self, batch: RankingInput) -> NDArray[np.float32]:
        features = self.features(batch, self.rates_.served(batch))
        return self._logits(features.reshape(-1, features.shape[2])).reshape(batch.items.shape)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        rates = self.rates_
        return {
            "rates.total": rates.total,
            "rates.by_user": rates.by_user,
            "rates.by_item": rates.by_item,
            "rates.by_taste": rates.by_taste,
        }

    def _restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        self.rates_ = Rates(len(self.known_users_), self.categories_)
        for name in ("total", "by_user", "by_item", "by_taste"):
            setattr(self.rates_, name, arrays[f"rates.{name}"])

    # ------------------------------------------------------------------ features
    def features(self, inputs: RankingInput, rates: NDArray[np.float32]) -> NDArray[np.float32]:
        """[N, C, F] features of pairs, given their rates [N, C, 3] and the input's counts."""
        assert inputs.counts is not None
        size = self.config.samples.history_size
        history, days = inputs.history[:, :size], inputs.history_days[:, :size]
        there = (history >= 0).astype(np.float32)
        past = self.categories_[np.maximum(history, 0)]
        recent = there * np.exp(-days / RECENT_DAYS)
        profiles = [
            np.einsum("nh,nhg->ng", weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-6), past)
            for weight in (there, recent, there * (np.arange(history.shape[1]) < 3))
        ]
        categories = self.categories_[np.maximum(inputs.items, 0)]
        overlaps = [np.einsum("ng,ncg->nc", profile, categories) for profile in profiles]
        ages = np.maximum(inputs.ages, 0)
        known = self.known_items_[np.maximum(inputs.items, 0)]
        of_pair = np.stack(
            [
                *overlaps,
                np.log(np.maximum(inputs.counts, 1e-6)),
                np.log1p(ages) / 8,
                np.exp(-ages / 30),
                known.astype(np.float32),
            ],
            axis=2,
        )
        of_request = self._of_request(inputs)
        repeated = np.broadcast_to(of_request[:, None, :], (*inputs.items.shape, of_request.shape[1]))
        return np.concatenate([of_pair, rates, categories, repeated], axis=2, dtype=np.float32)

    def _of_request(self, inputs: RankingInput) -> NDArray[np.float32]:
        """[N, Fr] those features that all items of a request share; the last of `features`."""
        size = self.config.samples.history_size
        days = inputs.history_days[:, :size]
        length = (inputs.history[:, :size] >= 0).astype(np.float32).sum(axis=1, keepdims=True)
        last = np.where(length > 0, np.log1p(days[:, :1]), 0) if days.shape[1] else length
        context = context_features(inputs.context)
        return np.column_stack([np.log1p(length), last, inputs.user_features, context]).astype(np.float32)

    def _table(self, samples: Samples, rates: RatesSoFar) -> Table:
        parts = list(self._chunks(samples, rates))
        if not parts:
            width = self.features(self._nobody, np.zeros((0, 1, 3), np.float32)).shape[2]
            return Table(np.zeros((0, width), np.float32), np.zeros(0, np.float32), np.zeros(0, np.float32))
        return Table(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])))

    def _chunks(self, samples: Samples, rates: RatesSoFar) -> Iterator[Table]:
        step = max(_CHUNK_PAIRS // max(samples.pairs_per_sample, 1), 1)
        for first in range(0, len(samples), step):
            numbers = np.arange(first, min(first + step, len(samples)))
            batch = samples.batch(numbers)
            features = self.features(batch.inputs, rates.at(samples.starts[numbers], batch.inputs.items))
            there = batch.weights > 0
            yield Table(features[there], batch.labels[there], batch.weights[there])

    @property
    def _nobody(self) -> RankingInput:
        none = np.zeros((0, 1), np.float32)
        return RankingInput(
            user=np.zeros(0, np.int64),
            user_features=np.zeros((0, self.num_user_features_), np.float32),
            history=np.zeros((0, 1), np.int32),
            history_days=none,
            context=np.zeros((0, 4), np.float32),
            items=np.zeros((0, 1), np.int32),
            ages=none,
            counts=none,
        )


def log_loss(logits: NDArray[np.floating], table: Table) -> float:
    """Weighted mean logistic loss of logits [P]; NaN of none."""
    if not len(logits):
        return float("nan")
    losses = np.logaddexp(0, logits) - table.labels * logits
    return float((losses * table.weights).sum() / table.weights.sum())
