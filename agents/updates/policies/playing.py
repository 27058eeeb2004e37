"""Plays whole episodes of update policies, one after the other or side by side."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from agents.side_by_side import in_order, ray_with
from agents.updates.environment import ModelUpdateEnv
from agents.updates.market import Market
from agents.updates.policies.base import UpdatePolicy, decide


@dataclass(frozen=True)
class Outcome:
    """What an episode came to; means over its periods."""

    engagement: float
    """Clicks per visit."""
    cost: float
    """Clicks per visit that training must earn to pay for itself, at the market's prices."""
    reward: float
    """Of the environment."""
    actions: tuple[int, ...]
    """As they were carried out."""

    def worth(self, price: float = 1.0) -> float:
        """The reward, were training `price` times as dear."""
        return self.reward - (price - 1) * self.cost


@dataclass(frozen=True)
class Period:
    """A period of an episode that was played."""

    observation: NDArray[np.float32]
    """[S] that the policy saw when it chose."""
    mask: NDArray[np.int8]
    """[A] of the actions that were valid then."""
    reward: float
    info: dict[str, Any]


def periods_of(env: ModelUpdateEnv, policy: UpdatePolicy, seed: int) -> Iterator[Period]:
    """Plays the episode of a seed, period by period.

    Raises:
        AgentError: if the policy fails, or returns what is no action.
    """
    policy.begin()
    observation, info = env.reset(seed=seed)
    ended = False
    while not ended:
        seen, mask = observation, info["action_mask"]
        observation, reward, terminated, truncated, info = env.step(decide(policy, seen, mask))
        ended = terminated or truncated
        yield Period(seen, mask, float(reward), info)


def play(env: ModelUpdateEnv, policy: UpdatePolicy, seed: int) -> Outcome:
    """Plays the episode of a seed.

    Raises:
        AgentError: if the policy fails, or returns what is no action.
    """
    periods = list(periods_of(env, policy, seed))
    rows = [(period.info["engagement"], period.info["cost"], period.reward) for period in periods]
    engagement, cost, reward = np.mean(rows, axis=0).tolist()
    return Outcome(engagement, cost, reward, tuple(period.info["action_taken"] for period in periods))


@dataclass(frozen=True)
class Episode:
    """An episode to be played."""

    market: int
    """Number of the market."""
    seed: int
    policy: UpdatePolicy


class Player:
    """Plays episodes on some markets; to be used in a with block.

    Args:
        markets: by number.
        jobs: episodes side by side, as Ray tasks; 1 plays them in this process. Outcomes are the same.
    """

    def __init__(self, markets: Sequence[Market], jobs: int = 1) -> None:
        self.markets, self.jobs = markets, jobs

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._envs: dict[int, ModelUpdateEnv] = {}
        if self.jobs > 1:
            import ray

            self._stack.enter_context(ray_with(self.jobs))
            self._kept = [ray.put(market) for market in self.markets]
            self._task = ray.remote(num_cpus=1)(_played)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def __call__(
        self, episodes: Sequence[Episode], report: Callable[[int], None] = lambda episodes: None
    ) -> list[Outcome]:
        """Outcomes in the order of the episodes; `report` is called with the number of those that are over."""
        if self.jobs > 1:
            calls = [(self._kept[episode.market], episode.policy, episode.seed) for episode in episodes]
            done = count(1)
            return in_order(self._task, calls, lambda place, outcome: report(next(done)))
        outcomes = []
        for episode in episodes:
            if episode.market not in self._envs:
                self._envs[episode.market] = ModelUpdateEnv(self.markets[episode.market])
            outcomes.append(play(self._envs[episode.market], episode.policy, episode.seed))
            report(len(outcomes))
        return outcomes


def _played(market: Market, policy: UpdatePolicy, seed: int) -> Outcome:
    """What a Ray task does."""
    return play(ModelUpdateEnv(market), policy, seed)
