"""What a policy sees of a request: the flat Dict of Boxes of the environment, and a typed view of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

CONTEXT_NAMES = ("hour", "weekday", "place_in_visit", "day")
"""Columns of `context`: hour of the day (0 to 24), weekday (Monday 0), requests so far in this visit, day of the run."""
FIRST_CATEGORY = 2
"""Columns of `candidate_features`: recall score, age in days, then the category memberships."""


@dataclass(frozen=True)
class Candidates:
    """C candidates for each of N users."""

    items: NDArray[np.int32]
    """[N, C] indices into the catalogue, -1 where there is no candidate."""
    mask: NDArray[np.int8]
    """[N, C] 1 where the candidate may be shown."""
    features: NDArray[np.float32]
    """[N, C, 2 + G] recall score, age in days, categories."""

    @property
    def score(self) -> NDArray[np.float32]:
        """[N, C] score of the recall stage; larger is better."""
        return self.features[:, :, 0]

    @property
    def age(self) -> NDArray[np.float32]:
        """[N, C] days since birth."""
        return self.features[:, :, 1]

    @property
    def categories(self) -> NDArray[np.float32]:
        """[N, C, G] category memberships; each row sums to 1."""
        return self.features[:, :, FIRST_CATEGORY:]


@dataclass(frozen=True)
class Observation:
    """A batch of N requests as a production recommender sees them."""

    user: NDArray[np.int64]
    """[N] number of the user's log rows in the policy's log (index into `log.users`)."""
    user_features: NDArray[np.float32]
    """[N, Fu] public attributes."""
    history: NDArray[np.int32]
    """[N, H] items last consumed, newest first, -1 where there are fewer."""
    history_days: NDArray[np.float32]
    """[N, H] days since each was consumed, 0 where there is none."""
    context: NDArray[np.float32]
    """[N, 4] see `CONTEXT_NAMES`."""
    candidates: Candidates

    def __len__(self) -> int:
        return len(self.user)

    @classmethod
    def from_dict(cls, arrays: Mapping[str, NDArray[Any]]) -> "Observation":
        """Typed view of a batched observation of `driftrec/Slate-v0`; nothing is copied."""
        return cls(
            user=arrays["user"][:, 0],
            user_features=arrays["user_features"],
            history=arrays["history"],
            history_days=arrays["history_days"],
            context=arrays["context"],
            candidates=Candidates(arrays["candidate_items"], arrays["candidate_mask"], arrays["candidate_features"]),
        )

    def to_dict(self) -> dict[str, NDArray[Any]]:
        """The arrays as the environment returns them."""
        return {
            "user": self.user[:, None],
            "user_features": self.user_features,
            "history": self.history,
            "history_days": self.history_days,
            "context": self.context,
            "candidate_items": self.candidates.items,
            "candidate_mask": self.candidates.mask,
            "candidate_features": self.candidates.features,
        }

    def hash_keys(self) -> list[NDArray[np.integer[Any]]]:
        """Integers [N] for draws that are a hash of what is observed: a request is told from the others of its user by the bits of
        its context and by what was consumed last."""
        context = np.ascontiguousarray(self.context, np.float32).view(np.int32)
        return [self.user, *context.T, self.history[:, 0]]

    def take(self, rows: NDArray[Any]) -> "Observation":
        """The requests at `rows` (indices or a mask)."""
        return Observation.from_dict({name: array[rows] for name, array in self.to_dict().items()})


def observation_space(
    *,
    num_users: int,
    num_user_features: int,
    num_items: int,
    num_categories: int,
    history_size: int,
    num_candidates: int,
) -> spaces.Dict:
    """The flat Dict of one request; SB3 takes no nested Dict."""

    def box(low: float, high: float, shape: tuple[int, ...], dtype: type = np.float32) -> spaces.Box:
        return spaces.Box(low, high, shape, dtype)  # type: ignore[arg-type]

    return spaces.Dict(
        {
            "user": box(0, num_users - 1, (1,), np.int64),
            "user_features": box(-np.inf, np.inf, (num_user_features,)),
            "history": box(-1, num_items - 1, (history_size,), np.int32),
            "history_days": box(0, np.inf, (history_size,)),
            "context": box(0, np.inf, (len(CONTEXT_NAMES),)),
            "candidate_items": box(-1, num_items - 1, (num_candidates,), np.int32),
            "candidate_mask": box(0, 1, (num_candidates,), np.int8),
            "candidate_features": box(-np.inf, np.inf, (num_candidates, FIRST_CATEGORY + num_categories)),
        }
    )
