"""A thin face of the slate environment for one user, as `gymnasium.make` gives it, with requests told as text."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs.catalogue import SECONDS_PER_DAY
from envs.errors import ConfigurationError
from envs.slate_env import ObservationArrays, SlateVectorEnv


class SlateEnv(gymnasium.Env):
    """One user of `SlateVectorEnv`; the same arguments without `num_envs` and `autoreset_mode`.

    `render()` with render_mode "ansi" tells the last request as text: what was shown, what the user did, how interest moved.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"]}

    def __init__(self, *, render_mode: str | None = None, **arguments: Any) -> None:
        if render_mode not in (None, "ansi"):
            raise ConfigurationError(f"render_mode is '{render_mode}'; it must be 'ansi' or None.")
        self.render_mode = render_mode
        self.vector = SlateVectorEnv(1, autoreset_mode=AutoresetMode.DISABLED, **arguments)
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space
        self._told = "No request yet."

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObservationArrays, dict[str, Any]]:
        """Begins the next user's life; a seed begins with the first user again."""
        super().reset(seed=seed)
        observation, info = self.vector.reset(seed=seed)
        self._told = "A new user, no request yet."
        return _first(observation), _first(info)

    def step(self, action: NDArray[np.int64]) -> tuple[ObservationArrays, float, bool, bool, dict[str, Any]]:
        """Shows one slate [K]."""
        before = self.vector.hidden.interest()[0] if self.render_mode else None
        observation, reward, terminated, truncated, info = self.vector.step(np.asarray(action)[None])
        single = _first(info)
        if before is not None:
            self._told = self._tell(single, before, self.vector.hidden.interest()[0], terminated[0], truncated[0])
        return _first(observation), float(reward[0]), bool(terminated[0]), bool(truncated[0]), single

    def render(self) -> str:  # type: ignore[override]
        """The last request as text."""
        return self._told

    def _tell(
        self,
        info: dict[str, Any],
        before: NDArray[np.float32],
        after: NDArray[np.float32],
        terminated: bool,
        truncated: bool,
    ) -> str:
        catalogue = self.vector.world.policy_log.catalogue
        names = np.asarray(catalogue.category_names)
        lines = [f"day {info['clock'] / SECONDS_PER_DAY:.2f}, user {info['user']}"]
        for slot, item in enumerate(info["slate_items"]):
            mark = "▶" if slot == info["clicked_slot"] else " "
            if item < 0:
                lines.append(f" {mark} {slot + 1:2d}. (empty)")
                continue
            kinds = ", ".join(names[catalogue.categories[item] > 0])
            lines.append(f" {mark} {slot + 1:2d}. {catalogue.titles[item] or catalogue.item_ids[item]}  [{kinds}]")
        if info["clicked_item"] < 0:
            lines.append("consumed nothing")
        else:
            stars = "" if "rating" not in info else f" and rated it {info['rating']:g}"
            lines.append(f"consumed slot {info['clicked_slot'] + 1}{stars}")
        moved = np.argsort(-np.abs(after - before), kind="stable")[:3]
        lines.append(
            "interest: " + ", ".join(f"{names[g]} {100 * before[g]:.1f} % → {100 * after[g]:.1f} %" for g in moved)
        )
        if terminated:
            lines.append("left and will not come back")
        elif truncated:
            lines.append("the run's horizon is reached")
        elif info["leave"]:
            lines.append(f"left; comes back on day {self.vector._state.clock[0] / SECONDS_PER_DAY:.2f}")
        return "\n".join(lines)


def _first(batch: dict[str, Any]) -> dict[str, Any]:
    """What the batch says of its only user; measures that do not exist (NaN) are left out."""
    single = {name: array[0] for name, array in batch.items()}
    return {name: value for name, value in single.items() if not (np.isscalar(value) and value != value)}
