"""`slots`: an action is one candidate, for the next slot of the slate."""

from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from agents.actions.engine import Stepped
from agents.actions.slate import SlateAction
from envs.errors import ConfigurationError
from envs.slate_env import SlateVectorEnv

if TYPE_CHECKING:
    from agents.actions.ranker_scores import RankerScores


class SlotsAction(SlateAction):
    """Actions are indices into the C candidates (a `Discrete`), one for each slot, top slot first; the K-th shows the slate.

    A request takes K steps. The first K - 1 only fill a slot: time stands still, the reward is 0, and the next row differs in
    `slate`, which holds what was chosen, and in `mask`, which is 0 where a candidate was chosen. The K-th step shows the slate,
    brings the reward and the next request. A step is discounted by gamma^(1/K), see `discount`. Masked candidates leave their
    slots empty, as in `SlateAction`.

    All users fill slots together. With same-step autoreset a new life begins at once. With next-step autoreset its first request
    comes only when the others' next slates are shown: after the step that only resets, the user *waits* for K - 1 steps, and its
    rows are empty: no candidates, mask 0 everywhere, reward 0. `info["active"]` is False there, as in the step that only resets;
    whoever learns from waiting rows all the same learns that nothing can be done in them. Without autoreset a user whose
    life is over waits until `reset`.

    Args:
        env: the slate environment, of any autoreset mode.
        rankers: fitted rankers; their scores are columns of the candidates.
    """

    name: ClassVar[str] = "slots"
    slot_by_slot: ClassVar[bool] = True

    def __init__(self, env: SlateVectorEnv, rankers: "RankerScores | None" = None) -> None:
        super().__init__(env, rankers)
        self._picks: NDArray[np.int64] | None = None

    @property
    def steps_per_request(self) -> int:
        """K."""
        return self.env.slate_size

    def reset(  # type: ignore[override]
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Rows [N, W] of the first requests.

        Raises:
            ConfigurationError: if some users begin anew while the others' slates are half filled.
        """
        if self._picks is not None and self._picks.shape[1] and (options or {}).get("reset_mask") is not None:
            raise ConfigurationError(
                f"reset_mask came when {self._picks.shape[1]} of {self.env.slate_size} slots were filled; "
                "reset some users only between two requests, or all of them."
            )
        return super().reset(seed=seed, options=options)

    def step(self, actions: NDArray[Any]) -> Stepped:  # type: ignore[override]
        """Fills the next slot of all users by candidates [N], and shows the slates if it was the last.

        Raises:
            ConfigurationError: if an action is no index of a candidate.
        """
        if self._picks is None:
            raise gymnasium.error.ResetNeeded("call reset before step.")
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or actions.min() < 0 or actions.max() >= self.env.num_candidates:
            raise ConfigurationError(
                f"the action has shape {actions.shape} and values from {actions.min()} to {actions.max()}; it must hold "
                f"{self.num_envs} indices into the candidates, 0 to {self.env.num_candidates - 1}."
            )
        self._picks = np.concatenate([self._picks, actions[:, None]], axis=1)
        if self._picks.shape[1] == self.env.slate_size:
            return self.show(self._picks)
        self._fill_slot(self._picks.shape[1] - 1, actions)
        nothing = np.zeros(self.num_envs, bool)
        return self._rows.copy(), np.zeros(self.num_envs), nothing, nothing.copy(), {"active": ~self.env.ended}

    def _fill_slot(self, slot: int, actions: NDArray[np.int64]) -> None:
        """Writes what was chosen for the slot into the rows; with the first slot, those of users who wait become empty."""
        parts, filling, waiting = self.layout.parts(self._rows), np.flatnonzero(~self.env.ended), self.env.ended
        parts.slate[filling, slot] = actions[filling]
        parts.mask[filling, actions[filling]] = 0
        if slot == 0:
            self._rows[waiting] = 0
            for part in (parts.history, parts.items, parts.slate):
                part[waiting] = -1

    def _taken_in(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        self._rows = super()._taken_in(observation)
        self._picks = np.zeros((self.num_envs, 0), np.int64)
        return self._rows.copy()
