"""What a fitted user model has to beat when it runs freely: users of popular taste, and users whose taste stands still.

Both have the visits of the model that they stand beside, so that only what is consumed differs, and what is given to it:
users of popular taste give what anybody gave to anything, the others by levels of users and items.
"""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from envs.logs.schema import InteractionLog
from envs.users.baselines import StaticConfig, fit_static
from envs.users.engagement_fit import EngagementFit, engagement, expected_on_grid, fit_engagement
from envs.users.likelihood import EventSplit, Part
from envs.users.protocol import AGE_KNOTS, ChoiceParams, Trait, UserModel, VisitParams
from envs.users.threads import single_torch_thread

DEFAULT_STATIC = StaticConfig()
_VALUES = 100
"""Quantiles of all ratings or watch times from which users of popular taste draw theirs."""


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
    """A user model without evolution, context or age: utility is taste . vector + bias; fulfils `UserModel`."""

    item_vectors: NDArray[np.float32]
    """[I, D]."""
    item_bias: NDArray[np.float32]
    """[I]."""
    user_parameters: NDArray[np.float32]
    """[U, D + len(Trait)] tastes, then traits."""
    visits: VisitParams
    """As the model's that it stands beside."""
    engagement: EngagementFit
    """What is given to items; users' levels are traits."""
    age_values: NDArray[np.float32] = field(default_factory=lambda: np.zeros(len(AGE_KNOTS), np.float32))
    """[knots] no effect of age."""
    walk_width: int = 0
    choice: ChoiceParams = field(default_factory=ChoiceParams)

    @classmethod
    def popularity(cls, log: InteractionLog, split: EventSplit, beside: UserModel) -> Self:
        """Every user prefers items by how often the fit part of `log` has them, one added to each count, and draws ratings or watch
        times from all of the fit part."""
        head = _draw_of_all(log, split)
        return cls(
            item_vectors=np.zeros((split.num_items, 0), np.float32),
            item_bias=np.log(split.counts(Part.FIT) + 1.0).astype(np.float32),
            user_parameters=_traits(beside, head),
            visits=beside.visits,
            engagement=head,
        )

    @classmethod
    def static(
        cls, log: InteractionLog, split: EventSplit, beside: UserModel, config: StaticConfig = DEFAULT_STATIC
    ) -> Self:
        """Matrix factorisation fitted to the fit part of `log`, stopped early (`envs.users.baselines`), with a head of its own."""
        with single_torch_thread():
            users, items, bias = fit_static(split, config)
        utility = (users[split.user] * items[split.item]).sum(axis=1) + bias[split.item]
        head = fit_engagement(log, split, utility)
        return cls(
            item_vectors=items,
            item_bias=bias,
            user_parameters=np.concatenate([users, _traits(beside, head)], axis=1),
            visits=beside.visits,
            engagement=head,
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
        """[M] means of what `rate` draws; NaN without a head."""
        head = self.engagement
        if not head.unit:
            return np.full(len(rows), np.nan, np.float32)
        return expected_on_grid(self._score(state, rows, items, utility), head.sd, head.grid, head.cuts).astype(
            np.float32
        )

    def rate(
        self,
        state: FixedState,
        rows: NDArray[np.int64],
        items: NDArray[np.int32],
        utility: NDArray[np.float32],
        noise: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """[M] drawn from the head; NaN without one."""
        head = self.engagement
        if not head.unit:
            return np.full(len(rows), np.nan, np.float32)
        score = self._score(state, rows, items, utility) + np.float32(head.sd) * noise
        return head.grid[np.searchsorted(head.cuts, score)]

    def _score(
        self, state: FixedState, rows: NDArray[np.int64], items: NDArray[np.int32], utility: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """[M] mean score of the head, before noise and cuts."""
        head = self.engagement
        return state.traits[rows, Trait.RATING] + head.item[items] + np.float32(head.slope) * utility


def _traits(beside: UserModel, head: EngagementFit) -> NDArray[np.float32]:
    """[U, len(Trait)] as those of the model beside, with the levels of `head`."""
    traits = beside.user_parameters[:, -len(Trait) :].copy()
    traits[:, Trait.RATING] = head.user
    return traits


def _draw_of_all(log: InteractionLog, split: EventSplit) -> EngagementFit:
    """A head that knows neither user nor item: equally likely quantiles of what the fit part was given."""
    value, unit = engagement(log.consumed())
    value = value[split.row[split.part == Part.FIT]]
    value = value[np.isfinite(value)]
    rank = (np.arange(_VALUES) + 0.5) / _VALUES
    return EngagementFit(
        unit=unit if len(value) else "",
        user=np.zeros(split.num_users, np.float32),
        item=np.zeros(split.num_items, np.float32),
        grid=np.quantile(value, rank).astype(np.float32) if len(value) else np.zeros(0, np.float32),
        cuts=ndtri(np.arange(1, _VALUES) / _VALUES).astype(np.float32),
    )
