"""What a ranker is asked: N requests with C items each, as the arrays that a service has."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from envs.errors import ConfigurationError
from envs.observation import CONTEXT_NAMES, Observation


@dataclass(frozen=True, kw_only=True)
class RankingInput:
    """N requests, each with C items to score. What is public of the items themselves is kept in the ranker."""

    user: NDArray[np.int64]
    """[N] number of the user in the policy's log (index into `log.users`), -1 where it is none of them."""
    user_features: NDArray[np.float32]
    """[N, Fu] public attributes: log(1 + items consumed before) / 10, then those of the log, as an environment shows them."""
    history: NDArray[np.int32]
    """[N, H] items last consumed, newest first, -1 where there are fewer."""
    history_days: NDArray[np.float32]
    """[N, H] days since each was consumed, 0 where there is none."""
    context: NDArray[np.float32]
    """[N, 4] see `envs.observation.CONTEXT_NAMES`."""
    items: NDArray[np.int32]
    """[N, C] items to score, -1 where there is none."""
    ages: NDArray[np.float32]
    """[N, C] days since each item's birth."""
    counts: NDArray[np.float32] | None = None
    """[N, C] how often each item had been consumed at the time of the request, over the mean of all items; None lets the ranker
    take what it counted when it was last fitted or updated."""

    def __len__(self) -> int:
        return len(self.user)

    @classmethod
    def of(cls, observation: Observation) -> Self:
        """The requests of an observation; masked candidates are kept, candidates of -1 are none."""
        return cls(
            user=observation.user,
            user_features=observation.user_features,
            history=observation.history,
            history_days=observation.history_days,
            context=observation.context,
            items=observation.candidates.items,
            ages=observation.candidates.age,
        )

    def take(self, rows: NDArray[Any] | slice) -> Self:
        """The requests at `rows` (indices, a mask or a slice)."""
        return replace(
            self,
            **{name: array[rows] for name, array in vars(self).items() if array is not None},
        )

    def padded(self, rows: int) -> Self:
        """The requests and, behind them, empty ones (no user, no history, no items) up to `rows` in all."""
        missing = rows - len(self)
        if missing <= 0:
            return self
        empty = {"user": -1, "history": -1, "items": -1}
        return replace(
            self,
            **{
                name: np.concatenate([array, np.full((missing, *array.shape[1:]), empty.get(name, 0), array.dtype)])
                for name, array in vars(self).items()
                if array is not None
            },
        )

    def with_counts(self, counts: NDArray[np.float32]) -> Self:
        """The requests with the counts of a table [I], if they have none yet."""
        if self.counts is not None:
            return self
        return replace(self, counts=np.where(self.items >= 0, counts[np.maximum(self.items, 0)], 0))

    def checked(self, num_items: int, num_user_features: int) -> Self:
        """The input itself.

        Raises:
            ConfigurationError: if the shapes disagree, or an item is not in the catalogue of `num_items`.
        """
        rows, shapes = len(self.user), {name: array.shape for name, array in vars(self).items() if array is not None}
        wanted = {
            "user": (rows,),
            "user_features": (rows, num_user_features),
            "history": (rows, *self.history.shape[1:2]),
            "history_days": self.history.shape,
            "context": (rows, len(CONTEXT_NAMES)),
            "items": (rows, *self.items.shape[1:2]),
            "ages": self.items.shape,
            "counts": self.items.shape,
        }
        for name, shape in shapes.items():
            if shape != wanted[name]:
                raise ConfigurationError(
                    f"a ranker was asked with {name} of shape {shape}; it must be {wanted[name]} (requests first)."
                )
        for name, array in (("items", self.items), ("history", self.history)):
            if array.size and (array.min() < -1 or array.max() >= num_items):
                wrong = int(array.min()) if array.min() < -1 else int(array.max())
                raise ConfigurationError(
                    f"a ranker was asked with {name} that hold {wrong}; its catalogue has items 0 to {num_items - 1}, "
                    "and -1 for none. Fit it to a log of the catalogue that it is to serve."
                )
        return self
