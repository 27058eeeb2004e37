"""Requests of an event log as they were observed: what an agent that scores candidates can learn from without serving anybody."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from envs import request_kernels
from envs.catalogue import SECONDS_PER_DAY
from envs.compiled import over_rows
from envs.errors import AgentError
from envs.event_log import EventLog, matrix, slate_places
from envs.measures import consumed_diversity
from envs.observation import Observation
from envs.rewards import Parts, earned
from envs.slate_env import SlateVectorEnv

BLOCK = 2048
"""Lives that are gone through side by side; bounds memory."""


@dataclass(frozen=True)
class LoggedRequests:
    """M requests, life by life, in order of time within a life.

    The log says what was shown and consumed, and when. What was *observed* then follows from that and from what is public: a user's
    history is that before the run and what it consumed since, and recall, asked again, finds the same candidates.
    """

    rows: NDArray[np.float32]
    """[M, W] flat rows of `agents.request_layout`."""
    slates: NDArray[np.int64]
    """[M, K] places among the candidates; spare slots hold masked candidates."""
    whole: NDArray[np.bool_]
    """[M] whether the slate left no slot empty that a candidate could have filled."""
    rewards: NDArray[np.float64]
    """[M] by the environment's weights."""
    first: NDArray[np.bool_]
    """[M] whether a life begins."""

    @classmethod
    def of(
        cls,
        events: EventLog,
        env: SlateVectorEnv,
        encode: Callable[[Observation], NDArray[np.float32]],
        limit: int | None = None,
    ) -> Self:
        """Goes through the lives of a log again.

        Args:
            events: of whole lives, or of lives from their begin on.
            env: of the world and the recall that left the log; its own lives are lost.
            encode: flat rows [N, W] of N requests.
            limit: at most so many requests, the earliest.

        Raises:
            AgentError: if the log is empty, or of another world, recall or size of slates, or if requests of a life are missing.
        """
        table = _in_order(events, limit)
        columns = _columns(table, env)
        first = columns["request"] == 0
        begins = np.flatnonzero(first)
        parts = []
        for begin in range(0, len(begins), BLOCK):
            ends = np.append(begins, len(first))[begin : begin + BLOCK + 1]
            part = slice(ends[0], ends[-1])
            parts.append(_replayed({name: column[part] for name, column in columns.items()}, env, encode))
        rows, slates, whole, rewards = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return cls(rows, slates, whole, rewards, first)

    def returns(self, gamma: float) -> NDArray[np.float64]:
        """[M] rewards of the rest of each life, discounted by `gamma` a request; a life ends where the log does."""
        returns = self.rewards.copy()
        for begin, end in pairwise([*np.flatnonzero(self.first).tolist(), len(returns)]):
            for place in range(end - 2, begin - 1, -1):
                returns[place] += gamma * returns[place + 1]
        return returns


def _in_order(events: EventLog, limit: int | None) -> pa.Table:
    """The log's requests, life by life.

    Raises:
        AgentError: if there are none, or some are missing or there twice.
    """
    if not len(events):
        raise AgentError("the event log is empty; learn from one with requests in it.")
    table = events.table.slice(0, limit).sort_by([("user", "ascending"), ("request", "ascending")])
    user, request = (table[name].to_numpy() for name in ("user", "request"))
    begins = np.append(True, user[1:] != user[:-1])
    wanted = np.arange(len(user)) - np.maximum.accumulate(np.where(begins, np.arange(len(user)), 0))
    if (request != wanted).any():
        place = int(np.argmax(request != wanted))
        raise AgentError(
            f"the event log has request {request[place]} of user {user[place]} where request {wanted[place]} must be; "
            "give the log of one policy, each life from its begin on."
        )
    return table


