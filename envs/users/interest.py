"""The parametric user model: long- and short-term interest, satiation, context, age and popularity.

Utility of item i for a user in context c (docs/user-model.md):

    x = kappa p.v + alpha s.v - beta f.m + omega_c.m + b + phi(a)

and on consumption of an item with embedding v and categories m

    s <- lambda s + (1 - lambda) v,    p <- p + eta (v - p),    f <- gamma f + m.
"""

from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from envs import kernels
from envs.artefacts import load_arrays, save_arrays
from envs.compiled import VECTOR_LANES, over_rows
from envs.errors import ArtefactError
from envs.users.new_items import resembling
from envs.users.protocol import ChoiceParams, Trait, VisitParams

HOURS_PER_BUCKET = 4
PLACE_EDGES = np.array([1, 4, 16])
"""Buckets of the place in the visit: first item, items 2 to 4, 5 to 16, later."""
NUM_CONTEXTS = 24 // HOURS_PER_BUCKET + 2 + len(PLACE_EDGES) + 1
"""Rows of omega: six hours of the day, weekday and weekend, four places in the visit."""

_ARRAYS = (
    "item_embedding",
    "categories",
    "item_bias",
    "user_embedding",
    "context_weights",
    "age_values",
    "user_traits",
    "rating_item",
    "rating_grid",
    "rating_cuts",
    "item_novelty",
)


