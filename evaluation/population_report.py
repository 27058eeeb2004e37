"""Drawn users against the log's: parameters, and the histories that they bring, each as a distance beside its floor.

The floor is the distance between two random halves of the log's users: what sampling alone makes of no difference at all.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.table import Table
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.measures import category_entropy, gini
from envs.users.population import aged
from envs.users.protocol import Trait
from envs.world import World

HALVES = 20
"""Random halvings of the log's users behind the floor."""
NEIGHBOURS = 500
"""Users whose nearest log user is looked for."""


@dataclass(frozen=True)
class _Users:
    """Some users: parameters standardised by the log users' spread, and what they consumed before the run."""

    parameters: NDArray[np.float64]
    """[N, P] in standard deviations of the log's users."""
    log: InteractionLog
    """Consumed rows; only those of `users` count."""
    users: NDArray[np.int64]
    """[N] index into the log's users."""

    def part(self, rows: NDArray[np.int64]) -> "_Users":
        return _Users(self.parameters[rows], self.log, self.users[rows])

    @property
    def length(self) -> NDArray[np.float64]:
        """[N] log(1 + items of the history)."""
        return np.log1p(np.diff(self.log.user_starts)[self.users])

    @property
    def visits(self) -> NDArray[np.float64]:
        """[N] log of the visits in the history."""
        last = self.log.user_starts[self.users + 1] - 1
        return np.log1p(self.log.visit[last])

    @property
    def items(self) -> NDArray[np.int32]:
        """[R] everything they consumed."""
        return self.log.item[np.isin(self.log.user, self.users)]

    @property
    def counts(self) -> NDArray[np.int64]:
        """[I] how often each item was consumed."""
        return np.bincount(self.items, minlength=len(self.log.catalogue))

    @property
    def entropy(self) -> NDArray[np.float64]:
        """[N] entropy in nats of a history over categories."""
        mass = np.zeros((len(self.log.users), self.log.catalogue.num_categories))
        np.add.at(mass, self.log.user, self.log.catalogue.categories[self.log.item])
        return category_entropy(mass[self.users])


_Summary = Callable[[_Users], float]
_Distance = Callable[[_Users, _Users], float]


def population_report(world: World, seed: int = 0) -> pl.DataFrame:
    """Compares the drawn users of a world with its log's, as many of them as there are of the others.

    Args:
        world: one whose drawn users' histories are kept (`WorldConfig.drawn_users`, no more than `KEPT_USERS`).
        seed: of the halvings.

    Returns:
        One row a quantity: quantity, logged, drawn (null where the quantity is a distance only), distance, floor.

    Raises:
        ConfigurationError: if the world has no drawn users, or more than are kept.
    """
    newcomers = world.newcomers
    if newcomers is None or not newcomers.num_drawn or not newcomers.is_kept:
        raise ConfigurationError("the world has no drawn users whose histories are kept; set drawn_users.")
    events = world.policy_log.consumed()
    logged = newcomers.population.log_users
    numbers = np.arange(min(newcomers.num_drawn, len(logged)))
    own = world.user_model.user_parameters[logged].astype(np.float64)
    visits = events.visit[events.user_starts[world.num_logged + numbers + 1] - 1] + 1
    begun = newcomers.population.draw(numbers, newcomers.seed).parameters
    drawn = aged(begun, visits, world.user_model.visits).astype(np.float64)
    centre, spread = own.mean(axis=0), np.where(own.std(axis=0) > 0, own.std(axis=0), 1)
    first = _Users((own - centre) / spread, events, logged)
    second = _Users((drawn - centre) / spread, events, world.num_logged + numbers)
    random = np.random.default_rng(seed)
    halves = [np.array_split(random.permutation(len(logged)), 2) for _ in range(HALVES)]
    rows = []
    for name, summary, distance in _QUANTITIES:
        floor = np.mean([distance(first.part(one), first.part(other)) for one, other in halves])
        rows.append(
            {
                "quantity": name,
                "logged": None if summary is None else summary(first),
                "drawn": None if summary is None else summary(second),
                "distance": distance(first, second),
                "floor": float(floor),
            }
        )
    numbers_of = {"logged": pl.Float64, "drawn": pl.Float64, "distance": pl.Float64, "floor": pl.Float64}
    return pl.DataFrame(rows, schema={"quantity": pl.String, **numbers_of})


def population_table(report: pl.DataFrame) -> Table:
    """The report for the terminal."""
    table = Table(title="Drawn users against the log's", title_justify="left")
    table.caption = "Floor: the same distance between two random halves of the log's users."
    table.caption_justify = "left"
    table.add_column("quantity", no_wrap=True)
    for heading in ("log", "drawn", "distance", "floor"):
        table.add_column(heading, justify="right")
    for row in report.iter_rows(named=True):
        cells = [row[name] for name in ("logged", "drawn", "distance", "floor")]
        table.add_row(row["quantity"], *["" if cell is None else f"{cell:.3f}" for cell in cells])
    return table


