"""How served models decay: what a pipeline that nobody refreshes is worth, day by day since it was trained.

Figures come from the simulator's side of traffic, where what users want is known; none of it reaches a policy.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit, logsumexp
from sklearn.linear_model import LogisticRegression

from agents.updates.intervals import CONFIDENCE, Measured, mean_interval
from agents.updates.market import known_log
from agents.updates.metrics import calibration_error
from agents.updates.models import ServedModels
from agents.updates.traffic import Beginnings, Day, PipelineConfig, Served, Traffic, pipeline_of
from envs.catalogue import SECONDS_PER_DAY
from envs.engine import utilities
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.scenarios import TrafficScenario
from envs.users.protocol import age_effect, position_logits
from envs.world import World
from envs.worlds import made

EARLY, LATE = (1, 7), (24, 30)
"""Days since training whose engagement `decay_30_days` compares, first and last; both are whole weeks."""
SEEDS = 5
"""Worlds from which on an interval is taken over them."""
METRICS = ("engagement", "recall_100", "ndcg_10", "calibration_error")
"""Columns of a curve; 100 and 10 are the default numbers of candidates and slots."""
CHUNK = 256
"""Users whose utilities of the whole catalogue are computed at once."""
MakeModels = Callable[[InteractionLog], ServedModels]


class Judge:
    """Adds up, request by request, what a pipeline's answers are worth to users; an `Audit` of `Traffic.serve`.

    All are expected values under the user model given what was shown, so they hold no noise of single choices:

    - engagement: the chance of a click;
    - recall: the chance that the item which the user would take, were the whole catalogue laid out, is a candidate;
    - ndcg: 1 / log2(slot + 1), slots from 1, of that item if it is in the slate, else 0 (Järvelin and Kekäläinen 2002, eq. 4, where
      one item is relevant).
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._user: list[NDArray[np.int64]] = []
        self._worth: list[NDArray[np.float64]] = []

    def __call__(self, served: Served) -> None:
        """Takes in V requests."""
        world, model, users, slates = self.world, self.world.user_model, served.users, served.slates
        preference = world.preference(users)
        placed = utilities(model, preference, slates, self._ages(users.clock, slates)).astype(np.float64)
        placed += position_logits(slates.shape[1], model.choice.position_slope)
        candidates = served.observation.candidates
        offered = np.where(candidates.mask == 1, candidates.items, -1)
        discount = 1 / np.log2(np.arange(slates.shape[1]) + 2)
        worth = np.empty((len(users), 3))
        worth[:, 0] = expit(logsumexp(placed, axis=1) - world.outside)
        for start in range(0, len(users), CHUNK):
            rows = slice(start, start + CHUNK)
            chance = self._wanted(preference[rows], users.clock[rows], served.excluded[rows])
            worth[rows, 1] = _at(chance, offered[rows]).sum(axis=1)
            worth[rows, 2] = _at(chance, slates[rows]) @ discount
        self._user.append(users.user.copy())
        self._worth.append(worth)

    def visits(self) -> pl.DataFrame:
        """One row for each user seen since the last call: user, engagement (clicks expected), recall_100 and ndcg_10 (means of its
        requests)."""
        columns = {"user": np.concatenate(self._user or [np.zeros(0, np.int64)])}
        worth = np.concatenate(self._worth or [np.zeros((0, 3))])
        columns |= dict(zip(METRICS, worth.T, strict=False))
        self._user, self._worth = [], []
        table = pl.DataFrame(columns)
        return table.group_by("user", maintain_order=True).agg(
            pl.col("engagement").sum(), pl.col("recall_100").mean(), pl.col("ndcg_10").mean()
        )

    def _wanted(
        self, preference: NDArray[np.float32], clock: NDArray[np.float64], excluded: NDArray[np.uint8]
    ) -> NDArray[np.float64]:
        """[V, I] chance of each item to be the one that a user would take from all that may be offered to it."""
        world, model = self.world, self.world.user_model
        utility = preference @ model.item_vectors.T + model.item_bias
        utility += age_effect(model.age_values, self._ages(clock, np.arange(world.num_items)[None, :]))
        closed = np.unpackbits(excluded, axis=1, bitorder="little", count=world.num_items) == 1
        utility[closed] = -np.inf
        best = utility.max(axis=1, keepdims=True)
        weight = np.exp((utility - np.where(np.isfinite(best), best, 0)).astype(np.float64))
        return weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-300)

    def _ages(self, clock: NDArray[np.float64], items: NDArray[Any]) -> NDArray[np.float32]:
        """[V, n] ages in days of `items` [V, n] or [1, n] at `clock` [V]."""
        born = self.world.birth_clock[np.maximum(items, 0)]
        return np.maximum((clock[:, None] - born) / SECONDS_PER_DAY, 0).astype(np.float32)