def context_rows(
    hour: NDArray[np.float32], weekday: NDArray[np.int64], place_in_visit: NDArray[np.int64]
) -> NDArray[np.int64]:
    """[N, 3] rows of omega that add up for each request."""
    hours = 24 // HOURS_PER_BUCKET
    return np.stack(
        [
            (hour // HOURS_PER_BUCKET).astype(np.int64) % hours,
            hours + (weekday >= 5).astype(np.int64),
            hours + 2 + np.searchsorted(PLACE_EDGES, place_in_visit, side="right"),
        ],
        axis=-1,
    )


@dataclass(frozen=True, kw_only=True)
class InterestParams:
    """Scalars of the parametric user model, and how each came by its value."""

    short_decay: float = 0.67
    """lambda: share of short-term interest kept per consumed item, in [0, 1)."""
    short_weight: float = 1.0
    """alpha: logits of utility per unit of short-term interest."""
    long_weight: float = 1.0
    """kappa: logits of utility per unit of long-term interest. Both interests live in the space of the embeddings, whose
    mean norm is 1, so that eta moves p towards the items themselves; kappa and alpha turn interest into logits."""
    long_rate: float = 0.02
    """eta: share of the way that long-term interest moves towards a consumed item."""
    satiation_decay: float = 0.8
    """gamma: share of category satiation kept per consumed item, in [0, 1)."""
    satiation_gain: float = 0.1
    """beta: logits of utility lost per unit of category satiation."""
    short_half_life_days: float = 1.0
    """Days between visits after which half the short-term interest is left."""
    satiation_half_life_days: float = 1.0
    """Days between visits after which half the satiation is left."""
    walk_sd: float = 0.02
    """Standard deviation of each coordinate of long-term interest per square root of a day between visits."""
    rating_slope: float = 0.2
    """Score of the engagement head per logit of utility; a score is a rating, or log(1 + seconds watched)."""
    rating_sd: float = 0.9
    """Standard deviation of the score about its mean."""


@dataclass
class InterestState:
    """Interests of N users."""

    long_term: NDArray[np.float32]
    """p [N, d]."""
    short_term: NDArray[np.float32]
    """s [N, d]."""
    satiation: NDArray[np.float32]
    """f [N, G]."""
    traits: NDArray[np.float32]
    """[N, len(Trait)]."""

    def take(self, rows: NDArray[np.int64]) -> "InterestState":
        """A copy of the users at `rows`."""
        return InterestState(self.long_term[rows], self.short_term[rows], self.satiation[rows], self.traits[rows])

    def put(self, rows: NDArray[np.int64], values: "InterestState") -> None:
        """Overwrites the users at `rows`."""
        self.long_term[rows] = values.long_term
        self.short_term[rows] = values.short_term
        self.satiation[rows] = values.satiation
        self.traits[rows] = values.traits


@dataclass(frozen=True, kw_only=True)
class InterestModel:
    """A fitted (or, for generated logs, a known) parametric user model; fulfils `UserModel`."""

    params: InterestParams
    visits: VisitParams
    item_embedding: NDArray[np.float32]
    """v [I, d], scaled to a mean norm of 1."""
    categories: NDArray[np.float32]
    """m [I, G]; rows sum to 1, but of items that tire users of more or less than others do."""
    item_bias: NDArray[np.float32]
    """b [I] in logits."""
    user_embedding: NDArray[np.float32]
    """p [U, d] of log users before their first event."""
    context_weights: NDArray[np.float32]
    """omega [NUM_CONTEXTS, G] in logits."""
    age_values: NDArray[np.float32]
    """phi at `AGE_KNOTS`, in logits."""
    user_traits: NDArray[np.float32]
    """[U, len(Trait)] of log users; see `Trait`."""
    rating_item: NDArray[np.float32]
    """[I] an item's level of engagement, on the scale of the score."""
    rating_grid: NDArray[np.float32]
    """[G] values that users give, ascending, in the log's unit: ratings, or seconds watched where the log has no ratings; empty
    where it has neither."""
    choice: ChoiceParams = field(default_factory=ChoiceParams)
    table: list[dict[str, Any]] = field(default_factory=list)
    """One row for each parameter: name, symbol, value, low, high, source ('fitted' or 'assumed'), note."""
    fit_report: dict[str, Any] = field(default_factory=dict)
    """Log-likelihoods and the like of the fit that made the model."""

    rating_cuts: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    """[G - 1] scores between the values of `rating_grid`; the middles between them where none are given."""
    item_novelty: NDArray[np.float32] | None = None
    """[I] birth in standard deviations, as `Trait.NOVELTY` weighs it; None for none."""

    def __post_init__(self) -> None:
        if not len(self.rating_cuts):
            object.__setattr__(self, "rating_cuts", (self.rating_grid[1:] + self.rating_grid[:-1]) / 2)
        if self.item_novelty is None:
            object.__setattr__(self, "item_novelty", np.zeros(len(self.item_bias), np.float32))
        # the engine's kernels take arrays of one type only
        for name in _ARRAYS:
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), np.float32))

    @cached_property
    def item_vectors(self) -> NDArray[np.float32]:
        """[I, D]: embedding, categories, bias and novelty (that users weigh each in their own way), and zeros up to a multiple of
        the vector lanes."""
        own = np.column_stack([self.item_bias, self.item_novelty])  # type: ignore[list-item]
        width = self.item_embedding.shape[1] + self.categories.shape[1] + own.shape[1]
        zeros = np.zeros((len(self.item_embedding), -width % VECTOR_LANES))
        return np.concatenate([self.item_embedding, self.categories, own, zeros], axis=1, dtype=np.float32)

    @property
    def walk_width(self) -> int:
        return self.item_embedding.shape[1]

    @cached_property
    def user_parameters(self) -> NDArray[np.float32]:
        """[U, d + len(Trait)]: long-term interest before the first event, then traits."""
        return np.concatenate([self.user_embedding, self.user_traits], axis=1)

    def start(self, parameters: NDArray[np.float32]) -> InterestState:
        count, width = len(parameters), self.item_embedding.shape[1]
        return InterestState(
            long_term=parameters[:, :width].copy(),
            short_term=np.zeros((count, width), np.float32),
            satiation=np.zeros((count, self.categories.shape[1]), np.float32),
            traits=parameters[:, width:].copy(),
        )

    def preference(
        self,
        state: InterestState,
        hour: NDArray[np.float32],
        weekday: NDArray[np.int64],
        place_in_visit: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        params, count = self.params, len(hour)
        preference = np.empty((count, self.item_vectors.shape[1]), np.float32)
        over_rows(
            kernels.prefer,
            count,
            params.long_weight,
            params.short_weight,
            params.satiation_gain,
            state.long_term,
            state.short_term,
            state.satiation,
            state.traits,
            self.context_weights,
            HOURS_PER_BUCKET,
            PLACE_EDGES,
            np.ascontiguousarray(hour, np.float32),
            np.ascontiguousarray(weekday, np.int64),
            np.ascontiguousarray(place_in_visit, np.int64),
            preference,
        )
        return preference

    def consume(self, state: InterestState, rows: NDArray[np.int64], items: NDArray[np.int32]) -> None:
        params = self.params
        over_rows(
            kernels.consume,
            len(rows),
            params.short_decay,
            params.long_rate,
            params.satiation_decay,
            np.ascontiguousarray(rows, np.int64),
            np.ascontiguousarray(items, np.int32),
            self.item_embedding,
            self.categories,
            state.long_term,
            state.short_term,
            state.satiation,
        )

    def pause(
        self,
        state: InterestState,
        rows: NDArray[np.int64],
        days: NDArray[np.float32],
        walk: NDArray[np.float32] | None,
    ) -> None:
        params = self.params
        over_rows(
            kernels.pause,
            len(rows),
            params.short_half_life_days,
            params.satiation_half_life_days,
            params.walk_sd,
            np.ascontiguousarray(rows, np.int64),
            np.ascontiguousarray(days, np.float32),
            np.zeros((len(rows), 0), np.float32) if walk is None else np.ascontiguousarray(walk, np.float32),
            state.long_term,
            state.short_term,
            state.satiation,
        )

    def expected_rating(
        self,
        state: InterestState,
        rows: NDArray[np.int64],
        items: NDArray[np.int32],
        utility: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        if not len(self.rating_grid):
            return np.full(len(items), np.nan, np.float32)
        score = self._score(state, rows, items, utility)
        above = ndtr((score[:, None] - self.rating_cuts) / np.float32(self.params.rating_sd))
        return (self.rating_grid[0] + (above * np.diff(self.rating_grid)).sum(axis=1)).astype(np.float32)

    def rate(
        self,
        state: InterestState,
        rows: NDArray[np.int64],
        items: NDArray[np.int32],
        utility: NDArray[np.float32],
        noise: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        if not len(self.rating_grid):
            return np.full(len(items), np.nan, np.float32)
        score = self._score(state, rows, items, utility) + np.float32(self.params.rating_sd) * noise
        return self.rating_grid[np.searchsorted(self.rating_cuts, score)]

    def _score(
        self, state: InterestState, rows: NDArray[np.int64], items: NDArray[np.int32], utility: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """[M] mean score of the engagement head, before noise and cuts."""
        level = state.traits[rows, Trait.RATING] + self.rating_item[items]
        return level + np.float32(self.params.rating_slope) * utility

    @property
    def item_noise_width(self) -> int:
        return self.item_embedding.shape[1] + 2

    def with_items(self, parents: NDArray[np.int64], noise: NDArray[np.float32]) -> "InterestModel":
        """New items share their parent's categories; embedding, bias and rating are drawn from around the parent's."""
        fitted = np.column_stack([self.item_embedding, self.item_bias, self.rating_item])
        drawn = resembling(fitted, self.categories, parents, noise)
        together = np.concatenate([fitted, drawn]).astype(np.float32)
        return replace(
            self,
            item_embedding=np.ascontiguousarray(together[:, :-2]),
            item_bias=together[:, -2].copy(),
            rating_item=together[:, -1].copy(),
            categories=np.concatenate([self.categories, self.categories[parents]]),
            item_novelty=np.concatenate([self.item_novelty, self.item_novelty[parents]]),  # type: ignore[list-item,index]
        )

    def stored(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """(arrays, configuration) from which `restored` makes the model again."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        params = {name: asdict(getattr(self, name)) for name in ("params", "visits", "choice")}
        return arrays, params | {"table": self.table, "fit_report": self.fit_report}

    @classmethod
    def restored(cls, arrays: dict[str, NDArray[Any]], configuration: dict[str, Any]) -> "InterestModel":
        """The model from what `stored` gave.

        Raises:
            ArtefactError: if its users have other traits than this version's.
        """
        traits = arrays["user_traits"].shape[1]
        if traits != len(Trait):
            raise ArtefactError(f"the user model keeps {traits} traits of a user, not {len(Trait)}; fit it again.")
        return cls(
            params=InterestParams(**configuration["params"]),
            visits=VisitParams(**configuration["visits"]),
            choice=ChoiceParams(**configuration["choice"]),
            table=configuration["table"],
            fit_report=configuration["fit_report"],
            **arrays,
        )

    def save(self, path: Path) -> None:
        """Writes the model, whole or not at all."""
        save_arrays(path, "InterestModel", *self.stored())

    @classmethod
    def load(cls, path: Path) -> "InterestModel":
        """Reads what `save` wrote.

        Raises:
            ArtefactError: if the file is damaged or holds something else.
        """
        return cls.restored(*load_arrays(path, "InterestModel"))
