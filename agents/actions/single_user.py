"""One user of a wrapped environment as a plain gymnasium environment."""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from agents.actions.engine import SlateActionWrapper


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
        """Shows the slate that one action stands for, or fills its next slot."""
        observation, reward, terminated, truncated, info = self.vector.step(np.asarray(action)[None])
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), _known(info)


def _known(info: dict[str, Any]) -> dict[str, Any]:
    """The only user's entries, without measures that do not exist (NaN): gymnasium's checker compares infos."""
    return {name: array[0] for name, array in info.items() if not np.isnan(np.asarray(array[0], float)).any()}