def _at(chance: NDArray[np.float64], items: NDArray[np.int32]) -> NDArray[np.float64]:
    """[V, n] of `chance` [V, I] at `items` [V, n], 0 for items of -1."""
    return np.take_along_axis(chance, np.maximum(items, 0), axis=1) * (items >= 0)


@dataclass(frozen=True)
class Decay:
    """What became of pipelines that nobody refreshed."""

    curves: pl.DataFrame
    """One row for each seed and day: seed, day (since training, from 1), visits, engagement (clicks expected in a visit), clicks
    (made in a visit), recall_100, ndcg_10, calibration_error (of the slots shown, by scores made probabilities on day 1)."""
    losses: pl.DataFrame
    """One row for each seed: seed, loss (of engagement, days `LATE` against `EARLY`, over that of `EARLY`) and error (its standard
    error over users, paired on those who came in both)."""

    def loss(self) -> tuple[float, float, float]:
        """(loss, low, high): the mean over seeds with its 95 % interval. From `SEEDS` seeds on it is a t interval over them, which
        holds the spread of worlds and of users; with fewer it is one over the users of these worlds. NaN where a run was too
        short."""
        loss, error = self.losses["loss"].to_numpy(), self.losses["error"].to_numpy()
        if len(loss) >= SEEDS:
            margin = stats.t.ppf((1 + CONFIDENCE) / 2, len(loss) - 1) * stats.sem(loss)
        else:
            margin = stats.norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt((error**2).sum()) / len(loss)
        return float(loss.mean()), float(loss.mean() - margin), float(loss.mean() + margin)

    def figures(self, name: str) -> dict[str, float]:
        """`decay_30_days_<name>`, with `_low` and `_high`."""
        return {
            f"decay_30_days_{name}{end}": value for end, value in zip(("", "_low", "_high"), self.loss(), strict=True)
        }

    def summary(self) -> pl.DataFrame:
        """One row for each day and metric: day, metric, value (mean over seeds), and the ends of its 95 % t interval over seeds,
        low and high (null with one seed): what a plot of the curves needs."""
        rows = []
        for day, table in self.curves.group_by("day", maintain_order=True):
            for metric in METRICS:
                values = table[metric].drop_nans().to_numpy()
                value, low, high = mean_interval(values) if len(values) else (None, None, None)
                rows.append({"day": day[0], "metric": metric, "value": value, "low": low, "high": high})
        numbers = {"low": pl.Float64, "high": pl.Float64, "value": pl.Float64}
        return pl.DataFrame(rows, schema_overrides=numbers).sort("metric", "day", maintain_order=True)


