"""`presets`: an action is one of a few settings of the re-ranker's weights."""

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agents.actions.weights import RerankedAction
from agents.summary import PublicItems
from envs.slate_env import SlateVectorEnv

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


def weights_of_presets(actions: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Weights [N, 4] of presets [N]."""
    return PRESETS[np.asarray(actions, np.int64)]


class PresetAction(RerankedAction):
    """Actions are numbers of `PRESETS` (`Discrete`)."""

    name: ClassVar[str] = "presets"

    def __init__(self, env: SlateVectorEnv, items: PublicItems | None = None) -> None:
        super().__init__(env, spaces.Discrete(len(PRESETS)), items)

    def weights(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        """Weights [N, 4] of actions [N]."""
        return weights_of_presets(actions)
