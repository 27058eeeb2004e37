"""A request as one flat row of numbers, for agents that score candidates: networks, replay buffers and other libraries take it.

Agents that only set a few weights see the shorter `agents.summary` instead.
"""

from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from envs.errors import AgentError, ConfigurationError
from envs.observation import CONTEXT_NAMES, Observation
from envs.slate_env import SlateVectorEnv

LARGEST_CATALOGUE = 2**24
"""Item numbers beyond this are not exact in float32."""

A = TypeVar("A", NDArray[Any], Any)


@dataclass(frozen=True)
class RequestParts(Generic[A]):
    """Views into flat rows [..., W], numpy or torch."""

    context: A
    """[..., 4] see `envs.observation.CONTEXT_NAMES`."""
    user: A
    """[..., Fu] public attributes."""
    history: A
    """[..., H] items last consumed, newest first, -1 where there are fewer."""
    history_days: A
    """[..., H] days since each was consumed."""
    items: A
    """[..., C] candidates, -1 where there is none."""
    mask: A
    """[..., C] 1 where the candidate may be shown and is not yet in the slate."""
    columns: A
    """[..., C, F] numbers of each candidate, see `RequestLayout.columns`."""
    slate: A
    """[..., K] places among the candidates that earlier slots of this request took, top slot first, -1 where none yet."""


@dataclass(frozen=True, kw_only=True)
class RequestLayout:
    """Which number stands where in a flat row."""

    user_features: int
    """Fu, public attributes of a user."""
    history: int
    """H, items of the history."""
    candidates: int
    """C."""
    columns: tuple[str, ...] = ("recall", "age")
    """Names of the numbers of each candidate: recall score, age in days, then what `encode` is handed (scores of rankers)."""
    slots: int = 0
    """K, where a request is answered slot by slot; 0 where in one go."""

    @classmethod
    def of(cls, env: SlateVectorEnv, *, scores: tuple[str, ...] = (), slot_by_slot: bool = False) -> Self:
        """The layout of an environment's requests, with scores of these names beside recall score and age.

        Raises:
            ConfigurationError: if the catalogue has more items than the rows can name.
        """
        if env.world.num_items > LARGEST_CATALOGUE:
            raise ConfigurationError(
                f"the catalogue has {env.world.num_items:,} items; flat requests can name {LARGEST_CATALOGUE:,} at most."
            )
        spaces = env.single_observation_space
        user, history, items = (spaces[name].shape[0] for name in ("user_features", "history", "candidate_items"))  # type: ignore[index]
        return cls(
            user_features=user,
            history=history,
            candidates=items,
            columns=("recall", "age", *scores),
            slots=env.slate_size if slot_by_slot else 0,
        )

    @property
    def width(self) -> int:
        """W, numbers of a row."""
        own = len(CONTEXT_NAMES) + self.user_features + 2 * self.history
        return own + self.candidates * (2 + len(self.columns)) + self.slots

    def space(self) -> Box:
        """The box that rows lie in."""
        return Box(-np.inf, np.inf, (self.width,), np.float32)

    def encode(
        self,
        observation: Observation,
        scores: NDArray[np.floating[Any]] | None = None,
        slate: NDArray[np.integer[Any]] | None = None,
    ) -> NDArray[np.float32]:
        """Flat rows [N, W] of N requests.

        Args:
            observation: the requests.
            scores: [N, C, F - 2] of each candidate, where the layout has such columns.
            slate: [N, K] places that earlier slots took, -1 where none yet; none, if left out. They are masked.

        Raises:
            AgentError: if the requests are of another shape than the layout.
        """
        count, further = len(observation), len(self.columns) - 2
        if scores is None:
            scores = np.zeros((count, self.candidates, 0), np.float32)
        shapes = {
            "user_features": (observation.user_features.shape, (count, self.user_features)),
            "history": (observation.history.shape, (count, self.history)),
            "candidates": (observation.candidates.items.shape, (count, self.candidates)),
            "scores": (scores.shape, (count, self.candidates, further)),
        }
        for name, (shape, expected) in shapes.items():
            if shape != expected:
                raise AgentError(
                    f"{name} of the requests are of shape {shape}, the layout has {expected}; train the agent on this data set."
                )
        if slate is None:
            slate = np.full((count, self.slots), -1)
        rows = np.empty((count, self.width), np.float32)
        parts = self.parts(rows)
        parts.context[:], parts.user[:] = observation.context, observation.user_features
        parts.history[:], parts.history_days[:] = observation.history, observation.history_days
        parts.items[:], parts.mask[:] = observation.candidates.items, observation.candidates.mask
        parts.columns[..., :2] = observation.candidates.features[..., :2]
        parts.columns[..., 2:] = scores
        parts.slate[:] = slate
        if self.slots:
            taken = slate >= 0
            parts.mask[np.nonzero(taken)[0], slate[taken]] = 0
        return rows

    def parts(self, rows: A) -> RequestParts[A]:
        """Views into rows [..., W], of numpy or torch."""
        places: list[int] = np.cumsum(
            [
                len(CONTEXT_NAMES),
                self.user_features,
                self.history,
                self.history,
                self.candidates,
                self.candidates,
                self.candidates * len(self.columns),
                self.slots,
            ]
        ).tolist()
        context, user, history, days, items, mask, columns, slate = (
            rows[..., start:end] for start, end in zip([0, *places], places, strict=False)
        )
        shape = (*rows.shape[:-1], self.candidates, len(self.columns))
        return RequestParts(context, user, history, days, items, mask, columns.reshape(shape), slate)
