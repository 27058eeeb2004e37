"""A market: a world, its traffic and the models that it begins with; what all episodes in it share, made once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from agents.updates.costs import Cost, Prices
from agents.updates.gate import GateConfig
from agents.updates.models import ServedModels, joined
from agents.updates.traffic import AWAY_DAYS, Beginnings, PipelineConfig, Traffic, pipeline_of
from envs.catalogue import SECONDS_PER_DAY
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.scenarios import TrafficPlan, TrafficScenario
from envs.world import World
from envs.worlds import made
from recall.embedding import EmbeddingConfig

KNOWN_ITEMS = 20
"""Last items that are known of each drawn user before the run (assumed; as many as rankers read)."""


@dataclass(frozen=True, kw_only=True)
class UpdateConfig:
    """Traffic, models, prices and budget of `driftrec/ModelUpdate-v0`."""

    days: int = 60
    """Length of an episode in days; items are born over the world's days."""
    visits_per_day: int = 2_000
    """Users who visit on a day (fewer where there are fewer users; each visits at most once a day). This and all else about traffic
    down to `period_hours` is said by the plan where a market is made from a scenario."""
    requests_per_visit: int = 1
    """Slates that a user is shown in a visit."""
    weekday_traffic: tuple[float, ...] = (1.0,) * 7
    """Factor of the visits on Monday, Tuesday, ..., Sunday."""
    event_delay: float = 0.0
    """Hours by which events reach the models late."""
    period_hours: int = 24
    """Length of a step, a divisor of 24."""
    prices: Prices = field(default_factory=Prices)
    """What training is charged."""
    budget_retrains: float | None = None
    """Budget of an episode, in the work of the first full training. A training is begun while any of it is left (so the last may
    overdraw it); after that actions that train count as keep. None: twice the days, or more where even that would not do for a
    full retrain a day if every request ended in a click."""
    window_days: float | None = None
    """Days before now whose events a full retrain learns from; None is all."""
    embedding: EmbeddingConfig = field(
        default_factory=lambda: EmbeddingConfig(
            dimension=16, iterations=4, update_passes=1, newcomer_share=0.0, exposure=True
        )
    )
    """How recall embeddings are learnt. The pipeline has a channel of its own for young items."""
    ranker: str | None = "logistic"
    """Name of the ranker, or "file.py:Class"; None serves by the embeddings' scores."""
    settings: Mapping[str, Any] | None = None
    """Of the ranker, see `ServedModels`."""
    most_rows: int = 10_000
    """Newest rows that the ranker learns from in a full retrain."""
    gate: GateConfig = field(default_factory=GateConfig)
    """What a challenger must show."""
    challenger_share: float = 0.0
    """Share of the users whom a challenger serves until it is judged, in [0, 1); the gate then judges clicks of both sides, too. A
    small share tells little of few visits, and what cannot be told is not promoted."""
    weights: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 1.0)
    """Of engagement, diversity, freshness and -cost in the reward."""
    pipeline: PipelineConfig | None = None
    """How a request is served; None: as it comes, without slots for young items where none is born."""
    model_seed: int = 0
    """Seed of the factorisation's start, and of the ranker."""

    def __post_init__(self) -> None:
        if self.days < 1:
            raise ConfigurationError(f"days is {self.days}; it must be at least 1.")
        if self.budget_retrains is not None and not 0 <= self.budget_retrains < np.inf:
            raise ConfigurationError(
                f"budget_retrains is {self.budget_retrains}; a budget must be a number and not below zero; a large one is as "
                "good as none."
            )
        if self.window_days is not None and not self.window_days > 0:
            raise ConfigurationError(f"window_days is {self.window_days}; a window must be longer than 0 days.")
        if not 0 <= self.challenger_share < 1:
            raise ConfigurationError(
                f"challenger_share is {self.challenger_share}; it must be at least 0 and less than 1."
            )
        if len(self.weights) != 4 or not np.isfinite(self.weights).all():
            raise ConfigurationError("weights must hold four numbers: of engagement, diversity, freshness and -cost.")
        _ = self.plan  # refuses what is out of range

    def models(self) -> ServedModels:
        """What serves, before it has learnt anything."""
        return ServedModels(
            self.embedding, self.model_seed, ranker=self.ranker, settings=self.settings, most_rows=self.most_rows
        )

    @property
    def plan(self) -> TrafficPlan:
        """Traffic where no scenario tells it."""
        return TrafficPlan(
            visits_per_day=self.visits_per_day,
            requests_per_visit=self.requests_per_visit,
            weekday_traffic=self.weekday_traffic,
            event_delay=self.event_delay,
            period_hours=self.period_hours,
        )


