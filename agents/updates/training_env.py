"""The environments that an update agent is trained on: several episodes side by side, rewards paired with keeping."""

import multiprocessing
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from agents.updates.environment import ModelUpdateEnv, UpdateConfig
from agents.updates.monitoring import UpdateAction
from envs.world import World


class PairedReward(gymnasium.Wrapper[NDArray[np.float32], int, NDArray[np.float32], int]):
    """Rewards what a day earned beyond what the models of day 0 would have earned on it, times `scale`.

    A twin of the environment, with the same seed and hence the same visitors and the same taste noise, always keeps its
    models. What it earns does not depend on the actions, so the best policy stays the same; but most of the noise of a
    day is common to both and falls out of the difference. Only training rewards are paired.

    Source: Glasserman (2003), Monte Carlo Methods in Financial Engineering, section 4.1 (control variates).
    """

    def __init__(self, env: ModelUpdateEnv, twin: ModelUpdateEnv, scale: float) -> None:
        super().__init__(env)
        self.twin, self.scale = twin, scale

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begins the same episode in both environments."""
        # both draw one number for each episode, so without a seed they go on alike
        self.twin.reset(seed=seed)
        return self.env.reset(seed=seed, options=options)

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Acts in the environment and keeps in its twin."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        kept = self.twin.step(UpdateAction.KEEP)[1]
        return observation, self.scale * (float(reward) - kept), terminated, truncated, info


def training_envs(
    world: World,
    config: UpdateConfig,
    num_envs: int,
    scale: float,
    processes: bool,
    users: NDArray[np.int64] | None = None,
) -> VectorEnv[Any, Any, Any]:
    """`num_envs` episodes of visits by `users` side by side with next-step autoreset, each in a process of its own if
    `processes`.

    Which of the two changes nothing but the time.
    """
    makers = [_maker(world, config, scale, users)] * num_envs
    if processes:
        # Ray and torch have threads, which a fork would break
        return EpisodeProcesses(makers, context="spawn", autoreset_mode=AutoresetMode.NEXT_STEP)
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)


class EpisodeProcesses(AsyncVectorEnv):
    """Episodes in processes of their own. RLlib pickles its configuration for runners elsewhere, of which there are none;
    a pickled copy of this environment is None, since processes cannot be sent."""

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


def _maker(
    world: World, config: UpdateConfig, scale: float, users: NDArray[np.int64] | None
) -> Callable[[], PairedReward]:
    def make() -> PairedReward:
        if multiprocessing.parent_process() is not None:
            # episodes are what runs side by side; threads within each would only get into each other's way
            threadpool_limits(1)
        return PairedReward(ModelUpdateEnv(world, config, users), ModelUpdateEnv(world, config, users), scale)

    return make
