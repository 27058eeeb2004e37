"""How good recall is: does the next item stand among the candidates, and which channel put it there?"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from envs.candidate_source import RecallRequest
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from recall.channels.ranking import ranked, walk
from recall.merging import MergedRecall, merge_found

HISTORY_SIZE = 50
"""Items of a history that recall is told of."""
TRIAL_SHARE = 0.1
"""Share of the candidates that a channel without quota is given to see what it would add."""
INTERVAL = 1.96
"""Standard errors to each side of an estimate: 95 % under a normal law, over users."""


@dataclass(frozen=True)
class NextItems:
    """The last consumption of each user, held out, and the request that stands before it."""

    log: InteractionLog
    """All rows before each user's last consumption."""
    request: RecallRequest
    """N users with what they consumed before; what they have consumed and what was not born yet is excluded."""
    target: NDArray[np.int32]
    """[N] the item that each consumed last."""


def leave_last_out(log: InteractionLog, history_size: int = HISTORY_SIZE) -> NextItems:
    """Holds out the last consumption of each user who has at least two.

    Where a user never consumes an item twice, consumed items are excluded; items born after the held-out consumption are too.

    Raises:
        ConfigurationError: if no user consumed two items.
    """
    events = log.consumed()
    number = np.diff(events.user_starts)
    users = np.flatnonzero(number >= 2)
    if not len(users):
        raise ConfigurationError(f"log '{log.name}' has no user with two consumed items, so none can be held out.")
    last = events.user_starts[1:][users] - 1
    target, when = events.item[last], events.timestamp[last]

    rows = np.flatnonzero(log.clicked)[last]
    end = log.user_starts[1:].copy()
    end[users] = rows
    train = log.where(np.arange(len(log)) < end[log.user])

    place = last[:, None] - 1 - np.arange(history_size)
    history = np.where(place >= events.user_starts[users, None], events.item[np.maximum(place, 0)], -1)
    closed = log.catalogue.birth[None, :] > when[:, None]
    if not log.has_repeats:
        before = train.consumed()
        chosen = np.isin(before.user, users)
        closed[np.searchsorted(users, before.user[chosen]), before.item[chosen]] = True
    excluded = np.packbits(closed, axis=1, bitorder="little")
    request = RecallRequest(
        users.astype(np.int64), history.astype(np.int32), excluded, np.stack([users, np.zeros_like(users)], axis=1)
    )
    return NextItems(train, request, target)


@dataclass(frozen=True, kw_only=True)
class ChannelQuality:
    """What a channel is worth, alone and among the others. Shares and differences are of requests' candidates and of users."""

    channel: str
    """Name of the channel, "merged" for all of them together, or "popularity" for the most consumed items."""
    recall: float
    """Share of users whose next item stands among the first n of the channel alone."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Upper end of its 95 % interval."""
    over_popularity: float
    """Recall less that of the most consumed items, of the same users."""
    over_popularity_low: float
    """Lower end of its 95 % interval (paired)."""
    over_popularity_high: float
    """Upper end of its 95 % interval (paired)."""
    quota: float
    """Share of the candidates that the channel may place."""
    share: float
    """Share of the merged candidates that it placed."""
    found: float
    """Share of the merged candidates that it found, whoever placed them."""
    alone: float
    """Share of the merged candidates that no other channel found."""
    adds: float
    """Recall of the merged candidates less that of all other channels merged, their quotas scaled to 1. Of a channel without
    quota: what a tenth of the candidates in its hands would add to the recall of the merged ones."""
    adds_low: float
    """Lower end of its 95 % interval (paired)."""
    adds_high: float
    """Upper end of its 95 % interval (paired)."""


