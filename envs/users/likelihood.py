"""The protocol by which user models are measured: who is asked to predict what from what.

Each user's consumed events in order of time (ties in file order), the first 300 at most; the first 70 % are for fitting, the
next 10 % for early stopping, the last 20 % for testing. The figure is the mean negative log-likelihood, in nats, of the
next item under a softmax over the whole catalogue, given everything before it: *masked* leaves the user's earlier items
out of the softmax (as the simulator does), *unmasked* keeps them. The same with the events shuffled inside each visit
tells how much of a model's gain is no more than the order of a rating page.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from envs.catalogue import SECONDS_PER_DAY, weekday_of
from envs.errors import LogError
from envs.logs.schema import InteractionLog
from envs.users.protocol import UserModel, age_effect

MAX_EVENTS = 300
"""Events of a user that count; later ones are left aside."""
_CHUNK = 1024


class Part(IntEnum):
    """What an event is used for."""

    FIT = 0
    STOP = 1
    TEST = 2


@dataclass(frozen=True, kw_only=True)
class EventSplit:
    """E events in order of user and time, each with its part and its context."""

    num_users: int
    num_items: int
    mask_earlier: bool
    """Whether the user's earlier items leave the softmax in masked figures: not where the log has repeats."""
    user: NDArray[np.int64]
    """[E] index of the user."""
    item: NDArray[np.int64]
    """[E] item consumed."""
    row: NDArray[np.int64]
    """[E] row of `log.consumed()` that holds the item (where events are shuffled, not that of the timestamp)."""
    part: NDArray[np.int64]
    """[E] `Part` of the event."""
    place: NDArray[np.int64]
    """[E] events of the user before this one."""
    starts: NDArray[np.int64]
    """[U + 1] first event of each user."""
    timestamp: NDArray[np.int64]
    """[E] seconds since 1970."""
    pause_days: NDArray[np.float32]
    """[E] days since the user's previous visit where the event begins a new one, else 0."""
    place_in_visit: NDArray[np.int64]
    """[E] events before this one in its visit."""

    def __len__(self) -> int:
        return len(self.user)

    @property
    def hour(self) -> NDArray[np.float32]:
        """[E] hour of the day, 0 to 24, UTC."""
        return (self.timestamp % SECONDS_PER_DAY / 3600).astype(np.float32)

    @property
    def weekday(self) -> NDArray[np.int64]:
        """[E] day of the week, Monday 0."""
        return weekday_of(self.timestamp)

    def counts(self, part: Part) -> NDArray[np.int64]:
        """[I] how often each item was consumed in `part`."""
        return np.bincount(self.item[self.part == part], minlength=self.num_items)


