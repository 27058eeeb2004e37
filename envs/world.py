"""A world: everything that a run starts from, made once from a log and a user model.

It draws the line that the one law needs: `policy_log` (and its catalogue) is what policies may learn from; the user model,
the outside option and the start states are the simulator's own.
"""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp

from envs.catalogue import SECONDS_PER_DAY
from envs.engine import UserState, utilities
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.randomness import Purpose, draw_bits, draw_uniform
from envs.users.protocol import UserModel, UserModelState, position_logits, replay

HISTORY_SHARE = 0.8
"""Share of each user's rows that lie before the run."""


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """How a world is made from a log."""

    days: int = 30
    """Horizon of a life in days."""
    held_back_share: float = 0.2
    """Share of the catalogue that is withheld from policies and born during the run."""
    popular_click_rate: float = 0.2
    """Click rate of a slate of the ten most popular items on day 0; sets the outside option (assumed: a log without
    exposures cannot tell it)."""
    fresh_days: float = 14.0
    """Items younger than this many days count as fresh."""
    exclude_seen: bool | None = None
    """Whether items that a user has consumed are left out of its candidates; None leaves them out where the log has no
    repeats."""
    seed: int = 0
    """Decides which items are withheld and when they are born."""

    def __post_init__(self) -> None:
        if self.days < 1:
            raise ConfigurationError(f"days is {self.days}; a run needs at least 1.")
        if not 0 <= self.held_back_share < 1:
            raise ConfigurationError(f"held_back_share is {self.held_back_share}; it must lie in [0, 1).")
        if not 0 < self.popular_click_rate < 1:
            raise ConfigurationError(f"popular_click_rate is {self.popular_click_rate}; it must lie in (0, 1).")
        if self.fresh_days <= 0:
            raise ConfigurationError(f"fresh_days is {self.fresh_days}; it must be positive.")


