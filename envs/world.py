"""A world: everything that a run starts from, made once from a log and a user model.

It draws the line that the one law needs: `policy_log` (and its catalogue) is what policies may learn from; the user model,
the outside option and the start states are the simulator's own.
"""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logsumexp

from envs.births import items_of_run, withheld_items
from envs.catalogue import SECONDS_PER_DAY, weekday_of
from envs.catalogue_calendar import ItemCalendar
from envs.engine import UserState, utilities
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.modifiers import ModifiedModel, Scene, modified
from envs.newcomers import Newcomers, listed, make_newcomers, with_histories
from envs.users.burn_in import Past
from envs.users.protocol import UserModel, UserModelState, position_logits, replay
from envs.world_config import WorldConfig

__all__ = ["World", "WorldConfig", "build_world", "calibrate_outside", "default_world"]

HISTORY_SHARE = 0.8
"""Share of each user's rows that lie before the run."""
CALIBRATION_USERS = 2_048
"""Users whose first slates set the outside option, at most."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Made by `build_world`."""

    config: WorldConfig
    policy_log: InteractionLog
    """What policies may learn from: the first 80 % of each log user's rows, without the rows of withheld items, and the
    histories of drawn users, if there are no more than `KEPT_USERS` of those. Users and items keep the indices of the whole
    log; drawn users stand behind the log's, arriving ones behind these, drawn items behind the log's."""
    num_logged: int
    """Users of the log itself, the first ones in `policy_log.users`."""
    born_in_run: NDArray[np.bool_]
    """[I] items that are born during the run: withheld, drawn, or so by their logged birth."""
    calendar: ItemCalendar
    """From when to when each item is offered, in seconds since the run's start."""
    reference_time: int
    """Seconds since 1970 of the run's start, a midnight (UTC)."""
    user_model: UserModel
    """Hidden from every policy."""
    newcomers: Newcomers | None
    """Hidden: drawn and arriving users; None where there are none."""
    outside: float
    """Hidden: logit of consuming nothing."""
    baseline_satisfaction: float
    """Inclusive value in nats of a slate as popular ones are clicked on average: satisfaction at the start of a life."""
    start_interest: UserModelState
    """Hidden: the model's state on day 0 of each user whose history is in `policy_log`: log users, then drawn ones."""
    start_second: NDArray[np.float64]
    """[U] second of the day at which each user begins, that of its own last row before the run."""
    start_day: NDArray[np.int64]
    """[U] day of the run on which each user begins, 0 for all but arriving users."""

    @property
    def num_users(self) -> int:
        return len(self.policy_log.users)

    @property
    def num_items(self) -> int:
        return len(self.policy_log.catalogue)

    @property
    def excludes_seen(self) -> bool:
        """Whether items that a user has consumed are left out of its candidates."""
        chosen = self.config.exclude_seen
        return not self.policy_log.has_repeats if chosen is None else chosen

    @property
    def reference_weekday(self) -> int:
        """Weekday of the run's day 0, Monday 0."""
        return weekday_of(self.reference_time)

    @property
    def birth_clock(self) -> NDArray[np.float64]:
        """[I] seconds since the run's start at which an item is born; negative for old items."""
        return self.calendar.birth_clock

    @cached_property
    def simulated_users(self) -> NDArray[np.int64]:
        """[M] whom a run simulates: the log's users or, where users are drawn, those; and all who arrive."""
        return np.append(self.present_users, np.arange(self.first_arriving, self.num_users))

    @property
    def present_users(self) -> NDArray[np.int64]:
        """[M'] those of them who are there on day 0."""
        return np.arange(self.num_logged if self.config.drawn_users else 0, self.first_arriving)

    @property
    def first_arriving(self) -> int:
        """Index of the first arriving user; those before it are there on day 0."""
        return self.num_logged + self.config.drawn_users

    @property
    def _num_kept(self) -> int:
        """Users whose histories are in the policies' log, and whose states are in `start_interest`."""
        return self.first_arriving if self.newcomers is None or self.newcomers.is_kept else self.num_logged

    def keeps_history(self, users: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[N] whether the history of each of `users` [N] is in the policies' log; of the others only drawn ones have any."""
        return users < self._num_kept

    def start_clock(self, users: NDArray[np.int64]) -> NDArray[np.float64]:
        """[N] clock at which the lives of `users` [N] begin."""
        return self.start_day[users] * SECONDS_PER_DAY + self.start_second[users]

    @cached_property
    def user_features(self) -> NDArray[np.float32]:
        """[U, 1 + Fu] public: log(1 + items consumed before the run) / 10, then the log's attributes."""
        activity = np.bincount(self.policy_log.user[self.policy_log.clicked], minlength=self.num_users)
        if self.newcomers is not None and not self.newcomers.is_kept:
            activity[self.num_logged :] = self.newcomers.length
        return np.column_stack([np.log1p(activity) / 10, self.policy_log.users.features]).astype(np.float32)

    @cached_property
    def _events(self) -> InteractionLog:
        """What was consumed before the run, as the policies' log tells it."""
        return self.policy_log.consumed()

    def seen(self, users: NDArray[np.int64]) -> NDArray[np.uint8]:
        """[N, ceil(I / 8)] little-endian bits of the items that `users` [N] consumed before the run; none where seen items
        are offered."""
        bits = np.zeros((len(users), (self.num_items + 7) // 8), np.uint8)
        if not self.excludes_seen:
            return bits
        row, item = self._consumed_by(users)
        np.bitwise_or.at(bits, (row, item >> 3), np.uint8(1) << (item & 7).astype(np.uint8))
        return bits

    def history(
        self, size: int, users: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(items [N, size], clocks in days [N, size]) of what `users` [N], by default all, last consumed before the run,
        newest first; -1 and 0 where there are fewer. Each user's last row counts as the moment of its start, whatever its
        date."""
        users = np.arange(self.num_users) if users is None else users
        items, days = np.full((len(users), size), -1, np.int32), np.zeros((len(users), size), np.float32)
        kept = np.flatnonzero(users < self._num_kept)
        if len(kept) and len(self._events):
            events, own = self._events, users[kept]
            rows = events.user_starts[own + 1, None] - 1 - np.arange(size)
            known = rows >= events.user_starts[own, None]
            rows = np.where(known, rows, 0)
            clock = events.timestamp[rows] - events.timestamp[rows[:, :1]] + self.start_second[own, None]
            items[kept] = np.where(known, events.item[rows], -1)
            days[kept] = np.where(known, clock / SECONDS_PER_DAY, 0)
        burnt = np.flatnonzero((users >= self._num_kept) & (users < self.first_arriving))
        if len(burnt) and self.newcomers is not None:
            last = self.newcomers.burnt(self.user_model, users[burnt] - self.num_logged).last(size)
            items[burnt], days[burnt] = last[0], last[1] / SECONDS_PER_DAY
        return items, days

    def start_state(self, log_user: NDArray[np.int64], lap: NDArray[np.int64]) -> UserState:
        """State at the start of the lives of users `log_user` [N]; `lap` [N] tells apart several lives of the same user."""
        return self._begun(lap * self.num_users + log_user, log_user, self._interest(log_user))

    def room_for(self, users: NDArray[np.int64]) -> UserState:
        """Room for the state of users [N] that costs no history: as `start_state` tells it, but for interests."""
        return self._begun(users.copy(), users, self._blank_interest(len(users)))

    def _begun(self, user: NDArray[np.int64], log_user: NDArray[np.int64], interest: UserModelState) -> UserState:
        count = len(user)

        def zeros() -> NDArray[np.int64]:
            return np.zeros(count, np.int64)

        return UserState(
            user=user,
            log_user=log_user.astype(np.int64),
            interest=interest,
            clock=self.start_clock(log_user),
            visit=zeros(),
            request=zeros(),
            requests_in_visit=zeros(),
            consumed_in_visit=zeros(),
            misses=zeros(),
            satisfaction=np.full(count, self.baseline_satisfaction, np.float32),
        )

    def preference(self, state: UserState) -> NDArray[np.float32]:
        """[N, D] preference of each user at its clock, in its context, modifiers of the world included; hidden."""
        weekday = (self.reference_weekday + state.day) % 7
        preference = self.user_model.preference(state.interest, state.hour, weekday, state.consumed_in_visit)
        if isinstance(self.user_model, ModifiedModel):
            self.user_model.add_moment(preference, state.user, state.clock)
        return preference

    def _interest(self, users: NDArray[np.int64]) -> UserModelState:
        kept = users < self._num_kept
        if kept.all() or self.newcomers is None:
            return self.start_interest.take(users)
        others = self.newcomers.interest(self.user_model, users[~kept] - self.num_logged)
        if not kept.any():
            return others
        state = self._blank_interest(len(users))
        state.put(np.flatnonzero(kept), self.start_interest.take(users[kept]))
        state.put(np.flatnonzero(~kept), others)
        return state

    def _blank_interest(self, count: int) -> UserModelState:
        return self.user_model.start(np.zeros((count, self.user_model.user_parameters.shape[1]), np.float32))

    def _consumed_by(self, users: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(place in `users`, item) of everything that `users` [N] consumed before the run."""
        kept = np.flatnonzero(users < self._num_kept)
        begins = self._events.user_starts[users[kept]]
        counts = self._events.user_starts[users[kept] + 1] - begins
        rows = np.repeat(begins - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        row, item = np.repeat(kept, counts), self._events.item[rows]
        made, made_item, _ = self.made_histories(users)
        return np.append(row, made), np.append(item, made_item)

    def made_histories(
        self, users: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
        """(place in `users` [N], item, clock) of what those among them consumed before the run whose histories are made when
        their lives begin, since the policies' log does not hold them: user by user, in order of time."""
        burnt = np.flatnonzero((users >= self._num_kept) & (users < self.first_arriving))
        if not len(burnt) or self.newcomers is None:
            return np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0)
        made = self.newcomers.burnt(self.user_model, users[burnt] - self.num_logged)
        row, place = np.nonzero(made.items >= 0)
        return burnt[row], made.items[row, place], made.clock[row, place]


def build_world(
    log: InteractionLog, user_model: UserModel, config: WorldConfig | None = None, progress: bool = True
) -> World:
    """Makes a world from a log and the user model fitted to it; `progress` shows a bar while many users are drawn.

    Raises:
        ConfigurationError: if the user model was fitted to another catalogue or other users, or cannot take new items.
    """
    config = config or WorldConfig()
    num_users, num_items = len(log.users), len(log.catalogue)
    if len(user_model.item_bias) != num_items:
        raise ConfigurationError(
            f"the user model knows {len(user_model.item_bias)} items, the log '{log.name}' has {num_items}; "
            "fit the model to this log (python simulate.py fit)."
        )
    withheld = withheld_items(num_items, config)
    before = log.place < np.floor(HISTORY_SHARE * np.diff(log.user_starts))[log.user]
    policy_log = log.where(before & ~withheld[log.item])
    last = int(log.timestamp[before].max(initial=0))
    reference_time = last - last % SECONDS_PER_DAY
    known = np.bincount(policy_log.item, minlength=num_items) > 0
    items = items_of_run(log, user_model, config, withheld, known, reference_time)
    policy_log = replace(policy_log, catalogue=items.catalogue)
    weekday = weekday_of(reference_time)
    past = Past(
        calendar=items.calendar,
        available=~items.born_in_run,
        first_weekday=weekday,
        earliest=float(min(int(log.timestamp.min(initial=reference_time)) - reference_time, 0)),
        repeats=log.has_repeats,
    )
    scene = Scene(
        categories=items.catalogue.categories,
        category_names=items.catalogue.category_names,
        days=config.days,
        first_weekday=weekday,
        seed=config.seed,
    )
    events = policy_log.consumed()
    start_second = np.zeros(num_users)
    if len(events):
        last_rows = np.maximum(events.user_starts[1:] - 1, 0)
        start_second = np.where(np.diff(events.user_starts) > 0, events.timestamp[last_rows] % SECONDS_PER_DAY, 0)
    start_day = np.zeros(num_users, np.int64)
    interest = replay(items.user_model, policy_log)
    newcomers = make_newcomers(items.user_model, policy_log, past, config, progress)
    if newcomers is not None:
        policy_log = listed(policy_log, newcomers)
        start_second = np.concatenate([start_second, newcomers.start_second])
        start_day = np.concatenate([start_day, np.zeros(config.drawn_users, np.int64), newcomers.arrival_day])
        if newcomers.is_kept and config.drawn_users:
            policy_log, interest = _with_drawn(
                policy_log, interest, newcomers, items.user_model, num_users, reference_time, progress
            )
    world = World(
        config=config,
        policy_log=policy_log,
        num_logged=num_users,
        born_in_run=items.born_in_run,
        calendar=items.calendar,
        reference_time=int(reference_time),
        user_model=modified(items.user_model, config.modifiers, scene),
        newcomers=newcomers,
        outside=0.0,
        baseline_satisfaction=0.0,
        start_interest=interest,
        start_second=start_second.astype(np.float64),
        start_day=start_day,
    )
    outside, click_rate = calibrate_outside(world)
    return replace(world, outside=outside, baseline_satisfaction=float(-np.log1p(-click_rate)))


def _with_drawn(
    log: InteractionLog,
    interest: UserModelState,
    newcomers: Newcomers,
    model: UserModel,
    num_logged: int,
    reference_time: int,
    progress: bool,
) -> tuple[InteractionLog, UserModelState]:
    """(log with the drawn users' histories, states of the log's and the drawn users)."""
    width = model.user_parameters.shape[1]
    together = model.start(np.zeros((num_logged + newcomers.num_drawn, width), np.float32))
    together.put(np.arange(num_logged), interest)
    histories = []
    for part in newcomers.chunks(model, progress):
        histories.append(part)
        together.put(num_logged + part.users.number, part.state)
    return with_histories(log, num_logged, histories, reference_time), together


def calibrate_outside(world: World, slate_size: int = 10) -> tuple[float, float]:
    """(logit of the outside option, click rate of popular slates on day 0 on average over users).

    The logit is the user model's own where its log could tell it; else that at which popular slates get the stated click
    rate. Such a slate is a user's `slate_size` most popular items of the policy's log that it has not consumed.
    """
    present = world.present_users
    present = present[np.unique(np.linspace(0, len(present) - 1, CALIBRATION_USERS).astype(np.int64))]
    state = world.start_state(present, np.zeros_like(present))
    parts = np.split(np.arange(len(present)), range(256, len(present), 256))
    worth = np.concatenate([_worth_of_popular(world, state.take(part), slate_size) for part in parts])

    known, stated = world.user_model.choice.outside, world.config.popular_click_rate
    if known is not None:
        return known, float(np.mean(expit(worth - known)))
    low, high = worth.min() - 30, worth.max() + 30
    return float(brentq(lambda outside: float(np.mean(expit(worth - outside))) - stated, low, high)), stated


def _worth_of_popular(world: World, state: UserState, slate_size: int) -> NDArray[np.float64]:
    """[N] log of the summed weights of a popular slate for each of N users in their `state` on day 0."""
    counts = world.policy_log.item_counts().astype(np.float64)
    counts[~world.calendar.is_open(0)] = -1
    order = np.argsort(-counts, kind="stable").astype(np.int32)
    seen = np.unpackbits(world.seen(state.log_user), axis=1, bitorder="little", count=world.num_items)[:, order]
    slates = order[np.argsort(seen, axis=1, kind="stable")[:, : min(slate_size, world.num_items)]]
    ages = np.maximum((state.clock[:, None] - world.birth_clock[slates]) / SECONDS_PER_DAY, 0).astype(np.float32)
    placed = utilities(world.user_model, world.preference(state), slates, ages)
    placed += position_logits(slates.shape[1], world.user_model.choice.position_slope)
    return logsumexp(placed.astype(np.float64), axis=1)


@lru_cache(maxsize=1)
def default_world() -> World:
    """The world of the synthetic log of seed 0 under its known user model: offline, made in a second."""
    from envs.logs.synthetic import SyntheticConfig, generate_log

    log, user_model = generate_log(SyntheticConfig(), seed=0)
    return build_world(log, user_model)
