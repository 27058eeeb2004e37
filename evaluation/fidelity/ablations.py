"""What a fitted user model has to beat when it runs freely: users of popular taste, and users whose taste stands still.

Both have the visits of the model that they stand beside, so that only what is consumed differs.
"""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from envs.users.baselines import StaticConfig, fit_static
from envs.users.likelihood import EventSplit, Part
from envs.users.protocol import AGE_KNOTS, ChoiceParams, Trait, UserModel, VisitParams
from envs.users.threads import single_torch_thread

DEFAULT_STATIC = StaticConfig()


@dataclass
class FixedState:
    """Users whose preference never moves."""

    taste: NDArray[np.float32]
    """[N, D]."""
    traits: NDArray[np.float32]
    """[N, len(Trait)]."""

    def take(self, rows: NDArray[np.int64]) -> "FixedState":
        """A copy of the users at `rows`."""
        return FixedState(self.taste[rows], self.traits[rows])

    def put(self, rows: NDArray[np.int64], values: "FixedState") -> None:
        """Overwrites the users at `rows`."""
        self.taste[rows], self.traits[rows] = values.taste, values.traits


@dataclass(frozen=True, kw_only=True)
class FixedTaste:
    """A user model without evolution, context, age or ratings: utility is taste . vector + bias; fulfils `UserModel`."""

    item_vectors: NDArray[np.float32]
    """[I, D]."""
    item_bias: NDArray[np.float32]
    """[I]."""
    user_parameters: NDArray[np.float32]
    """[U, D + len(Trait)] tastes, then traits."""
    visits: VisitParams
    """As the model's that it stands beside."""
    age_values: NDArray[np.float32] = field(default_factory=lambda: np.zeros(len(AGE_KNOTS), np.float32))
    """[knots] no effect of age."""
    walk_width: int = 0
    choice: ChoiceParams = field(default_factory=ChoiceParams)

    @classmethod
    def popularity(cls, split: EventSplit, beside: UserModel) -> Self:
        """Every user prefers items by how often the fit part has them, one added to each count."""
        traits = beside.user_parameters[:, -len(Trait) :]
        return cls(
            item_vectors=np.zeros((split.num_items, 0), np.float32),
            item_bias=np.log(split.counts(Part.FIT) + 1.0).astype(np.float32),
            user_parameters=traits,
            visits=beside.visits,
        )

    @classmethod
    def static(cls, split: EventSplit, beside: UserModel, config: StaticConfig = DEFAULT_STATIC) -> Self:
        """Matrix factorisation fitted to the fit part and stopped early (`envs.users.baselines`)."""
        traits = beside.user_parameters[:, -len(Trait) :]
        with single_torch_thread():
            users, items, bias = fit_static(split, config)
        return cls(
            item_vectors=items,
            item_bias=bias,
            user_parameters=np.concatenate([users, traits], axis=1),
            visits=beside.visits,
        )

    def start(self, parameters: NDArray[np.float32]) -> FixedState:
        """State of users with `parameters` [N, D + len(Trait)]."""
        width = self.item_vectors.shape[1]
        return FixedState(taste=parameters[:, :width].copy(), traits=parameters[:, width:].copy())

    def preference(
        self,
        state: FixedState,
        hour: NDArray[np.float32],
        weekday: NDArray[np.int64],
        place_in_visit: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """[N, D] tastes; context changes nothing."""
        return state.taste

    def consume(self, state: FixedState, rows: NDArray[np.int64], items: NDArray[np.int32]) -> None:
        """Nothing moves."""

    def pause(
        self,
        state: FixedState,
        rows: NDArray[np.int64],
        days: NDArray[np.float32],
        walk: NDArray[np.float32] | None,
    ) -> None:
        """Nothing moves."""

    def expected_rating(
        self, state: FixedState, rows: NDArray[np.int64], items: NDArray[np.int32], utility: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """[M] users' own means."""
        return state.traits[rows, Trait.RATING]

    def rate(
        self,
        state: FixedState,
        rows: NDArray[np.int64],
        items: NDArray[np.int32],
        utility: NDArray[np.float32],
        noise: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """[M] NaN: no ratings are drawn."""
        return np.full(len(rows), np.nan, np.float32)
