"""Free-running users: each logged user goes on from its 80 % point as the user model says, with nothing to hold it.

Every user consumes as many items as were held out, so that the sequences can be compared item by item. When it does so is the
model's own affair: after each item the visit ends by the fitted hazard, the next begins after a fitted gap, both given that
the next item comes before the log's end, as that of the real user did; items of a visit follow each other at the log's median
pace. Items come from the whole catalogue that exists by then: born, or seen in
the log, before the simulated clock. How many items there are in how many visits is compared in `evaluation.fidelity.calendar`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr, ndtri

from envs.catalogue import SECONDS_PER_DAY, weekday_of
from envs.logs.schema import VISIT_GAP_SECONDS, InteractionLog
from envs.randomness import Purpose, draw_gumbel, draw_normal, draw_uniform
from envs.users.likelihood import EventSplit, Part
from envs.users.protocol import Trait, UserModel, UserModelState, VisitParams, age_effect

DEFAULT_PACE_SECONDS = 60.0
"""Time between two items of a visit where the log has no two events in any visit."""
_CELLS = 2**22
"""Users times items that are looked at together."""


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


def observed_lengths(split: EventSplit) -> NDArray[np.int64]:
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


def replayed(model: UserModel, split: EventSplit, users: NDArray[np.int64]) -> UserModelState:
    """State of log users `users` [N] at their 80 % points."""
    state = model.start(model.user_parameters[users])
    ends = observed_lengths(split)[users]
    for place in range(int(ends.max(initial=0))):
        rows = np.flatnonzero(ends > place)
        events = split.starts[users[rows]] + place
        paused = split.pause_days[events] > 0
        if paused.any():
            model.pause(state, rows[paused], split.pause_days[events[paused]], None)
        model.consume(state, rows, split.item[events].astype(np.int32))
    return state


def free_run(
    model: UserModel,
    log: InteractionLog,
    split: EventSplit,
    *,
    seed: int,
    users: NDArray[np.int64] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Sequences:
    """Lets log users go on from their 80 % points.

    Args:
        model: any user model whose users and items are those of the log.
        log: the log that the split is of.
        split: tells the 80 % points, and how many items each user is to consume.
        seed: of the draws, which are keyed by user and step, so that they depend on nobody else.
        users: who goes on; None for all.
        tick: called after each block of users.
    """
    users = np.arange(split.num_users) if users is None else users
    wanted = np.diff(split.starts)[users] - observed_lengths(split)[users]
    runner = _Runner(model, log, split, seed)
    block = max(_CELLS // split.num_items, 1)
    parts: list[tuple[NDArray[np.int64], ...]] = []
    for begin in range(0, len(users), block):
        rows = slice(begin, begin + block)
        parts.append(runner.run(users[rows], wanted[rows]))
        tick()
    user, item, timestamp = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(user, kind="stable")
    return Sequences(
        num_users=split.num_users,
        user=user[order],
        item=item[order],
        timestamp=timestamp[order],
    )


@dataclass
class _Walkers:
    """N users on their way."""

    user: NDArray[np.int64]
    state: UserModelState
    clock: NDArray[np.float64]
    """[N] seconds since 1970."""
    place: NDArray[np.int64]
    """[N] items consumed so far in this visit."""
    visit: NDArray[np.int64]
    """[N] visits ended since the 80 % point."""
    in_first_visit: NDArray[np.bool_]
    """[N] whether this is the first visit of the user's life."""
    alive: NDArray[np.bool_]
    """[N] whether more items are to come."""


