"""What all action spaces share: stepping the slate environment, and the observation that fits the action."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.errors import ConfigurationError
from envs.observation import Observation
from envs.slate_env import SlateVectorEnv

if TYPE_CHECKING:
    from agents.actions.ranker_scores import RankerScores

Stepped = tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]
"""(observations [N, W], rewards [N], terminated [N], truncated [N], info)."""


class SlateActionWrapper(VectorWrapper):
    """An observation becomes one row of numbers, an action becomes a slate. A new action space needs `observe` and `slates`.

    Args:
        env: the slate environment, of any autoreset mode.
        observation_space: of one row.
        action_space: of one user's action.
        rankers: fitted rankers whose scores the action or the observation uses.

    Raises:
        ConfigurationError: if the environment is another than `SlateVectorEnv`, or a ranker was fitted to another catalogue.
    """

    name: ClassVar[str]
    """Name in `action_wrapper(env, action=...)` and in messages."""
    env: SlateVectorEnv

    def __init__(
        self,
        env: SlateVectorEnv,
        observation_space: spaces.Box,
        action_space: spaces.Space[Any],
        rankers: "RankerScores | None" = None,
    ) -> None:
        super().__init__(env)
        if rankers is not None:
            rankers.check_catalogue(env.world.policy_log.catalogue)
        self.rankers = rankers
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, env.num_envs)
        self.action_space = batch_space(action_space, env.num_envs)

    @property
    def steps_per_request(self) -> int:
        """Steps in which one request is answered: 1, or a slot at a time."""
        return 1

    def discount(self, gamma: float) -> float:
        """Discount of a step where one request is discounted by `gamma`: gamma^(1 / steps per request)."""
        return gamma ** (1 / self.steps_per_request)

    # ------------------------------------------------------------------ what an action space adds
    @abstractmethod
    def observe(self, observation: Observation, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows [N, W] of N requests, whose candidates the rankers gave `scores` [N, C, R] (R = 0 without rankers)."""

    @abstractmethod
    def slates(self, observation: Observation, scores: NDArray[np.float32], actions: NDArray[Any]) -> NDArray[np.int64]:
        """Slates [N, K], indices into the candidates, that actions [N, ...] stand for."""

    # ------------------------------------------------------------------ gymnasium
    def reset(  # type: ignore[override]
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Rows [N, W] of the first requests."""
        observation, info = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        return self._taken_in(observation), info

    def step(self, actions: NDArray[Any]) -> Stepped:  # type: ignore[override]
        """Shows the slates that the actions [N, ...] stand for."""
        return self.show(self.slates(self._observation, self._scores, np.asarray(actions)))

    def show(self, slates: NDArray[np.int64]) -> Stepped:
        """Shows slates [N, K] and observes the next requests."""
        observation, rewards, terminated, truncated, info = self.env.step(slates)
        if "final_obs" in info:
            info = {**info, "final_obs": self._final_rows(info["final_obs"], info["_final_obs"])}
        return self._taken_in(observation), rewards, terminated, truncated, info

    def _taken_in(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        self._observation = Observation.from_dict(observation)
        self._scores = self._score(self._observation)
        return self.observe(self._observation, self._scores)

    def _score(self, observation: Observation) -> NDArray[np.float32]:
        if self.rankers is None:
            return np.zeros((*observation.candidates.items.shape, 0), np.float32)
        return self.rankers(observation)

    def _final_rows(self, final: dict[str, NDArray[Any]], ended: NDArray[np.bool_]) -> NDArray[np.float32]:
        """[N, W] rows of final requests (same-step autoreset), 0 where a life goes on."""
        last = Observation.from_dict(final).take(np.flatnonzero(ended))
        seen = self.observe(last, self._score(last))
        rows = np.zeros((len(ended), *seen.shape[1:]), np.float32)
        rows[ended] = seen
        return rows


def feature_sizes(env: SlateVectorEnv) -> tuple[int, int]:
    """(public attributes of a user, categories) of an environment's observations.

    Raises:
        ConfigurationError: if it is no `SlateVectorEnv`.
    """
    if not isinstance(env, SlateVectorEnv):
        raise ConfigurationError(
            f"an action space wraps a SlateVectorEnv, not a {type(env).__name__}; hand the slate environment over itself."
        )
    return env.world.user_features.shape[1], env.world.policy_log.catalogue.num_categories