def measure_decay(
    scenarios: Sequence[TrafficScenario],
    models: MakeModels,
    *,
    seeds: Sequence[int] | None = None,
    days: Sequence[int] = range(1, LATE[1] + 1),
    pipeline: PipelineConfig | None = None,
    report: Callable[[int], None] = lambda days: None,
) -> Decay:
    """Trains models once, on what is known when a world begins (`agents.updates.market.known_log`), and serves with them day after
    day. With the models of a market's config these are the ones that the market's episodes begin with.

    Args:
        scenarios: the same one with several seeds; each is a world of its own, with users, shocks and births of its own.
        models: makes what serves, fitted to the log that it is given; called once a world.
        seeds: of each world's traffic: visitors, walks and choices; by default their places. Worlds that are measured one by one
            and then compared must be given other ones each, or the same draws meet them.
        days: since training, from 1, on which there is traffic, in order.
        pipeline: how requests are served; by default as it comes, without slots for young items where no item is born.
        report: is told the number of days served so far.

    Raises:
        ConfigurationError: if there is no scenario, or seeds are not one for each.
    """
    if not scenarios:
        raise ConfigurationError("decay is measured in at least one world; give a scenario with one seed or more.")
    seeds = range(len(scenarios)) if seeds is None else seeds
    if len(seeds) != len(scenarios):
        raise ConfigurationError(f"there are {len(seeds)} seeds of traffic for {len(scenarios)} worlds; give one each.")
    curves, losses = [], []
    for number, (scenario, seed) in enumerate(zip(scenarios, seeds, strict=True)):
        world = made(scenario)
        rows, visits = [], []
        for place, (day, table, row) in enumerate(
            _days(world, scenario, models, pipeline or pipeline_of(world), seed, days)
        ):
            visits.append(table.with_columns(pl.lit(day).alias("day")))
            rows.append({"seed": seed, "day": day} | row)
            report(number * len(days) + place + 1)
        curves.append(pl.DataFrame(rows))
        losses.append({"seed": seed} | dict(zip(("loss", "error"), _loss(pl.concat(visits)), strict=True)))
    return Decay(pl.concat(curves), pl.DataFrame(losses))


def _days(
    world: World,
    scenario: TrafficScenario,
    models: MakeModels,
    pipeline: PipelineConfig,
    seed: int,
    days: Sequence[int],
) -> Iterator[tuple[int, pl.DataFrame, dict[str, float]]]:
    """Yields (day since training, a row for each visit, the day's figures)."""
    plan, users = scenario.traffic, world.simulated_users
    beginnings = Beginnings(world, users, pipeline.history_size)
    served = models(known_log(world, users, plan, beginnings))
    traffic = Traffic(world, users, pipeline, plan.requests_per_visit, seed, plan, beginnings)
    judge = Judge(world)
    calibrated: LogisticRegression | None = None
    for day in days:
        periods = range((day - 1) * plan.periods_per_day, day * plan.periods_per_day)
        parts = [traffic.serve(period, traffic.due_visits(period), served, judge) for period in periods]
        clicked, scores = _slots(parts)
        if calibrated is None and 0 < clicked.sum() < len(clicked):
            calibrated = LogisticRegression(C=np.inf).fit(scores[:, None], clicked)
        error = np.nan
        if calibrated is not None and len(clicked):
            error = calibration_error(clicked, calibrated.predict_proba(scores[:, None])[:, 1])
        table, visits = judge.visits(), sum(part.visits for part in parts)
        mean = {name: float(table[name].to_numpy().mean()) if len(table) else np.nan for name in METRICS[:3]}
        clicks = sum(part.clicks for part in parts) / visits if visits else np.nan
        yield day, table, {"visits": visits, "clicks": clicks} | mean | {"calibration_error": error}


def _slots(parts: Sequence[Day]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """(whether each slot shown was clicked [n], its score [n])."""
    clicked, scores = zip(*(part.slots for part in parts), strict=True)
    return np.concatenate(clicked), np.concatenate(scores)


def _loss(visits: pl.DataFrame) -> tuple[float, float]:
    """(relative loss of engagement, its standard error over users: linearised ratios of sums by user; Cochran 1977, Sampling
    techniques, section 6.3); NaN where a window has no visits."""
    _, user = np.unique(visits["user"].to_numpy(), return_inverse=True)
    day, engagement = visits["day"].to_numpy(), visits["engagement"].to_numpy()
    inside = [(day >= first) & (day <= last) for first, last in (EARLY, LATE)]
    if not all(window.any() for window in inside):
        return float("nan"), float("nan")
    early, late = (
        Measured.ratio(np.bincount(user, engagement * window), np.bincount(user, window)) for window in inside
    )
    loss = (early - late) / early
    users = loss.influence.size
    return loss.value, float(loss.influence.std(ddof=1) / np.sqrt(users)) if users > 1 else float("nan")