@dataclass(frozen=True)
class QualityReport:
    """Rows of a table: the merged candidates, each channel, and popularity."""

    n: int
    """Candidates."""
    users: int
    """Users whose next item was asked for."""
    rows: Sequence[ChannelQuality]
    """Merged first, then the channels, then popularity."""
    over_best: tuple[float, float, float]
    """Recall of the merged candidates less that of the channel that is best alone, with its 95 % interval (paired)."""

    def table(self) -> pl.DataFrame:
        """A row a channel."""
        return pl.DataFrame([asdict(row) for row in self.rows])

    def figures(self) -> dict[str, float]:
        """Flat figures: `recall<n>_<channel>` and `recall<n>_merged_over_best_channel`, with `_low` and `_high`."""
        triples = {row.channel: (row.recall, row.low, row.high) for row in self.rows}
        return {
            f"recall{self.n}_{name}{suffix}": value
            for name, triple in (triples | {"merged_over_best_channel": self.over_best}).items()
            for suffix, value in zip(("", "_low", "_high"), triple, strict=True)
        }


def recall_quality(recall: MergedRecall, log: InteractionLog, n: int = 100) -> QualityReport:
    """Fits `recall` to all of `log` but each user's last consumption, and asks for that with `n` candidates."""
    held_out = leave_last_out(log)
    recall.fit(held_out.log)
    return measured_quality(recall, held_out, n)


def measured_quality(recall: MergedRecall, held_out: NextItems, n: int = 100) -> QualityReport:
    """The report of a `recall` that was fitted to `held_out.log`."""
    request, target, num_items = held_out.request, held_out.target, len(held_out.log.catalogue)
    found = [channel.recall(request, n)[0] for channel in recall.channels]
    quotas = list(recall.quotas.values())
    items, first, brought = merge_found(found, quotas, n, num_items)
    filled = max(int((items >= 0).sum()), 1)
    counts = held_out.log.item_counts().astype(np.float64)
    popular = _hits(walk(ranked(counts, None), counts, request, n)[0], target)
    merged = _hits(items, target)

    def hits_with(shares: list[float]) -> NDArray[np.float64]:
        """[N] hits under other shares of the channels."""
        used = [place for place, share in enumerate(shares) if share > 0]
        if not used:
            return np.zeros(len(target))
        return _hits(merge_found([found[at] for at in used], [shares[at] for at in used], n, num_items)[0], target)

    rows = [_row("merged", merged, popular, merged)]
    own = [_hits(items, target) for items in found]
    for number, channel in enumerate(recall.channels):
        if quotas[number] > 0:
            added = merged - hits_with([share * (place != number) for place, share in enumerate(quotas)])
        else:
            shares = [share * (1 - TRIAL_SHARE) for share in quotas]
            shares[number] = TRIAL_SHARE
            added = hits_with(shares) - merged
        rows.append(
            _row(
                channel.name,
                own[number],
                popular,
                added,
                quota=quotas[number],
                share=float((first == number).sum() / filled),
                found=float(((brought >> number) & 1).sum() / filled),
                alone=float((brought == 1 << number).sum() / filled),
            )
        )
    rows.append(_row("popularity", popular, popular, np.zeros(len(target)), 0, 0, 0, 0))
    over_best = merged - max(own, key=lambda hits: hits.mean())
    return QualityReport(n, len(target), rows, (float(over_best.mean()), *_interval(over_best)))


def _hits(items: NDArray[np.int32], target: NDArray[np.int32]) -> NDArray[np.float64]:
    """[N] 1 where the target is among the items."""
    return (items == target[:, None]).any(axis=1).astype(np.float64)


def _row(
    channel: str,
    hits: NDArray[np.float64],
    popular: NDArray[np.float64],
    added: NDArray[np.float64],
    quota: float = 1.0,
    share: float = 1.0,
    found: float = 1.0,
    alone: float = 0.0,
) -> ChannelQuality:
    low, high = _interval(hits)
    over_low, over_high = _interval(hits - popular)
    adds_low, adds_high = _interval(added)
    return ChannelQuality(
        channel=channel,
        recall=float(hits.mean()),
        low=low,
        high=high,
        over_popularity=float((hits - popular).mean()),
        over_popularity_low=over_low,
        over_popularity_high=over_high,
        quota=quota,
        share=share,
        found=found,
        alone=alone,
        adds=float(added.mean()),
        adds_low=adds_low,
        adds_high=adds_high,
    )


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    error = INTERVAL * values.std() / np.sqrt(len(values))
    return float(values.mean() - error), float(values.mean() + error)
