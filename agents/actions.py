"""Wrappers that turn a small action into a slate, and narrow the observation to a summary.

The re-ranker that turns weights into slates is the one that constant weights are tuned through, so that learning to set weights
can be compared with not learning to.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from agents.rerankers import rerank
from agents.summary import PublicItems, summarise, summary_space
from envs.observation import FIRST_CATEGORY, Observation
from envs.slate_env import SlateVectorEnv

WEIGHT_CENTRE = np.array([1.0, 0.0, 0.0, 0.0], np.float32)
"""Weights of relevance, diversity, freshness and popularity at the action 0: the order of the recall scores."""
WEIGHT_LOW = np.array([0.0, 0.0, 0.0, -1.0], np.float32)
"""Smallest weights that an action can set."""
WEIGHT_HIGH = np.array([2.0, 4.0, 4.0, 2.0], np.float32)
"""Largest weights that an action can set."""

PRESETS = np.array(
    [
        [1.0, 0.0, 0.0, 0.0],
        [1.0, 0.5, 0.0, 0.0],
        [1.0, 1.0, 0.0, 0.0],
        [1.0, 2.0, 0.0, 0.0],
        [1.0, 0.0, 1.0, 0.0],
        [1.0, 0.0, 2.0, 0.0],
        [1.0, 0.0, 4.0, 0.0],
        [1.0, 0.0, 0.0, 0.5],
        [1.0, 0.0, 0.0, 1.0],
        [1.0, 0.0, 0.0, -0.5],
        [1.0, 1.0, 2.0, 0.0],
        [1.0, 0.5, 2.0, 0.5],
    ],
    np.float32,
)
"""[12, 4] weights of the presets; the first is the order of the recall scores."""


def weights_of_actions(actions: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Weights [N, 4] of actions [N, 4] in [-1, 1].

    0 stands for `WEIGHT_CENTRE` and 1 for `WEIGHT_HIGH`, linear between and on below 0 until `WEIGHT_LOW` is reached.
    """
    moved = WEIGHT_CENTRE + (WEIGHT_HIGH - WEIGHT_CENTRE) * np.asarray(actions, np.float32)
    return np.clip(moved, WEIGHT_LOW, WEIGHT_HIGH).astype(np.float32)


def weights_of_presets(actions: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Weights [N, 4] of presets [N]."""
    return PRESETS[np.asarray(actions, np.int64)]


class SlateActionWrapper(VectorWrapper):
    """The parts that the two wrappers share: an observation is a summary, an action becomes weights, weights a slate.

    Args:
        env: the slate environment, of any autoreset mode.
        items: what is known of the catalogue; by default from the environment's policy log.
    """

    env: SlateVectorEnv

    def __init__(self, env: SlateVectorEnv, action_space: spaces.Space[Any], items: PublicItems | None = None) -> None:
        super().__init__(env)
        self.items = items or PublicItems.from_log(env.world.policy_log)
        observed = env.single_observation_space
        assert isinstance(observed, spaces.Dict)
        user_features, candidates = observed["user_features"].shape, observed["candidate_features"].shape
        assert user_features is not None and candidates is not None
        self.single_observation_space = summary_space(user_features[0], candidates[1] - FIRST_CATEGORY)
        self.single_action_space = action_space
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self.action_space = batch_space(action_space, env.num_envs)

    def weights(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        """Weights [N, 4] of actions [N, ...]."""
        raise NotImplementedError

    def reset(  # type: ignore[override]
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Summaries [N, S] of the first requests."""
        observation, info = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        return self._narrowed(observation), info

    def step(  # type: ignore[override]
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Shows the slates that the actions [N, ...] stand for."""
        slates = rerank(self._observation, self.weights(actions), self.items.popularity, self.env.slate_size)
        observation, rewards, terminated, truncated, info = self.env.step(slates)
        if "final_obs" in info:
            info = {**info, "final_obs": self._final_summaries(info["final_obs"], info["_final_obs"])}
        return self._narrowed(observation), rewards, terminated, truncated, info

    def _narrowed(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        self._observation = Observation.from_dict(observation)
        return summarise(self._observation, self.items)

    def _final_summaries(self, final: dict[str, NDArray[Any]], ended: NDArray[np.bool_]) -> NDArray[np.float32]:
        """[N, S] summaries of final requests (same-step autoreset), 0 where a life goes on."""
        summaries = np.zeros((len(ended), *self.single_observation_space.shape), np.float32)  # type: ignore[misc]
        rows = np.flatnonzero(ended)
        summaries[rows] = summarise(Observation.from_dict(final).take(rows), self.items)
        return summaries


class WeightsAction(SlateActionWrapper):
    """Actions are weights of relevance, diversity, freshness and popularity, each scaled to [-1, 1] (a `Box`)."""

    def __init__(self, env: SlateVectorEnv, items: PublicItems | None = None) -> None:
        super().__init__(env, spaces.Box(-1, 1, (4,), np.float32), items)

    def weights(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        """Weights [N, 4] of actions [N, 4]."""
        return weights_of_actions(actions)


class PresetAction(SlateActionWrapper):
    """Actions are numbers of `PRESETS` (`Discrete`)."""

    def __init__(self, env: SlateVectorEnv, items: PublicItems | None = None) -> None:
        super().__init__(env, spaces.Discrete(len(PRESETS)), items)

    def weights(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        """Weights [N, 4] of actions [N]."""
        return weights_of_presets(actions)


class SingleUser(gymnasium.Env[NDArray[np.float32], Any]):
    """A single-user face on a wrapped environment of one user with autoreset off, for tools that take no vector one.

    Raises:
        ValueError: if the environment has several users or resets itself.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, env: SlateActionWrapper) -> None:
        if env.num_envs != 1 or env.env.autoreset_mode != gymnasium.vector.AutoresetMode.DISABLED:
            raise ValueError("SingleUser needs an environment of one user with AutoresetMode.DISABLED.")
        self.vector = env
        self.observation_space = env.single_observation_space
        self.action_space = env.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begins the next user's life."""
        super().reset(seed=seed)
        observation, info = self.vector.reset(seed=seed, options=options)
        return observation[0], _known(info)

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Shows the slate that one action stands for."""
        observation, reward, terminated, truncated, info = self.vector.step(np.asarray(action)[None])
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), _known(info)


def _known(info: dict[str, Any]) -> dict[str, Any]:
    """The only user's entries, without measures that do not exist (NaN): gymnasium's checker compares infos."""
    return {name: array[0] for name, array in info.items() if not np.isnan(np.asarray(array[0], float)).any()}