@dataclass(frozen=True, kw_only=True)
class World:
    """Made by `build_world`."""

    config: WorldConfig
    policy_log: InteractionLog
    """What policies may learn from: the first 80 % of each user's rows, without the rows of withheld items. Users and items
    keep the indices of the whole log; withheld items' births lie in the run."""
    born_in_run: NDArray[np.bool_]
    """[I] the withheld items."""
    birth_clock: NDArray[np.float64]
    """[I] seconds since the run's start at which an item is born; negative for old items."""
    reference_time: int
    """Seconds since 1970 of the run's start, a midnight (UTC)."""
    user_model: UserModel
    """Hidden from every policy."""
    outside: float
    """Hidden: logit of consuming nothing."""
    start_interest: UserModelState
    """Hidden: the model's state of each log user on day 0."""
    start_second: NDArray[np.float64]
    """[U] second of day 0 at which each user begins, that of its own last row before the run."""

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
        return (self.reference_time // SECONDS_PER_DAY + 3) % 7

    @property
    def baseline_satisfaction(self) -> float:
        """Inclusive value in nats of a slate with the stated click rate of popular items."""
        return float(-np.log1p(-self.config.popular_click_rate))

    @cached_property
    def user_features(self) -> NDArray[np.float32]:
        """[U, 1 + Fu] public: log(1 + items in the policy's log) / 10, then the log's attributes."""
        activity = np.bincount(self.policy_log.user[self.policy_log.clicked], minlength=self.num_users)
        return np.column_stack([np.log1p(activity) / 10, self.policy_log.users.features]).astype(np.float32)

    @cached_property
    def seen(self) -> NDArray[np.uint8]:
        """[U, ceil(I / 8)] bits of the items that each user consumed before the run; none where seen items are offered."""
        consumed = np.zeros((self.num_users, self.num_items), bool)
        if self.excludes_seen:
            events = self.policy_log.consumed()
            consumed[events.user, events.item] = True
        return np.packbits(consumed, axis=1, bitorder="little")

    @cached_property
    def unborn(self) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """(clocks [B] of births in order, bits [B + 1, ceil(I / 8)] of the items still unborn after so many of them)."""
        coming = np.flatnonzero(self.birth_clock > 0)
        coming = coming[np.argsort(self.birth_clock[coming], kind="stable")]
        unborn = np.zeros((len(coming) + 1, self.num_items), bool)
        for number in range(len(coming)):
            unborn[number, coming[number:]] = True
        return self.birth_clock[coming], np.packbits(unborn, axis=1, bitorder="little")

    def history(self, size: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(items [U, size], clocks in days [U, size]) of what was last consumed before the run, newest first; -1 and 0
        where there are fewer. Each user's last row counts as the moment of its start, whatever its date."""
        events = self.policy_log.consumed()
        rows = events.user_starts[1:, None] - 1 - np.arange(size)
        known = rows >= events.user_starts[:-1, None]
        rows = np.where(known, rows, 0)
        if not len(events):
            return np.full(rows.shape, -1, np.int32), np.zeros(rows.shape, np.float32)
        days = (events.timestamp[rows] - events.timestamp[rows[:, :1]] + self.start_second[:, None]) / SECONDS_PER_DAY
        return np.where(known, events.item[rows], -1).astype(np.int32), np.where(known, days, 0).astype(np.float32)

    def start_state(self, log_user: NDArray[np.int64], lap: NDArray[np.int64]) -> UserState:
        """State at the start of a run of `log_user` [N]; `lap` [N] tells apart several lives of the same log user."""
        count = len(log_user)

        def zeros() -> NDArray[np.int64]:
            return np.zeros(count, np.int64)

        return UserState(
            user=lap * self.num_users + log_user,
            log_user=log_user.astype(np.int64),
            interest=self.start_interest.take(log_user),
            clock=self.start_second[log_user].copy(),
            visit=zeros(),
            request=zeros(),
            requests_in_visit=zeros(),
            consumed_in_visit=zeros(),
            misses=zeros(),
            satisfaction=np.full(count, self.baseline_satisfaction, np.float32),
        )


def build_world(log: InteractionLog, user_model: UserModel, config: WorldConfig | None = None) -> World:
    """Makes a world from a log and the user model fitted to it.

    Raises:
        ConfigurationError: if the user model was fitted to another catalogue or other users.
    """
    config = config or WorldConfig()
    num_users, num_items = len(log.users), len(log.catalogue)
    if len(user_model.item_bias) != num_items:
        raise ConfigurationError(
            f"the user model knows {len(user_model.item_bias)} items, the log '{log.name}' has {num_items}; "
            "fit the model to this log (python simulate.py fit)."
        )
    born_in_run = draw_uniform(config.seed, Purpose.HELD_BACK, np.arange(num_items)) < config.held_back_share
    rows_of_user = np.diff(log.user_starts)
    before = log.place < np.floor(HISTORY_SHARE * rows_of_user)[log.user]
    policy_log = log.where(before & ~born_in_run[log.item])
    last = int(log.timestamp[before].max(initial=0))
    reference_time = last - last % SECONDS_PER_DAY
    day = draw_bits(config.seed, Purpose.BIRTH, np.arange(num_items)) % np.uint64(config.days)
    birth = np.where(born_in_run, reference_time + day.astype(np.int64) * SECONDS_PER_DAY, log.catalogue.birth)
    # an item whose row lies before the run exists when it starts, even where users' calendars differ
    birth = np.where(born_in_run, birth, np.minimum(birth, reference_time))
    events = policy_log.consumed()
    last_rows = np.maximum(events.user_starts[1:] - 1, 0)
    start_second = np.zeros(num_users)
    if len(events):
        start_second = np.where(np.diff(events.user_starts) > 0, events.timestamp[last_rows] % SECONDS_PER_DAY, 0)
    world = World(
        config=config,
        policy_log=replace(policy_log, catalogue=log.catalogue.with_birth(birth.astype(np.int64))),
        born_in_run=born_in_run,
        birth_clock=(birth - reference_time).astype(np.float64),
        reference_time=int(reference_time),
        user_model=user_model,
        outside=0.0,
        start_interest=replay(user_model, policy_log),
        start_second=start_second.astype(np.float64),
    )
    return replace(world, outside=calibrate_outside(world))


def calibrate_outside(world: World, slate_size: int = 10) -> float:
    """Logit of the outside option at which popular slates get the stated click rate on day 0, on average over users.

    The slate is each user's `slate_size` most popular items of the policy's log that it has not consumed.
    """
    users = np.arange(world.num_users)
    state = world.start_state(users, np.zeros_like(users))
    counts = world.policy_log.item_counts().astype(np.float64)
    counts[world.birth_clock > 0] = -1
    order = np.argsort(-counts, kind="stable").astype(np.int32)
    seen = np.unpackbits(world.seen, axis=1, bitorder="little", count=world.num_items)[:, order]
    slates = order[np.argsort(seen, axis=1, kind="stable")[:, : min(slate_size, world.num_items)]]
    weekday = np.full(world.num_users, world.reference_weekday)
    preference = world.user_model.preference(state.interest, state.hour, weekday, state.consumed_in_visit)
    ages = ((state.clock[:, None] - world.birth_clock[slates]) / SECONDS_PER_DAY).astype(np.float32)
    placed = utilities(world.user_model, preference, slates, ages) + position_logits(slates.shape[1])
    worth = logsumexp(placed.astype(np.float64), axis=1)

    def excess(outside: float) -> float:
        return float(np.mean(1 / (1 + np.exp(outside - worth))) - world.config.popular_click_rate)

    return float(brentq(excess, worth.min() - 30, worth.max() + 30))


@lru_cache(maxsize=1)
def default_world() -> World:
    """The world of the synthetic log of seed 0 under its known user model: offline, made in a second."""
    from envs.logs.synthetic import SyntheticConfig, generate_log

    log, user_model = generate_log(SyntheticConfig(), seed=0)
    return build_world(log, user_model)
