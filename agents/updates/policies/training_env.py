"""The environments that update policies are trained on: several episodes side by side, rewards paired with a habit's."""

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from agents.side_by_side import as_finished, ray_with
from agents.updates.environment import ModelUpdateEnv
from agents.updates.episode import habit_rewards
from agents.updates.market import Market
from agents.updates.monitoring import Monitoring, UpdateAction
from agents.updates.vector_env import markets_of


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """What a policy is trained on."""

    markets: Sequence[Market]
    seeds: Sequence[int]
    """Of the episodes; each market is played with each of them again and again."""
    scale: float = 1.0
    """Factor of the rewards."""
    price: float = 1.0
    """Factor of the cost in them."""
    habit: UpdateAction = UpdateAction.KEEP
    """What rewards are paired with: this, done before every period."""
    shows_mask: bool = True
    """Whether observations are [S + A], with the mask of valid actions behind monitoring."""


class PairedReward(gymnasium.Wrapper[NDArray[np.float32], int, NDArray[np.float32], int]):
    """Rewards what a period earned beyond what it would have earned under a habit.

    What that earns in the episode, with the same visitors and the same taste noise, does not depend on the actions, so the
    best policy stays the same; but most of the noise of a period is common to both and falls out of the difference. It is
    simulated once for each market and seed, so there are few seeds. Only training rewards are paired.

    Source: Glasserman (2003), Monte Carlo Methods in Financial Engineering, section 4.1 (control variates).
    """

    env: ModelUpdateEnv

    def __init__(self, env: ModelUpdateEnv, lessons: Lessons) -> None:
        super().__init__(env)
        self.lessons = lessons
        self._first = self._episodes = 0
        self._markets = len({id(market) for market in env.markets})
        if lessons.shows_mask:
            space, count = Monitoring.space(), len(UpdateAction)
            low, high = np.append(space.low, np.zeros(count)), np.append(space.high, np.ones(count))
            self.observation_space = Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begins an episode in the place's next market; once all were played, with the next of the lessons' seeds. A given seed
        says with which of these to begin."""
        if seed is not None:
            self._first, self._episodes = seed, 0
        turn, market = divmod(self._episodes, self._markets)
        chosen = self.lessons.seeds[(self._first + turn) % len(self.lessons.seeds)]
        self._episodes += 1
        observation, info = self.env.reset(seed=chosen, options={"market": market})
        return self._seen(observation, info), info

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Acts in the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        episode = self.env.episode
        assert episode is not None
        earned, cost = habit_rewards(episode.market, episode.seed, self.lessons.habit)[episode.period - 1]
        gain = float(reward) - float(earned) - (self.lessons.price - 1) * (info["cost"] - float(cost))
        return self._seen(observation, info), self.lessons.scale * gain, terminated, truncated, info

    def _seen(self, observation: NDArray[np.float32], info: dict[str, Any]) -> NDArray[np.float32]:
        if not self.lessons.shows_mask:
            return observation
        return np.concatenate([observation, info["action_mask"]]).astype(np.float32)


def training_envs(
    lessons: Lessons,
    num_envs: int,
    processes: bool = False,
    autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
) -> VectorEnv[Any, Any, Any]:
    """`num_envs` episodes side by side, each in a process of its own if `processes`; episode n of place i plays market
    (i + n num_envs) mod M.

    Which of the two changes nothing but the time.
    """
    makers = [partial(_made, lessons, place, num_envs) for place in range(num_envs)]
    if processes:
        # Ray and torch have threads, which a fork would break
        return EpisodeProcesses(makers, context="spawn", autoreset_mode=autoreset_mode)
    return SyncVectorEnv(makers, autoreset_mode=autoreset_mode)


class EpisodeProcesses(AsyncVectorEnv):
    """Episodes in processes of their own. RLlib pickles its configuration for runners elsewhere, of which there are none;
    a pickled copy of this environment is None, since processes cannot be sent."""

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


def play_habits(
    lessons: Lessons,
    habits: Sequence[UpdateAction],
    jobs: int = 1,
    report: Callable[[int], None] = lambda episodes: None,
) -> list[float]:
    """Mean worth of a period under each of `habits` in the episodes of the lessons, `jobs` side by side; the markets remember."""
    episodes = [
        (market, int(np_random(seed)[0].integers(2**63)), action)
        for action in habits
        for market in lessons.markets
        for seed in lessons.seeds
    ]
    missing = [(market, seed, action) for market, seed, action in episodes if (seed, action) not in market.habits]
    if jobs > 1 and len(missing) > 1:
        import ray

        with ray_with(jobs):
            shared = {id(market): ray.put(market) for market, *_ in missing}
            calls = [(shared[id(market)], seed, action) for market, seed, action in missing]
            for done, (place, rewards) in enumerate(as_finished(ray.remote(num_cpus=1)(habit_rewards), calls), 1):
                market, seed, action = missing[place]
                market.habits[seed, action] = rewards
                report(done)
    else:
        for done, (market, seed, action) in enumerate(missing, 1):
            habit_rewards(market, seed, action)
            report(done)
    worth = [
        (habit_rewards(market, seed, action) @ (1.0, 1.0 - lessons.price)).mean() for market, seed, action in episodes
    ]
    return np.reshape(worth, (len(habits), -1)).mean(axis=1).tolist()


def _made(lessons: Lessons, place: int, num_envs: int) -> PairedReward:
    if multiprocessing.parent_process() is not None:
        # episodes are what runs side by side; threads within each would only get into each other's way
        threadpool_limits(1)
    return PairedReward(ModelUpdateEnv(markets_of(lessons.markets, place, num_envs)), lessons)