class _Runner:
    """Runs blocks of users; what all blocks share is made once."""

    def __init__(self, model: UserModel, log: InteractionLog, split: EventSplit, seed: int) -> None:
        self.model, self.split, self.seed = model, split, seed
        self.pace, self.ends = pace_seconds(split), observed_lengths(split)
        self.birth, self.exists_from, self.retired = log.catalogue.birth, existing_from(log), log.catalogue.retired
        self.until = int(log.timestamp[log.clicked].max())

    def run(self, users: NDArray[np.int64], wanted: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """(user, item, timestamp) of the items that `users` [N] consume, `wanted` [N] of each, step by step."""
        split, ends = self.split, self.ends[users]
        last = np.minimum(split.starts[users] + np.maximum(ends - 1, 0), len(split) - 1)
        place = split.place_in_visit[last] + 1
        walkers = _Walkers(
            user=users,
            state=replayed(self.model, split, users),
            clock=split.timestamp[last].astype(np.float64),
            place=place,
            visit=np.zeros(len(users), np.int64),
            in_first_visit=place == ends,
            alive=wanted > 0,
        )
        had = np.zeros((len(users), split.num_items), bool)
        for row, user in enumerate(users):
            had[row, split.item[split.starts[user] : split.starts[user] + ends[row]]] = True
        self._move_on(walkers, np.flatnonzero(walkers.alive), 0)
        found: list[tuple[NDArray[np.int64], ...]] = [(np.zeros(0, np.int64),) * 3]
        step = 0
        while True:
            walkers.alive &= wanted > step
            rows = np.flatnonzero(walkers.alive)
            if not len(rows):
                return tuple(np.concatenate(column) for column in zip(*found, strict=True))
            utility = self._utilities(walkers, rows)
            if split.mask_earlier:
                utility[had[rows]] = -np.inf
            possible = np.isfinite(utility).any(axis=1)  # who has had everything stops
            walkers.alive[rows[~possible]] = False
            rows = rows[possible]
            noise = draw_gumbel(self.seed, Purpose.CHOICE, users[rows][:, None], step, np.arange(split.num_items)[None])
            item = np.argmax(utility[possible] + noise, axis=1)
            found.append((users[rows], item, walkers.clock[rows].astype(np.int64)))
            had[rows, item] = True
            self.model.consume(walkers.state, rows, item.astype(np.int32))
            step += 1
            walkers.place[rows] += 1
            self._move_on(walkers, rows, step)

    def _utilities(self, walkers: _Walkers, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """[M, I] of the users at `rows` [M], -inf for what does not exist at their clocks."""
        now = walkers.clock[rows]
        preference = self.model.preference(
            walkers.state.take(rows),
            (now % SECONDS_PER_DAY / 3600).astype(np.float32),
            weekday_of(now.astype(np.int64)),
            walkers.place[rows],
        )
        age = (now[:, None] - self.birth) / SECONDS_PER_DAY
        utility = preference @ self.model.item_vectors.T + self.model.item_bias
        utility += age_effect(self.model.age_values, age.astype(np.float32))
        utility[self.exists_from > now[:, None]] = -np.inf
        if self.retired is not None:
            utility[self.retired <= now[:, None]] = -np.inf
        return utility

    def _move_on(self, walkers: _Walkers, rows: NDArray[np.int64], step: int) -> None:
        """Moves the users at `rows` from an item to the next: on in the visit, or to the next visit, given that one of them comes
        before the log's end: as the number of items is given, nobody stays away for good or beyond it."""
        visits, traits, seed = self.model.visits, walkers.state.traits[rows], self.seed
        leave = expit(
            visits.leave_logit(walkers.place[rows] - 1, walkers.in_first_visit[rows]) + traits[:, Trait.LEAVE]
        )
        room = np.maximum(self.until - walkers.clock[rows], 1) / SECONDS_PER_DAY
        within = _gaps_within(visits, traits, np.log(room))
        back = leave * expit(visits.return_intercept + traits[:, Trait.RETURN]) * within.sum(axis=1)
        away_next = back / np.maximum(1 - leave + back, 1e-300)
        leaves = draw_uniform(seed, Purpose.LEAVE, walkers.user[rows], step) < away_next
        walkers.clock[rows[~leaves]] += self.pace
        away = rows[leaves]
        who, which = walkers.user[away], walkers.visit[away]
        uniforms = (draw_uniform(seed, purpose, who, which) for purpose in (Purpose.GAP_KIND, Purpose.GAP))
        days = np.exp(_log_gap_within(visits, traits[leaves], within[leaves], *uniforms))
        days = np.maximum(days, VISIT_GAP_SECONDS / SECONDS_PER_DAY)
        width = np.arange(self.model.walk_width)
        walk = draw_normal(seed, Purpose.INTEREST_WALK, who[:, None], which[:, None], width[None])
        self.model.pause(walkers.state, away, days.astype(np.float32), walk)
        walkers.clock[away] += days * SECONDS_PER_DAY
        walkers.visit[away] += 1
        walkers.place[away] = 0
        walkers.in_first_visit[away] = False


def _gap_kinds(visits: VisitParams, traits: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """([M, 2] means, [2] standard deviations) of the log of days of either kind of gap, of users with `traits` [M, len(Trait)]."""
    mean = visits.gap_log_mean + np.array([0.0, visits.wide_gap_shift]) + traits[:, [Trait.GAP]]
    return mean, np.array([visits.gap_log_sd, visits.wide_gap_log_sd])


def _gaps_within(
    visits: VisitParams, traits: NDArray[np.float32], log_room: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[M, 2] chance that a gap is of either kind and no longer than exp(`log_room` [M]) days."""
    mean, sd = _gap_kinds(visits, traits)
    share = np.array([1 - visits.wide_gap_share, visits.wide_gap_share])
    chance: NDArray[np.float64] = share * ndtr((log_room[:, None] - mean) / sd)
    return chance


def _log_gap_within(
    visits: VisitParams,
    traits: NDArray[np.float32],
    within: NDArray[np.float64],
    kind: NDArray[np.floating],
    uniform: NDArray[np.floating],
) -> NDArray[np.float64]:
    """[M] log of days of gaps that are cut above so that `within` [M, 2] is left of both kinds (`_gaps_within`), from uniform draws
    `kind` and `uniform` [M]."""
    mean, sd = _gap_kinds(visits, traits)
    wide = (kind * within.sum(axis=1) < within[:, 1]).astype(np.int64)
    row = np.arange(len(wide))
    share = np.where(wide, visits.wide_gap_share, 1 - visits.wide_gap_share)
    log_days: NDArray[np.float64] = mean[row, wide] + sd[wide] * ndtri(uniform * within[row, wide] / share)
    return log_days