def split_events(log: InteractionLog, max_events: int = MAX_EVENTS, shuffle_seed: int | None = None) -> EventSplit:
    """Splits a log by the protocol; with `shuffle_seed`, events change places inside visit and part.

    Raises:
        LogError: if the log has no consumed event.
    """
    events = log.consumed()
    if not len(events):
        raise LogError(f"log '{log.name}' has no consumed event, so no user can be fitted; give a log with clicks.")
    length = np.minimum(np.diff(events.user_starts), max_events)
    rows = events.place < max_events
    user, place = events.user[rows].astype(np.int64), events.place[rows]
    part = (place >= 7 * length[user] // 10).astype(np.int64) + (place >= 8 * length[user] // 10)
    visit, timestamp = events.visit[rows], events.timestamp[rows]
    row = np.flatnonzero(rows)
    if shuffle_seed is not None:
        noise = np.random.default_rng(shuffle_seed).random(len(row))
        row = row[np.lexsort((noise, part, visit, user))]
    begins = (place > 0) & (np.diff(visit, prepend=0) != 0)
    gap = np.diff(timestamp, prepend=timestamp[:1]) / SECONDS_PER_DAY
    return EventSplit(
        num_users=len(log.users),
        num_items=len(log.catalogue),
        mask_earlier=not log.has_repeats,
        user=user,
        item=events.item[row].astype(np.int64),
        row=row,
        part=part,
        place=place,
        starts=np.concatenate([[0], np.cumsum(length)]),
        timestamp=timestamp,
        pause_days=np.where(begins, gap, 0).astype(np.float32),
        place_in_visit=events.place_in_visit[rows],
    )


def log_popularity(split: EventSplit) -> NDArray[np.float32]:
    """[I] log of one more than an item's count in the fit part, centred: where biases begin, and what they are held near."""
    popularity = np.log(split.counts(Part.FIT) + 1.0)
    return (popularity - popularity.mean()).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class EventLikelihood:
    """Negative log-likelihoods of single events, in nats."""

    user: NDArray[np.int64]
    """[E] user of the event."""
    masked: NDArray[np.float64]
    """[E] with the user's earlier items left out of the softmax."""
    unmasked: NDArray[np.float64]
    """[E] with the whole catalogue in the softmax."""

    def mean(self, masked: bool = True) -> tuple[float, float]:
        """Mean over events and half the width of its 95 % interval, events clustered by user; NaN without events."""
        values = self.masked if masked else self.unmasked
        if not len(values):
            return float("nan"), float("nan")
        mean = values.mean()
        of_user = np.bincount(self.user, values - mean)
        return float(mean), float(1.96 * np.sqrt((of_user**2).sum()) / len(values))

    def report(self) -> dict[str, float | int | None]:
        """masked, unmasked, the half-widths of their 95 % intervals, and test_events; None where there are no events."""
        figures: dict[str, float | int | None] = {"test_events": len(self.user)}
        for name, masked in (("masked", True), ("unmasked", False)):
            mean, half = self.mean(masked)
            figures[name] = mean if len(self.user) else None
            figures[f"{name}_half_width"] = half if len(self.user) else None
        return figures


Utilities = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Takes event numbers [B], gives the utilities [B, I] of the whole catalogue just before these events."""


def next_item_likelihood(utilities: Utilities, split: EventSplit, part: Part) -> EventLikelihood:
    """Negative log-likelihood of each event of `part`."""
    events = np.flatnonzero(split.part == part)
    masked, unmasked = np.empty(len(events)), np.empty(len(events))
    for begin in range(0, len(events), _CHUNK):
        chunk = events[begin : begin + _CHUNK]
        utility = utilities(chunk)
        chosen = utility[np.arange(len(chunk)), split.item[chunk]].astype(np.float64)
        top = utility.max(axis=1, keepdims=True)
        weight = np.exp(utility - top)
        whole = weight.sum(axis=1, dtype=np.float64)
        unmasked[begin : begin + _CHUNK] = np.log(whole) + top[:, 0] - chosen
        if split.mask_earlier:
            for row, event in enumerate(chunk):
                weight[row, split.item[event - split.place[event] : event]] = 0
            whole = weight.sum(axis=1, dtype=np.float64)
        masked[begin : begin + _CHUNK] = np.log(whole) + top[:, 0] - chosen
    return EventLikelihood(user=split.user[events], masked=masked, unmasked=unmasked)


def replay_preferences(model: UserModel, split: EventSplit) -> NDArray[np.float32]:
    """[E, D] preference of each event's user just before the event, by the simulator's own replay."""
    preferences = np.empty((len(split), model.item_vectors.shape[1]), np.float32)
    lengths = np.diff(split.starts)
    state = model.start(model.user_parameters)
    hour, weekday = split.hour, split.weekday
    for place in range(int(lengths.max())):
        users = np.flatnonzero(lengths > place)
        events = split.starts[users] + place
        paused = split.pause_days[events] > 0
        if paused.any():
            model.pause(state, users[paused], split.pause_days[events[paused]], None)
        preferences[events] = model.preference(
            state.take(users), hour[events], weekday[events], split.place_in_visit[events]
        )
        model.consume(state, users, split.item[events].astype(np.int32))
    return preferences


def user_model_likelihood(
    model: UserModel, birth: NDArray[np.int64], split: EventSplit, part: Part = Part.TEST
) -> EventLikelihood:
    """Likelihood of a user model as it is simulated: its own replay, preference, item vectors, bias and age effect.

    Args:
        model: any user model whose users and items are those of the split.
        birth: [I] birth of the items, seconds since 1970.
        split: the events.
        part: which of them to measure.
    """
    preferences = replay_preferences(model, split)

    def utilities(events: NDArray[np.int64]) -> NDArray[np.float32]:
        age = (split.timestamp[events, None] - birth[None]).astype(np.float32) / np.float32(SECONDS_PER_DAY)
        utility = preferences[events] @ model.item_vectors.T
        utility += model.item_bias
        utility += age_effect(model.age_values, age)
        return utility

    return next_item_likelihood(utilities, split, part)
