"""Simulated users who are not in the log: drawn ones, who bring a burn-in history, and arriving ones, who bring none."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.compiled import over_parts
from envs.logs.schema import COLUMNS, InteractionLog, Users
from envs.randomness import Purpose, draw_poisson
from envs.users.burn_in import BurnIn, Past, burn_in
from envs.users.population import Population, fit_population
from envs.users.progress import fit_progress
from envs.users.protocol import UserModel, UserModelState
from envs.world_config import WorldConfig

KEPT_USERS = 50_000
"""Drawn users whose histories are rows of the policies' log, at most. Of more users than these none are: policies then see of
them what is observed in each request, and their histories are made anew whenever a life begins."""
CHUNK = 4_096
"""Users drawn or burnt in at once, so that memory stays small."""


@dataclass(frozen=True, kw_only=True)
class Newcomers:
    """The drawn users, numbered from 0, and behind them the arriving ones. Hidden, but for what `listed` makes of it."""

    population: Population
    past: Past
    seed: int
    num_drawn: int
    arrival_day: NDArray[np.int64]
    """[A] day of the run on which each arriving user comes, ascending."""
    parent: NDArray[np.int32]
    """[M + A] log users whose public attributes they have."""
    length: NDArray[np.int32]
    """[M + A] items in their histories; 0 for arriving users."""
    start_second: NDArray[np.float32]
    """[M + A] second of the day at which they begin, a whole number."""
    may_keep: bool = True
    """Whether the drawn users' histories may be rows of the policies' log (`WorldConfig.keep_histories`)."""
    _last: list[BurnIn] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.parent)

    @property
    def is_kept(self) -> bool:
        """Whether the drawn users' histories are rows of the policies' log."""
        return self.may_keep and self.num_drawn <= KEPT_USERS

    def interest(self, model: UserModel, places: NDArray[np.int64]) -> UserModelState:
        """The model's state of newcomers `places` [N] when their run begins."""
        arriving = places >= self.num_drawn
        if not arriving.any():
            return self.burnt(model, places).state.take(np.arange(len(places)))
        numbers = np.where(arriving, self.num_drawn - 1 - places, places)  # arriving users have the numbers -1, -2, ...
        state = model.start(self.population.draw(numbers, self.seed).parameters)
        if not arriving.all():
            state.put(np.flatnonzero(~arriving), self.burnt(model, places[~arriving]).state)
        return state

    def burnt(self, model: UserModel, places: NDArray[np.int64]) -> BurnIn:
        """Histories of drawn users `places` [N]; those asked for last are kept, since state, history and seen items of the same
        users, or of some of them, are asked for one after another."""
        if not self._last or not np.isin(places, self._last[0].users.number).all():
            self._last[:] = [burn_in(model, self.population, places, self.seed, self.past)]
        last = self._last[0]
        if np.array_equal(last.users.number, places):
            return last
        order = np.argsort(last.users.number, kind="stable")
        return last.take(order[np.searchsorted(last.users.number[order], places)])

    def chunks(self, model: UserModel, progress: bool) -> Iterator[BurnIn]:
        """Histories of all drawn users, some after others."""
        starts = range(0, self.num_drawn, CHUNK)
        with fit_progress("Drawing users", len(starts), progress and len(starts) > 1) as tick:
            for start in starts:
                numbers = np.arange(start, min(start + CHUNK, self.num_drawn))
                yield burn_in(model, self.population, numbers, self.seed, self.past)
                tick()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_last": []}


def make_newcomers(
    model: UserModel, policy_log: InteractionLog, past: Past, config: WorldConfig, progress: bool
) -> Newcomers | None:
    """Who is drawn and who arrives; None where nobody does."""
    days = np.arange(config.days)
    arrivals = draw_poisson(config.seed, Purpose.ARRIVAL, config.arrivals_per_day, days)
    arrival_day = np.repeat(days, arrivals)
    numbers = np.concatenate([np.arange(config.drawn_users), -1 - np.arange(len(arrival_day))])
    if not len(numbers):
        return None
    population = fit_population(model, policy_log, config.seed)
    parent, length = np.empty((2, len(numbers)), np.int32)
    start_second = np.empty(len(numbers), np.float32)
    parts = [slice(start, start + CHUNK) for start in range(0, len(numbers), CHUNK)]
    with fit_progress("Counting users", len(parts), progress and len(parts) > 1) as tick:

        def draw(part: slice) -> None:
            drawn = population.draw(numbers[part], config.seed)
            parent[part], length[part], start_second[part] = drawn.parent, drawn.length, drawn.start_second
            tick()

        over_parts(draw, parts)
    return Newcomers(
        population=population,
        past=past,
        seed=config.seed,
        num_drawn=config.drawn_users,
        arrival_day=arrival_day,
        parent=parent,
        length=np.where(numbers >= 0, length, 0).astype(np.int32),
        start_second=start_second,
        may_keep=config.keep_histories,
    )


def listed(log: InteractionLog, newcomers: Newcomers) -> InteractionLog:
    """The log with the newcomers among its users, behind the others, but without rows of theirs."""
    count, drawn = len(newcomers), newcomers.num_drawn
    names = np.concatenate(
        [
            log.users.user_ids,
            np.char.add("drawn-", np.arange(1, drawn + 1).astype(np.str_)),
            np.char.add("arriving-", np.arange(1, count - drawn + 1).astype(np.str_)),
        ]
    )
    users = Users(
        # of no more characters than the longest has, which those of integers as text are not
        user_ids=names.astype(f"U{np.strings.str_len(names).max()}"),
        feature_names=log.users.feature_names,
        features=np.concatenate([log.users.features, log.users.features[newcomers.parent]]),
    )
    return replace(log, users=users)


def with_histories(
    log: InteractionLog, first_user: int, histories: list[BurnIn], reference_time: int
) -> InteractionLog:
    """The log with the histories as rows of the users from `first_user` on."""
    columns: dict[str, list[NDArray]] = {"user": [], "item": [], "timestamp": [], "rating": []}
    for part in histories:
        row, place = np.nonzero(part.items >= 0)
        columns["user"].append((first_user + part.users.number[row]).astype(np.int32))
        columns["item"].append(part.items[row, place])
        columns["timestamp"].append((reference_time + part.clock[row, place]).astype(np.int64))
        columns["rating"].append(part.rating[row, place])
    count = sum(len(part) for part in columns["user"])
    missing = {
        "clicked": np.ones(count, bool),
        "request": np.full(count, -1, np.int64),
        "position": np.full(count, -1, np.int16),
        "watch_seconds": np.full(count, np.nan, np.float32),
        "random_exposure": np.zeros(count, bool),
        "propensity": np.full(count, np.nan, np.float32),
    }
    known = [name for name in COLUMNS if getattr(log, name) is not None]
    added = {name: np.concatenate(columns[name]) if name in columns else missing[name] for name in known}
    together: dict[str, Any] = {name: np.concatenate([getattr(log, name), added[name]]) for name in known}
    return replace(log, **together)
