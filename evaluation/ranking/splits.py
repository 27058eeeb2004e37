"""Splits of a log into rows to learn from, rows to stop by and rows to predict. None looks ahead of what it predicts."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from agents.rankers.log_history import LogHistory
from agents.rankers.samples import SampleConfig, Samples
from envs.errors import ConfigurationError, LogError
from envs.logs.schema import InteractionLog
from envs.randomness import Purpose, draw_uniform


@dataclass(frozen=True, kw_only=True)
class Split:
    """A log of R rows, and what each is for. A row that is for nothing is history only."""

    name: str
    """How the log was split."""
    log: InteractionLog
    """All rows: the history of a row to predict is whatever stands before it, whether it was learnt from or not."""
    training: NDArray[np.bool_]
    """[R] rows to learn from."""
    validation: NDArray[np.bool_]
    """[R] rows for early stopping."""
    test: NDArray[np.bool_]
    """[R] rows to predict."""
    taught: InteractionLog | None = None
    """The same rows as they are learnt from, where they are not as they were: with wrong labels."""
    known: NDArray[np.bool_] | None = None
    """[R] rows that the service knows of when it is asked, in time; None for all."""
    delay: float = 0.0
    """Seconds until the service knows of a row."""

    @cached_property
    def training_log(self) -> InteractionLog:
        """The rows to learn from."""
        return self._as_taught.where(self.training)

    @cached_property
    def validation_log(self) -> InteractionLog:
        """The rows for early stopping."""
        return self._as_taught.where(self.validation)

    @property
    def _as_taught(self) -> InteractionLog:
        return self.log if self.taught is None else self.taught

    @cached_property
    def test_rows(self) -> NDArray[np.int64]:
        """[M] numbers of the rows to predict."""
        return np.flatnonzero(self.test)

    @cached_property
    def is_cold(self) -> NDArray[np.bool_]:
        """[M] whether the user of a row to predict has no row among those to learn from."""
        known = np.bincount(self.log.user[self.training], minlength=len(self.log.users)) > 0
        return ~known[self.log.user[self.test_rows]]

    def __post_init__(self) -> None:
        if not self.test.any():
            raise LogError(
                f"log '{self.log.name}': the split '{self.name}' leaves nothing to predict; use a longer log."
            )
        if not self.training.any():
            raise LogError(
                f"log '{self.log.name}': the split '{self.name}' leaves nothing to learn from; use a longer log."
            )


def leave_last_out(log: InteractionLog) -> Split:
    """Each user's last consumed item is predicted, the one before it is for early stopping, all earlier rows are learnt from.

    Users with fewer than three consumed items are learnt from and not predicted. Of rows in the same second, those
    later in the file are later, as in RecBole's split 'valid_and_test' in order of time.

    Raises:
        LogError: if no user has three consumed items.
    """
    consumed = np.flatnonzero(log.clicked)
    number = np.bincount(log.user[consumed], minlength=len(log.users))
    ends = np.cumsum(number)
    enough = np.flatnonzero(number >= 3)
    test, validation = (_flags(len(log), consumed[ends[enough] - back]) for back in (1, 2))
    # what was passed over in the slate of a held-out item is held out with it
    begin = np.full(len(log.users), len(log))
    begin[enough] = _slate_starts(log)[validation]
    return Split(
        name="leave-last-out",
        log=log,
        training=np.arange(len(log)) < begin[log.user],
        validation=validation,
        test=test,
    )


def last_share(log: InteractionLog, share: float = 0.2, validation_share: float = 0.1) -> Split:
    """The last `share` of each user's rows is predicted, passed-over ones included; the `validation_share` before it is for
    early stopping. Slates stay whole.

    Raises:
        ConfigurationError: if the shares do not lie in (0, 1) or leave nothing.
        LogError: if no user has enough rows.
    """
    if not (0 < share < 1 and 0 <= validation_share < 1 and share + validation_share < 1):
        raise ConfigurationError(
            f"shares of {share} to predict and {validation_share} for early stopping leave nothing to learn from; "
            "both must be in (0, 1), and their sum below 1."
        )
    size = np.diff(log.user_starts)[log.user]
    place = log.place[_slate_starts(log)]
    test = place >= np.floor((1 - share) * size + 1e-9)
    validation = ~test & (place >= np.floor((1 - share - validation_share) * size + 1e-9))
    return Split(name=f"last {share:.0%}", log=log, training=~(test | validation), validation=validation, test=test)


def global_cut(
    log: InteractionLog,
    share: float = 0.2,
    validation_share: float = 0.1,
    *,
    fold_in: int = 5,
    most_per_user: int = 10,
) -> Split:
    """What comes after one moment for all is predicted: the moment before which all but `share` of the rows lie.

    Each user's next `most_per_user` consumed items after the cut are predicted, one by one, each from all that lies before it. A
    user without rows to learn from is cold: the first `fold_in` consumed items are history only. Rows of the `validation_share`
    before the cut are for early stopping.

    Raises:
        ConfigurationError: if a share or number is out of range.
        LogError: if nothing is left to predict or to learn from.
    """
    if not (0 < share < 1 and 0 <= validation_share < 1 and share + validation_share < 1):
        raise ConfigurationError(
            f"shares of {share} to predict and {validation_share} for early stopping leave nothing to learn from; "
            "both must be in (0, 1), and their sum below 1."
        )
    if fold_in < 0 or most_per_user < 1:
        raise ConfigurationError(
            f"fold_in is {fold_in} and most_per_user {most_per_user}; they must be at least 0 and at least 1."
        )
    moments = np.sort(log.timestamp)
    last = max(len(log) - 1, 0)
    early, cut = (
        moments[min(int(np.floor((1 - later) * len(log) + 1e-9)), last)] if len(log) else 0
        for later in (share + validation_share, share)
    )
    after = log.timestamp >= cut
    training = log.timestamp < early
    is_cold = np.bincount(log.user[training], minlength=len(log.users)) == 0
    consumed = np.flatnonzero(log.clicked)
    place = np.arange(len(consumed)) - np.searchsorted(log.user[consumed], log.user[consumed])
    late = after[consumed] & ~(is_cold[log.user[consumed]] & (place < fold_in))
    consumed = consumed[late]
    place = np.arange(len(consumed)) - np.searchsorted(log.user[consumed], log.user[consumed])
    test = _flags(len(log), consumed[place < most_per_user])
    return Split(name="global cut", log=log, training=training, validation=~training & ~after, test=test)


def latest_share(split: Split, share: float) -> Split:
    """A split as if each user's log had begun later: only the latest `share` of the rows to learn from are there, to be learnt
    from and to be known when the ranker is asked. What is predicted stays the same, and so does what it is ranked among; rows
    for early stopping stay too.

    A user keeps one row at least, and slates stay whole.

    Raises:
        ConfigurationError: if the share does not lie in (0, 1].
    """
    if not 0 < share <= 1:
        raise ConfigurationError(f"a share of {share} of the rows cannot be learnt from; it must lie in (0, 1].")
    rows = np.flatnonzero(split.training)
    user = split.log.user[rows]
    place = np.arange(len(rows)) - np.searchsorted(user, user)
    size = np.bincount(user, minlength=len(split.log.users))[user]
    starts = _slate_starts(split.log)
    kept = _flags(len(split.log), starts[rows[place >= np.floor((1 - share) * size + 1e-9)]])[starts] & split.training
    return replace(split, training=kept, known=~(split.training & ~kept))


def late_events(split: Split, delay: float) -> Split:
    """A split whose events the service knows only `delay` seconds later, in training as when it is asked. Users and items are
    learnt from all rows to learn from."""
    return replace(split, delay=delay)


def wrong_items(split: Split, share: float, seed: int = 0) -> Split:
    """A split in which a `share` of the consumed rows to learn from, and to stop by, name another item: one drawn from all that
    are on offer at that time and that the user never consumes. Rows that are wrong at a share are wrong at larger ones too; the few
    for which no item was found that is not another row's stay as they are.

    Raises:
        ConfigurationError: if the share does not lie in [0, 1].
    """
    rows = _wrong_rows(split, share, seed, split.log.clicked)
    history = LogHistory(split.log, 1)
    samples = Samples(history, split.log.clicked, SampleConfig(label="consumed", avoid_later=True), seed)
    drawn = samples.negatives(rows, count=1)[:, 0]
    pairs = split.log.user[rows].astype(np.int64) * len(split.log.catalogue) + drawn
    usable = (drawn >= 0) & _flags(len(rows), np.unique(pairs, return_index=True)[1])
    item = split.log.item.copy()
    item[rows[usable]] = drawn[usable]
    return replace(split, taught=replace(split.log, item=item))


def wrong_likes(split: Split, share: float, rating_threshold: float, seed: int = 0) -> Split:
    """A split in which a `share` of the labels to learn from, and to stop by, is turned round: clicked or not where the log has
    exposures, else rated at least `rating_threshold` or less. Rows that are wrong at a share are wrong at larger ones too.

    Raises:
        ConfigurationError: if the share does not lie in [0, 1].
    """
    log = split.log
    rows = _wrong_rows(split, share, seed, np.ones(len(log), bool))
    if log.has_exposures:
        clicked = log.clicked.copy()
        clicked[rows] = ~clicked[rows]
        return replace(split, taught=replace(log, clicked=clicked))
    rating = log.rating.copy()
    turned = np.where(rating[rows] >= rating_threshold, rating_threshold - 1, rating_threshold)
    rating[rows] = np.where(np.isnan(rating[rows]), np.nan, turned)
    return replace(split, taught=replace(log, rating=rating))


def _wrong_rows(split: Split, share: float, seed: int, among: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Numbers of a `share` of the rows to learn from or to stop by that are `among` [R], drawn by `seed`."""
    if not 0 <= share <= 1:
        raise ConfigurationError(f"a share of {share} of the labels cannot be wrong; it must lie in [0, 1].")
    rows = np.flatnonzero((split.training | split.validation) & among)
    return rows[draw_uniform(seed, Purpose.SPLIT, rows) < share]


def _flags(count: int, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[count] True at `rows`."""
    flags = np.zeros(count, bool)
    flags[rows] = True
    return flags


def _slate_starts(log: InteractionLog) -> NDArray[np.int64]:
    """[R] first row of the slate of each row; the row itself where the log has no exposures."""
    begins = np.ones(len(log), bool)
    begins[1:] = (log.request[1:] < 0) | (np.diff(log.request) != 0) | (np.diff(log.user) != 0)
    return np.maximum.accumulate(np.where(begins, np.arange(len(log)), 0))
