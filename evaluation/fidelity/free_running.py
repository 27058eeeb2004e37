"""Free-running users: each logged user goes on from its 80 % point as the user model says, with nothing to hold it.

Two modes. *By length*: every user consumes as many items as were held out, so that the sequences can be compared item by item.
When it does so is the model's own affair: after each item the visit ends by the fitted hazard, the next begins after a fitted
gap, and items of a visit follow each other at the log's median pace. *By calendar*: the visits go on until the log's end,
however many items that gives, so that visits, gaps and activity can be compared.

In both, items come from the whole catalogue that exists by then: born, or seen in the log, before the simulated clock.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.catalogue import SECONDS_PER_DAY
from envs.logs.schema import VISIT_GAP_SECONDS, InteractionLog
from envs.randomness import Purpose, draw_gumbel, draw_normal, draw_uniform
from envs.users.likelihood import EventSplit, Part
from envs.users.protocol import Trait, UserModel, UserModelState, age_effect

DEFAULT_PACE_SECONDS = 60.0
"""Time between two items of a visit where the log has no two events in any visit."""


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Items that users consumed after their 80 % point; E events in order of user and position."""

    num_users: int
    user: NDArray[np.int64]
    """[E] index of the user."""
    item: NDArray[np.int64]
    """[E] index of the item."""
    timestamp: NDArray[np.int64]
    """[E] seconds since 1970."""

    def __len__(self) -> int:
        return len(self.user)

    @property
    def starts(self) -> NDArray[np.int64]:
        """[U + 1] first event of each user, and E last."""
        return np.searchsorted(self.user, np.arange(self.num_users + 1)).astype(np.int64)

    @property
    def position(self) -> NDArray[np.int64]:
        """[E] events of the user before this one, from 0."""
        return np.arange(len(self)) - self.starts[self.user]

    def of_users(self, users: NDArray[np.int64]) -> "Sequences":
        """The sequences of `users` only; indices stay."""
        chosen = np.zeros(self.num_users, bool)
        chosen[users] = True
        rows = chosen[self.user]
        return Sequences(
            num_users=self.num_users, user=self.user[rows], item=self.item[rows], timestamp=self.timestamp[rows]
        )


def held_out_sequences(split: EventSplit) -> Sequences:
    """The real ones: the test part."""
    rows = split.part == Part.TEST
    return Sequences(
        num_users=split.num_users, user=split.user[rows], item=split.item[rows], timestamp=split.timestamp[rows]
    )


def history(split: EventSplit) -> Sequences:
    """What both have in common: the events before the 80 % point."""
    rows = split.part != Part.TEST
    return Sequences(
        num_users=split.num_users, user=split.user[rows], item=split.item[rows], timestamp=split.timestamp[rows]
    )


def held_out_calendar(log: InteractionLog, split: EventSplit) -> Sequences:
    """All real events after each user's 80 % point until the log's end, also those beyond the protocol's first 300."""
    events = log.consumed()
    rows = events.place >= test_places(split)[events.user]
    return Sequences(
        num_users=split.num_users,
        user=events.user[rows].astype(np.int64),
        item=events.item[rows].astype(np.int64),
        timestamp=events.timestamp[rows],
    )


def test_places(split: EventSplit) -> NDArray[np.int64]:
    """[U] number of events before the test part."""
    return np.bincount(split.user[split.part != Part.TEST], minlength=split.num_users)


def pace_seconds(split: EventSplit) -> float:
    """Median seconds between two consecutive events of a visit before the test part."""
    known = split.part != Part.TEST
    follows = known[1:] & (split.place_in_visit[1:] > 0)
    steps = np.diff(split.timestamp)[follows]
    return float(np.median(steps)) if len(steps) else DEFAULT_PACE_SECONDS


def existing_from(log: InteractionLog) -> NDArray[np.int64]:
    """[I] seconds since 1970 from which an item can be consumed: its birth, or its first event where that is earlier."""
    first = log.catalogue.birth.astype(np.int64).copy()
    events = log.consumed()
    np.minimum.at(first, events.item, events.timestamp)
    return first


def replayed(model: UserModel, split: EventSplit) -> UserModelState:
    """State of every log user at its 80 % point."""
    state = model.start(model.user_parameters)
    ends = test_places(split)
    for place in range(int(ends.max(initial=0))):
        users = np.flatnonzero(ends > place)
        events = split.starts[users] + place
        paused = split.pause_days[events] > 0
        if paused.any():
            model.pause(state, users[paused], split.pause_days[events[paused]], None)
        model.consume(state, users, split.item[events].astype(np.int32))
    return state


