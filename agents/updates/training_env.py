"""The environments that an update agent is trained on: several episodes side by side, rewards paired with keeping."""

import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from agents.updates.environment import ModelUpdateEnv
from agents.updates.episode import kept_rewards
from agents.updates.market import Market
from agents.updates.vector_env import markets_of


class PairedReward(gymnasium.Wrapper[NDArray[np.float32], int, NDArray[np.float32], int]):
    """Rewards what a period earned beyond what the models of day 0 would have earned on it, times `scale`.

    What keeping earns in the episode, with the same visitors and the same taste noise, does not depend on the actions, so the
    best policy stays the same; but most of the noise of a period is common to both and falls out of the difference. It is
    simulated once for each seed of an episode. Only training rewards are paired.

    Source: Glasserman (2003), Monte Carlo Methods in Financial Engineering, section 4.1 (control variates).
    """

    env: ModelUpdateEnv

    def __init__(self, env: ModelUpdateEnv, scale: float) -> None:
        super().__init__(env)
        self.scale = scale

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Acts in the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        episode = self.env.episode
        assert episode is not None
        kept = kept_rewards(episode.market, episode.seed)[episode.period - 1]
        return observation, self.scale * (float(reward) - float(kept)), terminated, truncated, info


def training_envs(markets: Sequence[Market], num_envs: int, scale: float, processes: bool) -> VectorEnv[Any, Any, Any]:
    """`num_envs` episodes side by side with next-step autoreset, each in a process of its own if `processes`; episode n of place i
    plays market (i + n num_envs) mod M.

    Which of the two changes nothing but the time.
    """
    makers = [_maker(markets_of(markets, place, num_envs), scale) for place in range(num_envs)]
    if processes:
        # Ray and torch have threads, which a fork would break
        return EpisodeProcesses(makers, context="spawn", autoreset_mode=AutoresetMode.NEXT_STEP)
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)


class EpisodeProcesses(AsyncVectorEnv):
    """Episodes in processes of their own. RLlib pickles its configuration for runners elsewhere, of which there are none;
    a pickled copy of this environment is None, since processes cannot be sent."""

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


def _maker(markets: Sequence[Market], scale: float) -> Callable[[], PairedReward]:
    def make() -> PairedReward:
        if multiprocessing.parent_process() is not None:
            # episodes are what runs side by side; threads within each would only get into each other's way
            threadpool_limits(1)
        return PairedReward(ModelUpdateEnv(markets), scale)

    return make