def population_figures(report: pl.DataFrame) -> dict[str, float]:
    """The report as flat figures: 'population_<quantity>' and '..._floor'."""
    figures: dict[str, float] = {}
    for row in report.iter_rows(named=True):
        name = "population_" + row["quantity"].replace(", ", "_").replace(" ", "_").replace("'", "")
        figures |= {name: row["distance"], f"{name}_floor": row["floor"]}
    return figures


# ------------------------------------------------------------------ distances
def _means(first: _Users, second: _Users) -> float:
    """Root mean square over coordinates of the difference of means, in standard deviations."""
    return float(np.sqrt(np.mean((first.parameters.mean(axis=0) - second.parameters.mean(axis=0)) ** 2)))


def _spreads(first: _Users, second: _Users) -> float:
    """Mean over coordinates of |log ratio of standard deviations|; coordinates without spread left out."""
    one, other = first.parameters.std(axis=0), second.parameters.std(axis=0)
    known = (one > 0) & (other > 0)
    return float(np.abs(np.log(one[known] / other[known])).mean())


def _covariances(first: _Users, second: _Users) -> float:
    """Root mean square over pairs of coordinates of the difference of covariances, in the log users' standard deviations."""
    difference = np.cov(first.parameters.T) - np.cov(second.parameters.T)
    off = ~np.eye(len(difference), dtype=bool)
    return float(np.sqrt(np.mean(difference[off] ** 2)))


def _coordinates(first: _Users, second: _Users) -> NDArray[np.float64]:
    """[P] Wasserstein distance of each coordinate, in standard deviations."""
    pairs = zip(first.parameters.T, second.parameters.T, strict=True)
    return np.array([wasserstein_distance(one, other) for one, other in pairs])


def _worst_coordinate(first: _Users, second: _Users) -> float:
    return float(_coordinates(first, second).max())


def _mean_coordinate(first: _Users, second: _Users) -> float:
    return float(_coordinates(first, second).mean())


def _neighbour(users: _Users, others: _Users) -> float:
    """Median distance to the nearest of the others, over the root of the number of coordinates; equal rows left out."""
    few = users.parameters[:NEIGHBOURS]
    squares = ((few[:, None, :] - others.parameters[None, :, :]) ** 2).mean(axis=2)
    squares[squares == 0] = np.inf
    return float(np.sqrt(np.median(squares.min(axis=1))))


def _neighbours(first: _Users, second: _Users) -> float:
    """|Difference of the distances to the nearest log user: the drawn users' and the log's own|."""
    return abs(_neighbour(second, first) - _neighbour(first, first))


def _trait(trait: Trait) -> tuple[str, _Summary, _Distance]:
    column = int(trait) - len(Trait)

    def mean(users: _Users) -> float:
        return float(users.parameters[:, column].mean())

    def distance(first: _Users, second: _Users) -> float:
        return float(wasserstein_distance(first.parameters[:, column], second.parameters[:, column]))

    return f"trait {trait.name.lower()}", mean, distance


def _of(name: str, values: str) -> tuple[str, _Summary, _Distance]:
    """A quantity that each user has one value of: means, and the Wasserstein distance."""

    def mean(users: _Users) -> float:
        return float(getattr(users, values).mean())

    def distance(first: _Users, second: _Users) -> float:
        return float(wasserstein_distance(getattr(first, values), getattr(second, values)))

    return name, mean, distance


def _popularity(users: _Users) -> float:
    return gini(users.counts)


def _popularity_distance(first: _Users, second: _Users) -> float:
    return abs(gini(first.counts) - gini(second.counts))


def _items_distance(first: _Users, second: _Users) -> float:
    """Jensen-Shannon distance (base 2, root of the divergence) of the consumption of items."""
    return float(jensenshannon(first.counts, second.counts, base=2))


def _categories_distance(first: _Users, second: _Users) -> float:
    """The same of categories."""
    categories = first.log.catalogue.categories
    return float(jensenshannon(first.counts @ categories, second.counts @ categories, base=2))


_QUANTITIES: tuple[tuple[str, _Summary | None, _Distance], ...] = (
    ("parameters, means", None, _means),
    ("parameters, spreads", None, _spreads),
    ("parameters, covariances", None, _covariances),
    ("parameters, mean coordinate", None, _mean_coordinate),
    ("parameters, worst coordinate", None, _worst_coordinate),
    ("parameters, nearest log user", None, _neighbours),
    *(_trait(trait) for trait in Trait),
    _of("history, log items", "length"),
    _of("history, log visits", "visits"),
    _of("history, category entropy", "entropy"),
    ("history, Gini of popularity", _popularity, _popularity_distance),
    ("history, items", None, _items_distance),
    ("history, categories", None, _categories_distance),
)
"""Name, what both are shown by (None where there is no such number), and distance."""
