"""Training samples: which rows of a log teach what, with labels, weights and sampled negatives."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agents.rankers.log_history import LogHistory
from agents.rankers.ranking_input import RankingInput
from envs.errors import ConfigurationError
from envs.logs.schema import COLUMNS, InteractionLog
from envs.randomness import Purpose, draw_uniform

Label = Literal["auto", "click", "rating", "consumed"]
"""What is learnt: `click` rows shown were clicked or not; `rating` rows are rated at least `rating_threshold` or not; `consumed`
items were consumed, in place of others drawn at random; `auto` is `click` where a log has exposures, else `consumed`."""
_NEGATIVE_TRIES = 8


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """What a ranker learns from a log."""

    label: Label = "auto"
    """What is learnt, see `Label`."""
    rating_threshold: float = 4.0
    """Ratings from here on are liked, in the log's own unit; for `rating`."""
    negatives: int = 4
    """Items drawn for each consumed one; for `consumed`."""
    negatives_shown: bool = False
    """Whether those of a row in a slate are drawn from what else was shown there, so that items are not taken for liked because
    they are shown; for `consumed`."""
    avoid_later: bool = False
    """Whether drawn items avoid all that the user ever consumes, as most implementations do, or only what was consumed before,
    so that no sample hangs on later rows; for `consumed`."""
    history_size: int = 20
    """H: items of the history that are read, the newest."""
    event_delay: float = 0.0
    """Seconds until an event is known: histories, activity and popularity of samples lack what is younger, as they do where
    the service hears of events late."""
    debias: bool = False
    """Whether rows weigh by one over the chance with which they were shown, where the log tells it."""
    most_weight: float = 10.0
    """Clips these weights, before they are scaled to a mean of 1."""

    def __post_init__(self) -> None:
        if self.label not in ("auto", "click", "rating", "consumed"):
            raise ConfigurationError(f"label is '{self.label}'; it must be auto, click, rating or consumed.")
        for name in ("negatives", "history_size"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.event_delay < 0:
            raise ConfigurationError(f"event_delay is {self.event_delay}; it must be at least 0 seconds.")
        if self.most_weight < 1:
            raise ConfigurationError(f"most_weight is {self.most_weight}; it must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B requests with C items each, and what came of them."""

    inputs: RankingInput
    labels: NDArray[np.float32]
    """[B, C] 1 for liked, else 0."""
    weights: NDArray[np.float32]
    """[B, C] weight of each pair in the loss; 0 where there is no item."""


class Samples:
    """The samples of some rows of a log, batch by batch.

    A sample is a request: the rows of one slate, or a single row, or one consumed item before the drawn ones. Labels are told
    apart from what a ranker reads: `inputs` hold only the past of the request.

    Args:
        history: the past of the log's rows.
        rows: [R] rows to learn from.
        config: what is learnt.
        seed: of the order of batches and of drawn items.
        pool: items that are drawn from, by default those consumed in the log.

    Raises:
        ConfigurationError: if the label is `rating` and no row has one.
    """

    def __init__(
        self,
        history: LogHistory,
        rows: NDArray[np.bool_],
        config: SampleConfig,
        seed: int,
        pool: NDArray[np.int32] | None = None,
    ) -> None:
        self.history, self.config, self.seed = history, config, seed
        log = history.log
        label = config.label if config.label != "auto" else "click" if log.has_exposures else "consumed"
        self.draws_negatives = label == "consumed"
        if label == "rating":
            if rows.any() and np.isnan(log.rating[rows]).all():
                raise ConfigurationError(f"label is 'rating', but log '{log.name}' has no ratings; use auto or click.")
            rows = rows & ~np.isnan(log.rating)
            self.labels = (log.rating >= config.rating_threshold).astype(np.float32)
            """[R] 1 for rows of the log that are liked, else 0."""
        else:
            rows = rows & log.clicked if label == "consumed" else rows
            self.labels = log.clicked.astype(np.float32)
        self.rows = rows
        """[R] rows of the log that samples are made of."""
        self._weight = propensity_weights(log, rows, config)
        chosen = np.flatnonzero(rows)
        self.starts, slate = np.unique(
            chosen if self.draws_negatives else history.slate_start[chosen], return_inverse=True
        )
        """[S] row at which each sample's request begins."""
        width = int(np.bincount(slate).max()) if len(slate) else 1
        self._rows = np.full((len(self.starts), width), -1, np.int64)
        """[S, W] rows of each sample, -1 where there are fewer."""
        if len(slate):
            self._rows[slate, np.arange(len(slate)) - np.searchsorted(slate, slate)] = chosen
        self._pool = np.flatnonzero(log.item_counts() > 0).astype(np.int32) if pool is None else pool

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def pairs_per_sample(self) -> int:
        """Pairs (request, item) of a sample, at most."""
        return 1 + self.config.negatives if self.draws_negatives else self._rows.shape[1]

    @property
    def num_pairs(self) -> int:
        """Pairs (request, item) of all samples, those whose items could not be drawn among them."""
        return len(self) * self.pairs_per_sample if self.draws_negatives else int(self.rows.sum())

    @property
    def user(self) -> NDArray[np.int32]:
        """[S] user of each sample."""
        return self.history.log.user[self.starts]

    def epoch(self, number: int, batch_size: int, *, shuffled: bool = True) -> Iterator[Batch]:
        """All samples once, in batches of `batch_size` pairs or so; items and order are drawn anew for each `number`."""
        order = np.arange(len(self))
        if shuffled:
            np.random.default_rng((self.seed, number)).shuffle(order)
        step = max(batch_size // self.pairs_per_sample, 1)
        for first in range(0, len(order), step):
            yield self.batch(order[first : first + step], number)

    def batch(self, samples: NDArray[np.int64], number: int = 0) -> Batch:
        """The samples with these numbers [B]; `number` is that of the pass, for which items are drawn."""
        rows = self._rows[samples]
        present = rows >= 0
        item = np.where(present, self.history.log.item[rows], -1).astype(np.int32)
        label = np.where(present, self.labels[rows], 0).astype(np.float32)
        weight = np.where(present, self._weight[rows], 0).astype(np.float32)
        if self.draws_negatives:
            drawn = self.negatives(rows[:, 0], number)
            item = np.concatenate([item, drawn], axis=1)
            label = np.concatenate([label, np.zeros(drawn.shape, np.float32)], axis=1)
            weight = np.where(item >= 0, weight, 0).astype(np.float32)
        return Batch(inputs=self.history.inputs(self.starts[samples], item), labels=label, weights=weight)

    def negatives(self, rows: NDArray[np.int64], number: int = 0, count: int | None = None) -> NDArray[np.int32]:
        """[B, count] items that the users of `rows` [B] could have consumed at their times but did not: uniform among the
        items of the pool that are on offer, neither the row's own nor consumed before (or ever, see `avoid_later`); -1 where
        eight tries found none. With `negatives_shown` those of a row in a slate are other ones, see there. The draw is a hash of
        seed, row and `number`.
        """
        count = self.config.negatives if count is None else count
        found = np.full((len(rows), count), -1, np.int32)
        if not len(self._pool):
            return found
        place = np.arange(count)
        alone = np.ones(len(rows), bool)
        if self.config.negatives_shown:
            alone = self._slate_size[self.history.slate_start[rows]] == 1
            found[~alone] = self._passed_over(rows[~alone], number, count)
        for attempt in range(_NEGATIVE_TRIES):
            missing = np.flatnonzero(alone & (found < 0).any(axis=1))
            if not len(missing):
                break
            own = rows[missing]
            draws = draw_uniform(
                self.seed, Purpose.AGENT, own[:, None], np.int64(number), np.int64(attempt), place[None, :]
            )
            items = self._pool[np.minimum((draws * len(self._pool)).astype(np.int64), len(self._pool) - 1)]
            taken = self.history.consumed_by(own, items, ever=self.config.avoid_later)
            usable = ~taken & self.history.offered(own, items) & (items != self.history.log.item[own][:, None])
            found[missing] = np.where((found[missing] < 0) & usable, items, found[missing])
        return found

    @cached_property
    def _slate_size(self) -> NDArray[np.int64]:
        """[R] rows of the slate that begins at each row."""
        return np.bincount(self.history.slate_start, minlength=len(self.history.log))

    def _passed_over(self, rows: NDArray[np.int64], number: int, count: int) -> NDArray[np.int32]:
        """[B, count] items of the slates of `rows` [B] that were not consumed, drawn without replacement; -1 where there are
        fewer."""
        log, start = self.history.log, self.history.slate_start[rows]
        place = np.arange(max(int(self._slate_size[start].max(initial=0)), count))
        there = place < self._slate_size[start][:, None]
        slate = np.where(there, start[:, None] + place, 0)
        there &= ~log.clicked[slate]
        draws = draw_uniform(self.seed, Purpose.AGENT, rows[:, None], np.int64(number), np.int64(-1), place[None, :])
        first = np.argsort(np.where(there, draws, np.inf), axis=1, kind="stable")[:, :count]
        chosen = np.take_along_axis(slate, first, axis=1)
        return np.where(np.take_along_axis(there, first, axis=1), log.item[chosen], -1).astype(np.int32)


def propensity_weights(log: InteractionLog, rows: NDArray[np.bool_], config: SampleConfig) -> NDArray[np.float32]:
    """[R] weights: 1 over the propensity, at most `most_weight`, scaled to a mean of 1 over `rows`; rows of unknown propensity
    count as shown for certain. All ones without `debias`, and where the log tells no propensities.

    Source: Schnabel et al. (2016), Recommendations as treatments, eq. 8 (clipped; self-normalised as in Swaminathan and
    Joachims 2015).
    """
    if not config.debias or log.propensity is None or not rows.any():
        return np.ones(len(log), np.float32)
    with np.errstate(divide="ignore"):
        weight = np.minimum(1 / np.nan_to_num(log.propensity, nan=1.0), config.most_weight)
    return (weight / weight[rows].mean()).astype(np.float32)


def joined(first: InteractionLog, second: InteractionLog) -> tuple[InteractionLog, NDArray[np.bool_]]:
    """(both logs as one, whether each of its rows comes from the second); of the same second the first's rows come first.

    Raises:
        ConfigurationError: if they have not the same users and catalogue.
    """
    if len(first.users) != len(second.users) or not np.array_equal(first.catalogue.item_ids, second.catalogue.item_ids):
        raise ConfigurationError(
            f"logs '{first.name}' and '{second.name}' have other users or items; take both from one log by 'where'."
        )
    user = np.concatenate([first.user, second.user])
    timestamp = np.concatenate([first.timestamp, second.timestamp])
    order = np.lexsort((timestamp, user))
    columns: dict[str, Any] = {}
    for name in COLUMNS:
        parts = [getattr(log, name) for log in (first, second)]
        if all(part is None for part in parts):
            continue
        if name == "request" and len(first) and len(second):
            # requests of the two are others, whatever their numbers
            parts[1] = np.where(parts[1] >= 0, parts[1] + parts[0].max() + 1, -1)
        filled = [np.full(len(log), False if name == "random_exposure" else np.nan) for log in (first, second)]
        kind = next(part.dtype for part in parts if part is not None)
        columns[name] = np.concatenate([filled[n] if part is None else part for n, part in enumerate(parts)]).astype(
            kind
        )[order]
    repeats = first.has_repeats or second.has_repeats
    return replace(first, **columns, has_repeats=repeats), order >= len(first)


def held_out(log: InteractionLog, share: float, seed: int = 0) -> NDArray[np.bool_]:
    """[R] the last `share` of each user's rows, slates kept whole: for early stopping. Which users give the row that rounding
    leaves is drawn by `seed`."""
    if not len(log) or not share:
        return np.zeros(len(log), bool)
    size = np.diff(log.user_starts)
    draws = draw_uniform(seed, Purpose.AGENT, np.arange(len(size)))
    late = log.place >= (size - np.floor(size * share + draws))[log.user]
    return late[LogHistory(log, 1).slate_start]
