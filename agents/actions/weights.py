"""`weights`: an action is four weights of the re-ranker that constant weights are tuned through.

So learning to set weights can be compared with not learning to.
"""

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agents.actions.engine import SlateActionWrapper, feature_sizes
from agents.rerankers import rerank
from agents.summary import PublicItems, summarise, summary_space
from envs.observation import Observation
from envs.slate_env import SlateVectorEnv

WEIGHT_CENTRE = np.array([1.0, 0.0, 0.0, 0.0], np.float32)
"""Weights of relevance, diversity, freshness and popularity at the action 0: the order of the recall scores."""
WEIGHT_LOW = np.array([0.0, 0.0, 0.0, -1.0], np.float32)
"""Smallest weights that an action can set."""
WEIGHT_HIGH = np.array([2.0, 4.0, 4.0, 2.0], np.float32)
"""Largest weights that an action can set."""


def weights_of_actions(actions: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Weights [N, 4] of actions [N, 4] in [-1, 1].

    0 stands for `WEIGHT_CENTRE` and 1 for `WEIGHT_HIGH`, linear between and on below 0 until `WEIGHT_LOW` is reached.
    """
    moved = WEIGHT_CENTRE + (WEIGHT_HIGH - WEIGHT_CENTRE) * np.asarray(actions, np.float32)
    return np.clip(moved, WEIGHT_LOW, WEIGHT_HIGH).astype(np.float32)


class RerankedAction(SlateActionWrapper):
    """Observes a summary (`agents.summary`), and has the re-ranker fill slates by the weights that an action stands for.

    Args:
        env: the slate environment, of any autoreset mode.
        action_space: of one user's action.
        items: what is known of the catalogue; by default from the environment's policy log.
    """

    def __init__(self, env: SlateVectorEnv, action_space: spaces.Space[Any], items: PublicItems | None = None) -> None:
        space = summary_space(*feature_sizes(env))
        self.items = items or PublicItems.from_log(env.world.policy_log)
        super().__init__(env, space, action_space)

    def weights(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        """Weights [N, 4] of actions [N, ...]."""
        raise NotImplementedError

    def observe(self, observation: Observation, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Summaries [N, S]."""
        return summarise(observation, self.items)

    def slates(self, observation: Observation, scores: NDArray[np.float32], actions: NDArray[Any]) -> NDArray[np.int64]:
        """Re-ranked slates [N, K]."""
        return rerank(observation, self.weights(actions), self.items.popularity, self.env.slate_size)


class WeightsAction(RerankedAction):
    """Actions are weights of relevance, diversity, freshness and popularity, each scaled to [-1, 1] (a `Box`)."""

    name: ClassVar[str] = "weights"

    def __init__(self, env: SlateVectorEnv, items: PublicItems | None = None) -> None:
        super().__init__(env, spaces.Box(-1, 1, (len(WEIGHT_CENTRE),), np.float32), items)

    def weights(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        """Weights [N, 4] of actions [N, 4]."""
        return weights_of_actions(actions)
