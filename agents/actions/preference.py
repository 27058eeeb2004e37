"""Weights as actions for users who differ in what is wanted of them: each life has weights of the rewards of its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from agents.actions.engine import Stepped
from agents.actions.weights import WeightsAction
from agents.summary import PublicItems
from envs.errors import ConfigurationError
from envs.measures import RewardWeights
from envs.slate_env import SlateVectorEnv

OBJECTIVES = ("engagement", "diversity", "freshness")
"""Parts of the reward, in the order in which preferences weigh them; the environment's `info` tells each."""


def preference_of(weights: RewardWeights | Sequence[float]) -> NDArray[np.float32]:
    """[3] share of each of `OBJECTIVES`, which add up to 1, of weights of the reward.

    Raises:
        ConfigurationError: if they are not three numbers of at least 0, one of them larger.
    """
    if isinstance(weights, RewardWeights):
        weights = [getattr(weights, name) for name in OBJECTIVES]
    shares = np.asarray(weights, np.float64)
    if shares.shape != (3,) or not np.isfinite(shares).all() or shares.min() < 0 or not shares.sum() > 0:
        raise ConfigurationError(
            f"{weights} is no preference; give weights of {', '.join(OBJECTIVES)}, none below 0 and not all of them 0."
        )
    return (shares / shares.sum()).astype(np.float32)


class PreferenceAction(WeightsAction):
    """`WeightsAction` in which each life draws a preference, sees it behind the summary, and is paid by it.

    Preferences are uniform on the simplex, and stay for a life. A request pays the preference's inner product with the vector of
    rewards, times the sum of the environment's own weights: by the preference that these stand for it pays what the
    environment itself does.

    Args:
        env: the slate environment, of any autoreset mode.
        items: what is known of the catalogue; by default from the environment's policy log.

    Raises:
        ConfigurationError: if the environment's reward is no such sum, or its weights are no preference: one below 0, or all 0.

    Source: Abels et al. (2019), Dynamic weights in multi-objective deep reinforcement learning, section 4 (the weights as inputs
    of the network, drawn anew for episodes of training).
    """

    def __init__(self, env: SlateVectorEnv, items: PublicItems | None = None) -> None:
        super().__init__(env, items)
        weights = env.reward_weights
        if not isinstance(weights, RewardWeights):
            raise ConfigurationError(
                f"preferences weigh {', '.join(OBJECTIVES)}, but the environment pays by '{type(weights).__name__}'; "
                "give it RewardWeights."
            )
        self.own = preference_of(weights)
        """[3] the preference that the environment's own weights stand for."""
        self.scale = float(sum(getattr(weights, name) for name in OBJECTIVES))
        space = self.single_observation_space
        assert isinstance(space, Box)
        low, high = (np.append(side, np.full(3, end, np.float32)) for side, end in ((space.low, 0), (space.high, 1)))
        self.single_observation_space = Box(low, high)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self._draws = np.random.default_rng(env.seed)
        self.preferences = np.zeros((env.num_envs, 3), np.float32)
        """[N, 3] of each life."""

    def reset(  # type: ignore[override]
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Rows [N, S + 3] of the first requests: summaries, then preferences; a seed begins the draws of these anew, too."""
        if seed is not None:
            self._draws = np.random.default_rng(seed)
        mask = (options or {}).get("reset_mask")
        self._draw(np.ones(len(self.preferences), bool) if mask is None else np.asarray(mask, bool))
        return super().reset(seed=seed, options=options)

    def show(self, slates: NDArray[np.int64]) -> Stepped:
        """Shows slates [N, K] and pays each user by the preference of its life."""
        observation, _, terminated, truncated, info = self.env.step(slates)
        parts = np.stack([info[name] for name in OBJECTIVES], axis=1)
        rewards = (parts * self.preferences).sum(axis=1, dtype=np.float64) * self.scale
        if "final_obs" in info:
            info = {**info, "final_obs": self._final_rows(info["final_obs"], info["_final_obs"])}
        self._draw(self._begun(terminated | truncated, info["active"]))
        return self._taken_in(observation), rewards, terminated, truncated, info

    def _begun(self, ended: NDArray[np.bool_], active: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """[N] whose next request is the first of a life, by the environment's autoreset mode."""
        match self.env.autoreset_mode:
            case AutoresetMode.NEXT_STEP:
                return ~active
            case AutoresetMode.SAME_STEP:
                return ended
            case _:
                return np.zeros(len(ended), bool)

    def _draw(self, begun: NDArray[np.bool_]) -> None:
        drawn = self._draws.standard_exponential((int(begun.sum()), 3))
        self.preferences[begun] = drawn / drawn.sum(axis=1, keepdims=True)

    def _taken_in(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        return np.concatenate([super()._taken_in(observation), self.preferences], axis=1)

    def _final_rows(self, final: dict[str, NDArray[Any]], ended: NDArray[np.bool_]) -> NDArray[np.float32]:
        return np.concatenate([super()._final_rows(final, ended), self.preferences * ended[:, None]], axis=1)
