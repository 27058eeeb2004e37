"""`slate`: an action is the slate itself, K of C candidates."""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agents.actions.engine import SlateActionWrapper, Stepped, feature_sizes
from agents.request_layout import RequestLayout
from envs.observation import Observation
from envs.slate_env import SlateVectorEnv

if TYPE_CHECKING:
    from agents.actions.ranker_scores import RankerScores


class SlateAction(SlateActionWrapper):
    """Actions are slates [K] of indices into the C candidates, top slot first (a `MultiDiscrete`); observed is the flat row of
    `agents.request_layout`.

    A masked candidate leaves its slot empty, and so does a candidate that stands in a slot above: nothing is put in its place, so
    what an agent is paid for is what it chose. Where there are fewer candidates than slots, spare slots take masked
    indices; where there is none, the slate stays empty and nobody can click. `info["masked_slots"]` and
    `info["repeated_slots"]` [N] count both (0 where a life is over); a masked candidate that is repeated is masked.

    Args:
        env: the slate environment, of any autoreset mode.
        rankers: fitted rankers; their scores are columns of the candidates.
    """

    name: ClassVar[str] = "slate"
    slot_by_slot: ClassVar[bool] = False
    """Whether an action fills one slot."""

    def __init__(self, env: SlateVectorEnv, rankers: "RankerScores | None" = None) -> None:
        feature_sizes(env)
        names = rankers.names if rankers is not None else ()
        self.layout = RequestLayout.of(env, scores=names, slot_by_slot=self.slot_by_slot)
        action_space = spaces.Discrete(env.num_candidates) if self.slot_by_slot else env.single_action_space
        super().__init__(env, self.layout.space(), action_space, rankers)

    def observe(self, observation: Observation, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Flat rows [N, W]."""
        return self.layout.encode(observation, scores)

    def slates(self, observation: Observation, scores: NDArray[np.float32], actions: NDArray[Any]) -> NDArray[np.int64]:
        """The actions [N, K] themselves."""
        return actions

    def show(self, slates: NDArray[np.int64]) -> Stepped:
        """Shows slates [N, K]; tells which of their slots stay empty, and why."""
        mask = self._observation.candidates.mask
        observation, rewards, terminated, truncated, info = super().show(slates)
        return observation, rewards, terminated, truncated, info | empty_slots(slates, mask, info["active"])


def empty_slots(
    slates: NDArray[np.int64], mask: NDArray[np.int8], active: NDArray[np.bool_]
) -> dict[str, NDArray[np.int64]]:
    """How many slots of slates [N, K] stay empty, and why, with candidates' `mask` [N, C]; 0 for users who are not `active` [N]."""
    shown = np.take_along_axis(mask, slates, axis=1) == 1
    earlier = np.tril(np.ones((slates.shape[1],) * 2, bool), -1)
    repeated = ((slates[:, :, None] == slates[:, None, :]) & earlier).any(axis=2)
    counted = {"masked_slots": ~shown, "repeated_slots": shown & repeated}
    return {name: (empty & active[:, None]).sum(axis=1) for name, empty in counted.items()}