class Market:
    """What episodes share: the world, who comes, the policy's log, models fitted to it. Can be pickled.

    Args:
        world: users, log and births.
        config: see `UpdateConfig`.
        users: [M] users who may visit, by default all whom a run simulates; those who arrive during the run come from then on.
        plan: of the traffic, by default that of `config`.
        name: names it in tables.

    Raises:
        ConfigurationError: if an argument is out of its range, or the pipeline asks for more than the world has.
    """

    def __init__(
        self,
        world: World,
        config: UpdateConfig | None = None,
        users: NDArray[np.int64] | None = None,
        *,
        plan: TrafficPlan | None = None,
        name: str = "market",
    ) -> None:
        self.world, self.name = world, name
        self.config = config or UpdateConfig()
        self.plan = plan or self.config.plan
        self.users = world.simulated_users if users is None else np.asarray(users, np.int64)
        if not len(self.users) or self.users.min() < 0 or self.users.max() >= world.num_users:
            raise ConfigurationError(f"users must be indices from 0 to {world.num_users - 1}, at least one of them.")
        self.pipeline = self.config.pipeline or pipeline_of(world)
        if self.pipeline.num_candidates > world.num_items:
            raise ConfigurationError(
                f"num_candidates is {self.pipeline.num_candidates}, but the catalogue has {world.num_items} items; ask for fewer."
            )
        self.beginnings = Beginnings(world, self.users, self.pipeline.history_size)
        self.log: InteractionLog = known_log(world, self.users, self.plan, self.beginnings)
        """What the first models are fitted to: the policy's log, and what is known of the crowd."""
        models, self.first_cost = self.trained(self.log)
        self.first = models.snapshot()
        """Those models."""
        self.habits: dict[tuple[int, int], NDArray[np.float64]] = {}
        """Rewards and costs [periods, 2] of one action all along, by seed of the episode and action; see
        `agents.updates.episode.habit_rewards`."""

    @classmethod
    def of(cls, scenario: TrafficScenario, config: UpdateConfig | None = None) -> Self:
        """The market of a scenario: its world, its traffic and its users, also those who arrive during the run.

        Args:
            scenario: says visits, requests, delay and length of a period.
            config: says the rest; by default with as many days as the world has.
        """
        world = made(scenario)
        config = config or UpdateConfig(days=world.config.days)
        return cls(world, config, plan=scenario.traffic, name=scenario.name)

    @property
    def periods(self) -> int:
        """Steps of an episode."""
        return self.config.days * self.plan.periods_per_day

    @cached_property
    def budget(self) -> float:
        """Work that an episode may spend on training."""
        retrains = self.config.budget_retrains
        if retrains is None:
            due = self.traffic(0).due_visits
            visits = [due(day * self.plan.periods_per_day) for day in range(self.config.days)]
            before = np.cumsum([0, *visits[:-1]]) * self.plan.requests_per_visit
            retrains = max(2.0 * self.config.days, float((1 + before / len(self.log)).sum()))
        return retrains * self.first_cost.work

    def traffic(self, seed: int) -> Traffic:
        """The visits of one episode."""
        requests = self.plan.requests_per_visit
        return Traffic(self.world, self.users, self.pipeline, requests, seed, self.plan, self.beginnings)

    def trained(self, log: InteractionLog) -> tuple[ServedModels, Cost]:
        """Models fitted anew to the rows of `log`, and what that cost."""
        models = self.config.models()
        return models, models.refit(log)


def known_log(world: World, users: NDArray[np.int64], plan: TrafficPlan, beginnings: Beginnings) -> InteractionLog:
    """What is known when a world begins, and the first models are fitted to: what was consumed in the policy's log, and of users of
    whom it has no rows what they consumed last, up to `KNOWN_ITEMS` each, as a service knows it of its users; nothing of these
    where each comes for the first time.

    Args:
        world: where users start.
        users: [M] users who may visit.
        plan: says whether each comes for the first time.
        beginnings: of these users.
    """
    log = world.policy_log.consumed()
    strangers = np.flatnonzero(~world.keeps_history(users) & (world.start_day[users] <= 0))
    if plan.fresh_users or not len(strangers):
        return joined([log])
    _, items, days, _ = beginnings.of(strangers)
    # oldest first
    items, days = items[:, :KNOWN_ITEMS][:, ::-1], days[:, :KNOWN_ITEMS][:, ::-1]
    there = items >= 0
    seconds = np.floor((days.astype(np.float64)[there] - AWAY_DAYS) * SECONDS_PER_DAY).astype(np.int64)
    recent = InteractionLog.from_rows(
        name=log.name,
        users=log.users,
        catalogue=log.catalogue,
        user=np.repeat(users[strangers], there.sum(axis=1)).astype(np.int32),
        item=items[there],
        timestamp=world.reference_time + seconds,
    )
    return joined([log, recent])
