"""A crowd: the lives of any number of users, kept small between requests and stepped in blocks by the slate environment.

What has happened to a user since its start is kept in full. What it started with is kept once for all lives (laps) of a user
whose history is in the policies' log, and packed (`envs.packed_histories`) for a drawn user whose history is not. So a
simulated user costs its interests (for the parametric model two embeddings and its satiation, in float32), some twenty bytes
and its history, and a million of them fit where the environment alone would hold a hundred thousand. Bits are those of one
`SlateVectorEnv` that holds everybody: block size and threads change nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import fsum
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs import request_kernels
from envs.candidate_source import CandidateSource
from envs.compiled import over_rows
from envs.engine import UserState
from envs.observation import Observation
from envs.packed_histories import PackedHistories
from envs.rewards import Reward
from envs.slate_env import SlateVectorEnv
from envs.users.progress import fit_progress
from envs.users.protocol import UserModelState
from envs.world import World

COUNTERS = ("visit", "request", "requests_in_visit", "consumed_in_visit", "misses")
"""Counters of `UserState`: kept in the smallest type that holds them."""


@dataclass(frozen=True)
class CrowdTotals:
    """What all users did in one request each."""

    requests: int
    """Users who were alive and asked."""
    clicks: int
    """Items consumed."""
    reward: float
    """Sum of rewards, rounded once, so that it depends on no order."""
    leaves: int
    """Visits ended."""
    ends: int
    """Lives ended, by churn or at the horizon."""


Told = Callable[[NDArray[np.int64], NDArray[np.float64], dict[str, Any]], None]
"""(numbers [N] of the users who asked, reward [N], info of the environment): hears of each block."""


def _told_to_nobody(number: NDArray[np.int64], reward: NDArray[np.float64], info: dict[str, Any]) -> None:
    pass


class Crowd:
    """Lives of `num_users` users of a world, one request of everybody at a time.

    Args:
        world: where users start.
        num_users: M, lives side by side; beyond the users of the world each begins another life (lap), as in `SlateVectorEnv`.
        first: number of the first life, so that shards of a crowd are crowds.
        users: [U] users to simulate, by default `world.simulated_users`.
        block: users stepped at once.
        candidate_source, slate_size, num_candidates, history_size, reward_weights, seed: as of `SlateVectorEnv`.
        progress: whether a bar is shown while histories of drawn users are made.
    """

    def __init__(
        self,
        world: World,
        num_users: int,
        *,
        first: int = 0,
        users: NDArray[np.int64] | None = None,
        block: int = 8192,
        candidate_source: CandidateSource | None = None,
        slate_size: int = 10,
        num_candidates: int = 100,
        history_size: int = 50,
        reward_weights: Reward | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        self.world, self.num_users, self.first = world, num_users, first
        self._env = SlateVectorEnv(
            1,
            world=world,
            candidate_source=candidate_source,
            users=users,
            slate_size=slate_size,
            num_candidates=num_candidates,
            history_size=history_size,
            reward_weights=reward_weights,
            autoreset_mode=AutoresetMode.DISABLED,
            seed=seed,
        )
        numbers = np.arange(first, first + num_users)
        laps = np.array_split(numbers, max(1, -(-num_users // block)))
        distinct = np.unique(self._env.users[numbers % len(self._env.users)])
        kept = world.keeps_history(distinct)
        self._starts = _Starts(world, distinct[kept], history_size, block)
        self._blocks = []
        with fit_progress("Drawing users", len(laps), progress and not kept.all()) as tick:
            for part in laps:
                self._blocks.append(_Block(world, part, self._env.users))
                tick()

    @property
    def alive(self) -> int:
        """Number of lives that have not ended."""
        return sum(int(block.alive.sum()) for block in self._blocks)

    def memory(self) -> dict[str, int]:
        """Bytes kept between requests for all lives together, by what they hold: the user model's state ("interests"), what was
        consumed before the life ("histories", of drawn users whose history is not in the policies' log) and in it ("consumed"),
        and clocks and counters ("counters")."""
        interests, histories, consumed, counters = 0, 0, 0, 0
        for block in self._blocks:
            interests += sum(array.nbytes for array in vars(block.interest).values())
            histories += block.before.size.nbytes + block.before.coded.nbytes
            consumed += block.items.nbytes + block.days.nbytes
            counters += block.alive.nbytes + block.clock.nbytes + block.satisfaction.nbytes + block.consumed.nbytes
            counters += sum(counter.nbytes for counter in block.counters.values())
        return {"interests": interests, "histories": histories, "consumed": consumed, "counters": counters}

    def request(self, act: Callable[[Observation], NDArray[np.int64]], told: Told = _told_to_nobody) -> CrowdTotals:
        """Serves one request of everybody alive: `act` returns slates [N, K] for the requests of a block."""
        requests = clicks = leaves = ends = 0
        rewards: list[NDArray[np.float64]] = []
        for block, rows in self._asking():
            observation = self._env.resume(*block.unpack(rows, self._starts))
            reward, terminated, truncated, info = self._env.answer(act(observation))
            ended = terminated | truncated
            block.pack(rows, self._env, info["clicked_item"], ended)
            told(block.number[rows], reward, info)
            requests, clicks = requests + len(rows), clicks + int((info["clicked_item"] >= 0).sum())
            leaves, ends = leaves + int(info["leave"].sum()), ends + int(ended.sum())
            rewards.append(reward)
        return CrowdTotals(requests, clicks, fsum(value for part in rewards for value in part), leaves, ends)

    def _asking(self) -> Iterator[tuple["_Block", NDArray[np.int64]]]:
        for block in self._blocks:
            rows = np.flatnonzero(block.alive)
            if len(rows):
                yield block, rows


class _Starts:
    """What distinct users were seen to consume before the run, as the policies' log tells it: once for all their lives."""

    def __init__(self, world: World, users: NDArray[np.int64], history_size: int, block: int) -> None:
        self.world, self.users = world, users
        self.item_type = np.min_scalar_type(world.num_items)
        parts = [users[begin : begin + block] for begin in range(0, len(users), block)]
        told = [(*world.history(history_size, part), world.seen(part)) for part in parts]
        # of all other users a last row tells: nothing
        nothing = (np.full((1, history_size), -1), np.zeros((1, history_size), np.float32))
        told.append((*nothing, np.zeros((1, (world.num_items + 7) // 8), np.uint8)))
        # an item is kept as its index + 1, and 0 for none
        self.history = np.concatenate([(items + 1).astype(self.item_type) for items, _, _ in told])
        self.clock = np.concatenate([days for _, days, _ in told])
        self.seen = np.concatenate([bits for _, _, bits in told])

    def of(self, user: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.uint8]]:
        """(history [N, H], its days [N, H], bits of items seen) of users at the start of their lives."""
        rows = np.where(self.world.keeps_history(user), np.searchsorted(self.users, user), -1)
        return self.history[rows].astype(np.int32) - 1, self.clock[rows], self.seen[rows]


class _Block:
    """Lives that are stepped together, as small as loses nothing."""

    def __init__(self, world: World, number: NDArray[np.int64], users: NDArray[np.int64]) -> None:
        self._first, self._count, self._users, self._world = int(number[0]), len(number), users, world
        log_user = users[number % len(users)]
        state = world.start_state(log_user, number // len(users))
        self.before = PackedHistories.of(state.clock, *world.made_histories(log_user))
        self.alive = np.ones(len(number), bool)
        self.interest: UserModelState = state.interest
        self.clock, self.satisfaction = state.clock, state.satisfaction
        self.counters = {name: _small(getattr(state, name)) for name in COUNTERS}
        # what was consumed in this life, user by user, each in order of time
        self.consumed = np.zeros(len(number), np.uint8)
        self.items = np.zeros(0, np.min_scalar_type(world.num_items))
        self.days = np.zeros(0, np.float32)

    @property
    def number(self) -> NDArray[np.int64]:
        return np.arange(self._first, self._first + self._count)

    def unpack(
        self, rows: NDArray[np.int64], starts: _Starts
    ) -> tuple[UserState, NDArray[np.int32], NDArray[np.float32], NDArray[np.uint8]]:
        """(state, history [N, H], its days [N, H], bits of items seen) of the users at `rows`."""
        number = self.number[rows]
        log_user = self._users[number % len(self._users)]
        state = UserState(
            user=number // len(self._users) * self._world.num_users + log_user,
            log_user=log_user,
            interest=self.interest.take(rows),
            clock=self.clock[rows],
            satisfaction=self.satisfaction[rows],
            **{name: counter[rows].astype(np.int64) for name, counter in self.counters.items()},
        )
        history, days, seen = starts.of(log_user)
        excludes_seen = self._world.excludes_seen
        self.before.unpack(rows, self._world.start_clock(log_user), excludes_seen, history, days, seen)
        kept = np.repeat(np.isin(np.arange(self._count), rows), self.consumed)
        over_rows(
            request_kernels.unpack_lives,
            len(rows),
            np.append(0, np.cumsum(self.consumed[rows], dtype=np.int64)),
            self.items[kept].astype(np.int32),
            self.days[kept],
            excludes_seen,
            history,
            days,
            seen,
        )
        return state, history, days, seen

    def pack(
        self, rows: NDArray[np.int64], env: SlateVectorEnv, item: NDArray[np.int32], ended: NDArray[np.bool_]
    ) -> None:
        """Takes the users at `rows` back from `env`, where each consumed `item` [N] (-1 for none)."""
        state, clicks = env._state, item >= 0
        self.interest.put(rows, state.interest)
        self.clock[rows], self.satisfaction[rows], self.alive[rows] = state.clock, state.satisfaction, ~ended
        for name in COUNTERS:
            counter = self.counters[name].astype(np.int64)
            counter[rows] = getattr(state, name)
            self.counters[name] = _small(counter)
        behind = np.cumsum(self.consumed, dtype=np.int64)[rows[clicks]]
        self.items = np.insert(self.items, behind, item[clicks])
        self.days = np.insert(self.days, behind, env._history_clock[clicks, 0])
        self.consumed = _small(self.consumed.astype(np.int64) + np.isin(np.arange(self._count), rows[clicks]))


def _small(counter: NDArray[Any]) -> NDArray[Any]:
    """The same non-negative integers in the smallest type that holds them."""
    return counter.astype(np.min_scalar_type(int(counter.max(initial=0))))