def free_run(
    model: UserModel,
    log: InteractionLog,
    split: EventSplit,
    *,
    seed: int,
    by_calendar: bool = False,
    max_items: int = 2_000,
) -> Sequences:
    """Lets every log user go on from its 80 % point.

    Args:
        model: any user model whose users and items are those of the log.
        log: the log that the split is of.
        split: tells the 80 % points, and in the mode by length how many items each user is to consume.
        seed: of the draws, which are keyed by user and step.
        by_calendar: whether visits go on until the log's end, instead of until the number of items is reached.
        max_items: items of a user at most, by calendar.
    """
    ends, lengths = test_places(split), np.diff(split.starts)
    wanted = np.full(split.num_users, max_items) if by_calendar else lengths - ends
    last_second = int(log.timestamp.max()) if by_calendar else None
    pace, exists_from = pace_seconds(split), existing_from(log)
    retired = log.catalogue.retired
    state = replayed(model, split)

    had = np.zeros((split.num_users, split.num_items), bool)
    before = split.part != Part.TEST
    had[split.user[before], split.item[before]] = True
    last = split.starts[:-1] + np.maximum(ends - 1, 0)
    clock = split.timestamp[last].astype(np.float64)
    place = split.place_in_visit[last] + 1
    visit = np.zeros(split.num_users, np.int64)
    in_first_visit = place == ends
    alive = (lengths > 0) & (wanted > 0)
    move_on(
        model, state, np.flatnonzero(alive), clock, place, visit, in_first_visit, alive, pace, seed, 0, not by_calendar
    )

    users_out, items_out, times_out = [], [], []
    step = 0
    while True:
        alive &= wanted > step
        if last_second is not None:
            alive &= clock <= last_second
        users = np.flatnonzero(alive)
        if not len(users):
            break
        now = clock[users]
        hour = (now % SECONDS_PER_DAY / 3600).astype(np.float32)
        weekday = (now // SECONDS_PER_DAY).astype(np.int64) + 3
        preference = model.preference(state.take(users), hour, weekday % 7, place[users])
        utility = preference @ model.item_vectors.T + model.item_bias
        age = (now[:, None] - log.catalogue.birth) / SECONDS_PER_DAY
        utility += age_effect(model.age_values, age.astype(np.float32))
        utility[exists_from > now[:, None]] = -np.inf
        if retired is not None:
            utility[retired <= now[:, None]] = -np.inf
        if split.mask_earlier:
            utility[had[users]] = -np.inf
        some = np.isfinite(utility).any(axis=1)  # a user who has had everything stops
        alive[users[~some]] = False
        users, utility, now = users[some], utility[some], now[some]
        noise = draw_gumbel(seed, Purpose.CHOICE, users[:, None], step, np.arange(split.num_items)[None])
        item = np.argmax(utility + noise, axis=1)
        users_out.append(users)
        items_out.append(item)
        times_out.append(now.astype(np.int64))
        had[users, item] = True
        model.consume(state, users, item.astype(np.int32))
        step += 1
        place[users] += 1
        move_on(model, state, users, clock, place, visit, in_first_visit, alive, pace, seed, step, not by_calendar)
    user = np.concatenate(users_out)
    order = np.argsort(user, kind="stable")
    return Sequences(
        num_users=split.num_users,
        user=user[order],
        item=np.concatenate(items_out)[order],
        timestamp=np.concatenate(times_out)[order],
    )


def move_on(
    model: UserModel,
    state: UserModelState,
    users: NDArray[np.int64],
    clock: NDArray[np.float64],
    place: NDArray[np.int64],
    visit: NDArray[np.int64],
    in_first_visit: NDArray[np.bool_],
    alive: NDArray[np.bool_],
    pace: float,
    seed: int,
    step: int,
    must_return: bool,
) -> None:
    """Moves `users` from an item to the next: on in the visit, to the next visit, or away for good.

    Changes state, clock [U], place in the visit [U], visits before this one [U], whether it is the first of the user's life [U]
    and alive [U]. With `must_return` nobody stays away: the number of items is given.
    """
    visits = model.visits
    logit = visits.leave_logit(place[users] - 1, in_first_visit[users]) + state.traits[users, Trait.LEAVE]
    leaves = draw_uniform(seed, Purpose.LEAVE, users, step) < 1 / (1 + np.exp(-logit))
    clock[users[~leaves]] += pace
    away = users[leaves]
    if not must_return:
        logit = visits.return_intercept + state.traits[away, Trait.RETURN]
        stays_away = draw_uniform(seed, Purpose.RETURN, away, visit[away]) >= 1 / (1 + np.exp(-logit))
        alive[away[stays_away]] = False
        away = away[~stays_away]
    kind = draw_uniform(seed, Purpose.GAP_KIND, away, visit[away])
    log_days = visits.log_gap(kind, draw_normal(seed, Purpose.GAP, away, visit[away]))
    log_days = log_days + state.traits[away, Trait.GAP]
    days = np.maximum(np.exp(log_days), VISIT_GAP_SECONDS / SECONDS_PER_DAY)
    walk = draw_normal(
        seed, Purpose.INTEREST_WALK, away[:, None], visit[away][:, None], np.arange(model.walk_width)[None]
    )
    model.pause(state, away, days.astype(np.float32), walk)
    clock[away] += days * SECONDS_PER_DAY
    visit[away] += 1
    place[away] = 0
    in_first_visit[away] = False