def _columns(table: pa.Table, env: SlateVectorEnv) -> dict[str, NDArray[Any]]:
    """The log's columns as arrays, after a look at their sizes."""
    names = ("user", "log_user", "visit", "request", "clock", "slot", "item", "rating", "left")
    columns = {name: table[name].to_numpy() for name in names}
    for name, count in (("candidates", env.num_candidates), ("slate", env.slate_size)):
        columns[name] = matrix(table, name)
        width = columns[name].shape[1]
        if width != count:
            raise AgentError(
                f"the event log has {width} items in '{name}', the environment {count}; train in one like it."
            )
    world = env.world
    beyond = (columns["log_user"].max() >= world.num_users) | (columns["candidates"].max() >= world.num_items)
    if beyond or (columns["user"] % world.num_users != columns["log_user"]).any():
        raise AgentError(
            "the event log names users or items that the environment does not have; train in its own world."
        )
    begins = columns["request"] == 0
    new_visit = begins | np.append(True, columns["visit"][1:] != columns["visit"][:-1])
    place = np.arange(len(table))
    columns["place"] = place - np.maximum.accumulate(np.where(new_visit, place, 0))
    return columns


def _replayed(
    columns: dict[str, NDArray[Any]], env: SlateVectorEnv, encode: Callable[[Observation], NDArray[np.float32]]
) -> tuple[NDArray[Any], ...]:
    """(rows, slates, whole, rewards) of lives, whose requests stand one behind the other."""
    world, request = env.world, columns["request"]
    begins = np.flatnonzero(request == 0)
    users = columns["log_user"][begins].astype(np.int64)
    history, history_clock = world.history(env.history_size, users)
    seen = world.seen(users)
    start = world.start_state(users, columns["user"][begins] // world.num_users)
    life = np.cumsum(request == 0) - 1
    item, clock = np.full(len(begins), -1, np.int32), np.zeros(len(begins))
    found: list[tuple[NDArray[Any], ...]] = []
    order = np.argsort(request, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(request[order])) + 1):
        now = {name: column[rows] for name, column in columns.items()}
        lives = life[rows]
        state = start.take(lives)
        state.clock[:], state.request[:], state.visit[:] = now["clock"], now["request"], now["visit"]
        state.requests_in_visit[:] = now["place"]
        observation = env.resume(state, history[lives], history_clock[lives], seen[lives])
        candidates = observation.candidates
        if (candidates.items != now["candidates"]).any():
            raise AgentError(
                "recall finds other candidates than the event log has; train in the world and with the recall that left it."
            )
        rewards = _rewards(env, now, history[lives])
        slates, mask = now["slate"], candidates.mask
        places = slate_places(slates, candidates.items, mask)
        found.append((encode(observation), places, _whole(mask, slates), rewards))
        item[lives], clock[lives] = now["item"], now["clock"]
        clicked = lives[now["item"] >= 0]
        over_rows(
            request_kernels.remember,
            len(clicked),
            clicked,
            item,
            clock,
            world.excludes_seen,
            history,
            history_clock,
            seen,
        )
    back = np.argsort(order, kind="stable")
    return tuple(np.concatenate(arrays)[back] for arrays in zip(*found, strict=True))


def _rewards(env: SlateVectorEnv, now: dict[str, NDArray[Any]], history: NDArray[np.int32]) -> NDArray[np.float64]:
    """[N] what `SlateVectorEnv` paid for logged requests, made of what the log and `history` [N, H] tell."""
    world, item = env.world, now["item"]
    catalogue, clicked = world.policy_log.catalogue, item >= 0
    age_days = (now["clock"] - world.birth_clock[np.maximum(item, 0)]) / SECONDS_PER_DAY
    parts = Parts(
        engagement=clicked.astype(np.float32),
        diversity=consumed_diversity(catalogue.directions, item, history),
        freshness=(clicked & (age_days.astype(np.float32) < world.config.fresh_days)).astype(np.float32),
        rating=now["rating"],
        item=item,
        slot=now["slot"].astype(np.int64),
        slates=now["slate"],
        left=now["left"],
        catalogue=catalogue,
    )
    return earned(env.reward_weights, parts)


def _whole(mask: NDArray[np.int8], slates: NDArray[np.int32]) -> NDArray[np.bool_]:
    """[N] whether each slate [N, K] is as full as the candidates' mask [N, C] lets it be."""
    wanted = np.minimum(mask.sum(axis=1), slates.shape[1])
    return ((slates >= 0) == (np.arange(slates.shape[1]) < wanted[:, None])).all(axis=1)
