"""An episode of a market: period after period an update action is carried out, traffic is served, and monitoring tells of it."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from agents.events import Arrivals, EventStore, Stream
from agents.events.facts import Items
from agents.events.samples import with_predictions
from agents.events.statistics import STATISTICS, StatisticsConfig, daily_statistics
from agents.updates.costs import Cost
from agents.updates.gate import Gate, SharedTraffic
from agents.updates.market import Market
from agents.updates.models import PARTS, Part, ServedModels, joined, last_days
from agents.updates.monitoring import ACTION_CHOICES, TREND_DAYS, Monitoring, Reference, UpdateAction
from agents.updates.registry import ModelRegistry
from agents.updates.traffic import Day, Trial
from envs.catalogue import SECONDS_PER_DAY
from envs.engine import REQUEST_SECONDS
from envs.errors import ConfigurationError
from envs.event_log import EventLog
from envs.logs.schema import InteractionLog

KEPT_VERSIONS = 3
"""Newest versions whose models an episode keeps, besides the one that serves and the one before it."""


@dataclass(frozen=True)
class _Learnt:
    """Periods before which everything known was learnt from by what serves."""

    recall: int = 0
    ranker: int = 0
    retrain: int = 0
    """By the last full retrain."""
    renewed: int = 0
    """When that retrain went live."""

    @property
    def by(self) -> Mapping[Part, int]:
        return {"recall": self.recall, "ranker": self.ranker}


@dataclass(frozen=True)
class _Challenger:
    """Models that do not serve yet."""

    models: ServedModels
    cost: Cost
    period: int
    """Before which they were trained."""


@dataclass(frozen=True)
class _Change:
    """What an action came to."""

    cost: Cost = field(default_factory=Cost)
    gate: str | None = None
    """Why the gate decided as it did; None where it was not asked."""
    promoted: bool = False


class Episode:
    """The state of a market from its first period on; `driftrec/ModelUpdate-v0` and its vector are faces of it.

    Every episode begins with the same models, fitted to the policy's log. The seed decides who visits, their choices and how
    their interests wander; the world decides what is born when.

    Every request is appended to an event log (`agents.events`), period by period as traffic recorded them. All that models learn
    from is read back from there, when it is known. Each slot has a `prediction` there, the chance of a click by the
    map of scores to chances (`Reference`) of the version that serves, or as long as it has none, of the last that served before it
    and has one; NaN before the first, and for slots of a challenger on trial.

    Args:
        market: what episodes share.
        seed: see above.
        events: where the event log is kept: a folder that has none yet, a stream of one's own, or None for memory. Of a store or a
            folder all days are closed when the episode is over.
        registry: where versions of the models are kept: a folder that has none yet, or None for memory.

    Raises:
        ConfigurationError: if a folder has events or versions already.
    """

    def __init__(
        self, market: Market, seed: int, events: Path | Stream | None = None, registry: Path | None = None
    ) -> None:
        self.market, self.seed = market, seed
        self.traffic = market.traffic(seed)
        self.events = event_store(market, events) if events is None or isinstance(events, Path) else events
        """The event log."""
        self._arrivals = Arrivals(self.events.consumer("models"), 3_600 * market.plan.event_delay)
        self.registry = ModelRegistry(registry, keep=KEPT_VERSIONS)
        """Every version that served, and a record of every challenger that the gate refused."""
        if self.registry.versions():
            raise ConfigurationError(
                f"'{registry}' has versions of models already; give each episode a folder of its own."
            )
        self.gate = Gate(market.config.gate)
        self.models = ServedModels.of(market.first)
        """What serves."""
        self.period = 0
        """The coming one."""
        self.history: list[Day] = []
        """Past periods, with the event log of each."""
        self.update_seconds = self.serve_seconds = 0.0
        """Measured time of the last step's training and traffic."""
        self.spent = 0
        """Work of all trainings."""
        self._challenger: _Challenger | None = None
        self._retrains = self._changes = 0
        self._learnt_by: dict[int, _Learnt] = {}
        self._references: dict[int, Reference] = {}
        self._trained_at: dict[str, float] = {}
        """Name of models in the event log -> clock of the newest event that they have learnt from."""
        # what became known before each period
        self._known: list[EventLog] = []
        self._clicks: list[int] = []
        self._logs: dict[int, InteractionLog] = {}
        self._go_live("fit", market.first_cost, _Learnt())

    # ------------------------------------------------------------------ what is known
    @property
    def is_over(self) -> bool:
        """Whether all periods have been served."""
        return self.period >= self.market.periods

    @property
    def version(self) -> int:
        """Number in the registry of what serves."""
        return self.registry.served[-1]

    @property
    def budget_left(self) -> float:
        """Share in [0, 1]."""
        return max(1 - self.spent / self.market.budget, 0.0) if self.market.budget > 0 else 0.0

    @property
    def can_roll_back(self) -> bool:
        """Whether a version that served before is still kept."""
        served = self.registry.served
        kept = {version.number for version in self.registry.versions() if version.is_kept}
        return any(number != served[-1] and number in kept for number in served)

    @property
    def action_mask(self) -> NDArray[np.int8]:
        """[A] 1 for actions that can be carried out now, see `UpdateAction`."""
        learnt, can_train = self._learnt, self.budget_left > 0
        recall, ranker = (can_train and self._has_new(part) for part in PARTS)
        retrain = can_train and self._clicks_since(learnt.retrain) > 0 and self._window_has_clicks
        mask = np.zeros(len(UpdateAction), np.int8)
        mask[UpdateAction.KEEP] = 1
        mask[UpdateAction.UPDATE_RECALL], mask[UpdateAction.UPDATE_RANKER] = recall, ranker
        mask[UpdateAction.UPDATE_BOTH] = recall or ranker
        mask[UpdateAction.ROLL_BACK] = self.can_roll_back
        mask[UpdateAction.CHALLENGER] = retrain if self._challenger is None else self._can_judge(self._challenger)
        mask[UpdateAction.FULL_RETRAIN] = retrain
        return mask

    @property
    def monitoring(self) -> Monitoring:
        """What is known now, in natural units."""
        busy = [place for place, day in enumerate(self.history) if day.visits]
        last = self.history[busy[-1]] if busy else None
        engagement, trend, error, shift = last.engagement if last else 0.0, 0.0, 0.0, 0.0
        if last is not None:
            first = busy[-1] - TREND_DAYS * self.market.plan.periods_per_day
            earlier = [self.history[place] for place in busy[:-1] if place >= first]
            if earlier:
                trend = engagement - sum(day.clicks for day in earlier) / sum(day.visits for day in earlier)
        reference = self._references.get(self.version)
        # a challenger on trial may have served everybody who came in a short period
        shown = next((day.slots for day in reversed(self.history) if len(day.slots[0])), None)
        if reference is not None and shown is not None:
            error, shift = reference.calibration_error(*shown), reference.shift(shown[1])
        learnt = self._learnt
        day, part = divmod(self.period, self.market.plan.periods_per_day)
        weekday = 2 * np.pi * ((self.market.world.reference_weekday + day) % 7) / 7
        hour = 2 * np.pi * part / self.market.plan.periods_per_day
        ranker = learnt.recall if self.models.ranker is None else learnt.ranker
        return Monitoring(
            engagement=engagement,
            engagement_trend=trend,
            calibration_error=error,
            score_shift=shift,
            unseen_share=last.unseen_share if last else 0.0,
            recall_age=self._days_since(learnt.recall),
            ranker_age=self._days_since(ranker),
            retrain_age=self._days_since(learnt.renewed),
            clicks_since_training=self._clicks_since(max(learnt.recall, ranker)),
            budget_left=self.budget_left,
            can_roll_back=float(self.can_roll_back),
            challenger_age=-1.0 if self._challenger is None else self._days_since(self._challenger.period),
            weekday_sin=float(np.sin(weekday)),
            weekday_cos=float(np.cos(weekday)),
            hour_sin=float(np.sin(hour)),
            hour_cos=float(np.cos(hour)),
            episode_share=self.period / self.market.periods,
        )

    def statistics(self) -> pa.Table:
        """What monitoring shows of the event log's closed days, all of them once the episode is over: a row of
        `agents.events.statistics.STATISTICS` for each day and version.

        Raises:
            ConfigurationError: if the events went to a stream that keeps no days.
        """
        if not isinstance(self.events, EventStore):
            raise ConfigurationError(
                "the events went to a stream that keeps no days; make statistics where it keeps them."
            )
        world = self.market.world
        items = Items.of(world.policy_log.catalogue, world.reference_time)
        config = StatisticsConfig(fresh_days=world.config.fresh_days)
        days = [
            daily_statistics(self.events, day, items, config, trained_at=self._trained_at)
            for day in self.events.partitions()
        ]
        return pa.concat_tables(days) if days else STATISTICS.empty_table()

    # ------------------------------------------------------------------ a step
    def step(self, action: UpdateAction) -> tuple[float, dict[str, Any]]:
        """(reward, info): carries out the action, where it can be, then serves the period."""
        start = perf_counter()
        taken = action if self.action_mask[action] else UpdateAction.KEEP
        change = self._carry_out(taken)
        self.spent += change.cost.work
        updated = perf_counter()
        plan, day = self.market.plan, self._serve()
        self.update_seconds, self.serve_seconds = updated - start, perf_counter() - updated
        # whatever the length of a period, the mean over a day's periods is the day's: a period counts as its share of the day's
        # visits, and prices are by day
        weight = day.visits * plan.periods_per_day / max(self.traffic.visits_today, 1)
        engagement, diversity, freshness = (weight * each for each in (day.engagement, day.diversity, day.freshness))
        cost = self.market.config.prices.of(change.cost) * plan.periods_per_day
        vector = np.array([engagement, diversity, freshness, 0.0 - cost])
        info = {
            "day": (self.period - 1) // plan.periods_per_day,
            "engagement": engagement,
            "diversity": diversity,
            "freshness": freshness,
            "cost": cost,
            "vector": vector,
            "visits": day.visits,
            "requests": day.requests,
            "clicks": day.clicks,
            "unseen_share": day.unseen_share,
            "action": int(action),
            "action_taken": int(taken),
            "rejected": taken != action,
            "trained_samples": change.cost.samples,
            "work": change.cost.work,
            "gate": change.gate,
            "promoted": change.promoted,
        }
        return float(np.dot(self.market.config.weights, vector)), info | self.state()

    def state(self) -> dict[str, Any]:
        """What an info tells of the present: budget_left, model_version and action_mask."""
        return {
            "budget_left": self.budget_left,
            "model_version": self.version,
            "action_mask": self.action_mask,
        }

    def _serve(self) -> Day:
        """Serves the coming period, and takes in which events are known at its end."""
        seconds = SECONDS_PER_DAY / self.market.plan.periods_per_day
        share, trial = self.market.config.challenger_share, None
        if share and self._challenger is not None:
            trial = Trial(self._challenger.models, share)
        due = self.traffic.due_visits(self.period)
        day = self.traffic.serve(self.period, due, self.models, trial=trial)
        self.history.append(day)
        maps = (self._references.get(version) for version in reversed(self.registry.served))
        known_map = next((each for each in maps if each is not None), None)
        told = np.full(day.scores.shape, np.nan) if known_map is None else known_map.chance(day.scores)
        self.events.append(with_predictions(day.events, told))
        if self.version not in self._references:
            made = Reference.of(*day.slots)
            if made is not None:
                self._references[self.version] = made
        self.period += 1
        known = self._arrivals.by(self.period * seconds)
        self._known.append(known)
        self._clicks.append(known.clicks)
        if self.is_over and isinstance(self.events, EventStore):
            # the last visits may go on after the last midnight
            self.events.close_days(self.market.config.days + 1)
        return day

    # ------------------------------------------------------------------ actions
    def _carry_out(self, action: UpdateAction) -> _Change:
        if action == UpdateAction.ROLL_BACK:
            self.models = self.registry.load(self.registry.roll_back().number)
            return _Change()
        if action == UpdateAction.CHALLENGER:
            return self._challenge() if self._challenger is None else self._judge(self._challenger)
        if action == UpdateAction.FULL_RETRAIN:
            return self._retrain()
        updated: dict[UpdateAction, tuple[Part, ...]] = {
            UpdateAction.UPDATE_RECALL: ("recall",),
            UpdateAction.UPDATE_RANKER: ("ranker",),
            UpdateAction.UPDATE_BOTH: PARTS,
        }
        parts = [part for part in updated.get(action, ()) if self._has_new(part)]
        return self._update(parts) if parts else _Change()

    def _update(self, parts: list[Part]) -> _Change:
        learnt, cost = self._learnt, Cost()
        learn = {"recall": self.models.update_recall, "ranker": self.models.update_ranker}
        for part in parts:
            cost += learn[part](joined(self._new_logs(learnt.by[part])))
        learnt = replace(learnt, **dict.fromkeys(parts, self.period))
        self._go_live(f"update {' and '.join(parts)}", cost, learnt, parents=(self.version,))
        return _Change(cost)

    def _retrain(self) -> _Change:
        self.models, cost = self.market.trained(self._training_log())
        self._retrains += 1
        self._challenger = None
        self._go_live("full retrain", cost, _Learnt(self.period, self.period, self.period, self.period))
        return _Change(cost)

    def _challenge(self) -> _Change:
        models, cost = self.market.trained(self._training_log())
        models.version = f"challenger {self.period}"
        self._note_training(models)
        self._challenger = _Challenger(models, cost, self.period)
        return _Change(cost)

    def _judge(self, challenger: _Challenger) -> _Change:
        market, since = self.market, challenger.period
        past = joined([market.log, *(self._log_of(place) for place in range(since))]).consumed()
        events = EventLog.joined(self._known[since:])
        log = events.to_log(market.world.policy_log, market.world.reference_time)
        traffic = _shared(events, challenger.models.version) if market.config.challenger_share else None
        decision = self.gate.judge(self.models, challenger.models, past, log, traffic)
        self._challenger = None
        if decision.promote:
            self.models = challenger.models
            self._retrains += 1
            learnt = _Learnt(since, since, since, self.period)
            self._go_live("challenger", challenger.cost, learnt, decision.figures())
        else:
            self.registry.add(
                challenger.models,
                made_by="challenger, refused",
                parents=(),
                metrics=decision.figures(),
                cost=challenger.cost,
                is_kept=False,
            )
        return _Change(gate=decision.reason, promoted=decision.promote)

    def _go_live(
        self,
        made_by: str,
        cost: Cost,
        learnt: _Learnt,
        metrics: Mapping[str, float] | None = None,
        parents: tuple[int, ...] = (),
    ) -> None:
        """Keeps the models as a new version that serves from now on; without parents where it was made from data alone."""
        self.models.version = f"{self._retrains}.{self._changes}"
        self._changes += 1
        self._note_training(self.models)
        version = self.registry.add(self.models, made_by=made_by, parents=parents, metrics=metrics, cost=cost)
        self.registry.promote(version.number)
        self._learnt_by[version.number] = learnt

    def _note_training(self, models: ServedModels) -> None:
        self._trained_at[models.version] = float(models.window.last - self.market.world.reference_time)

    # ------------------------------------------------------------------ events
    @property
    def _learnt(self) -> _Learnt:
        return self._learnt_by[self.version]

    def _has_new(self, part: Part) -> bool:
        """Whether clicks are known that `part` has not learnt from."""
        if part == "ranker" and self.models.ranker is None:
            return False
        return self._clicks_since(self._learnt.by[part]) > 0

    def _can_judge(self, challenger: _Challenger) -> bool:
        """Whether clicks are known that suffice for the gate; else the challenger waits."""
        logs = self._new_logs(challenger.period)
        return bool(logs) and self.gate.enough(self.models, challenger.models, joined(logs))

    def _clicks_since(self, period: int) -> int:
        return sum(self._clicks[period:])

    def _days_since(self, period: int) -> float:
        return (self.period - period) / self.market.plan.periods_per_day

    def _log_of(self, place: int) -> InteractionLog:
        """The clicks that became known in one period, each with the slate that it was made in."""
        if place not in self._logs:
            world = self.market.world
            self._logs[place] = self._known[place].clicked().to_log(world.policy_log, world.reference_time)
        return self._logs[place]

    def _new_logs(self, since: int) -> list[InteractionLog]:
        return [self._log_of(place) for place in range(since, self.period)]

    def _training_log(self) -> InteractionLog:
        """What a full retrain learns from."""
        log, days = joined([self.market.log, *self._new_logs(0)]), self.market.config.window_days
        return log if days is None else last_days(log, days, self._now)

    @property
    def _now(self) -> int:
        """Seconds since 1970 at which the coming period begins."""
        return self.market.world.reference_time + self.period * SECONDS_PER_DAY // self.market.plan.periods_per_day

    @property
    def _window_has_clicks(self) -> bool:
        """Whether a full retrain would find something to learn, given that clicks are known."""
        days = self.market.config.window_days
        if days is None:
            return True
        newest = max(place for place, clicks in enumerate(self._clicks) if clicks)
        return len(last_days(self._log_of(newest), days, self._now)) > 0


def _shared(events: EventLog, challenger: str) -> SharedTraffic | None:
    """What users did whom the challenger of that version served, and all others; None without events."""
    table = events.table
    if not len(table):
        return None
    _, user = np.unique(table["log_user"].to_numpy(), return_inverse=True)
    tried = np.array(table["policy_version"].to_pylist()) == challenger
    clicked = table["item"].to_numpy() >= 0

    def side(rows: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(clicks, requests) of each user in `rows`."""
        requests = np.bincount(user[rows], minlength=int(user.max()) + 1).astype(np.float64)
        clicks = np.bincount(user[rows], clicked[rows], len(requests)).astype(np.float64)
        return clicks[requests > 0], requests[requests > 0]

    return SharedTraffic(*side(~tried), *side(tried))


def event_store(market: Market, folder: Path | None = None) -> EventStore:
    """An event log for one episode of a market, in a folder or in memory.

    Raises:
        ConfigurationError: if the folder has events already.
    """
    # a period is recorded user by user, and its last visits may go on in the next one
    period = SECONDS_PER_DAY / market.plan.periods_per_day
    store = EventStore(folder, allowed_delay=period + market.plan.requests_per_visit * REQUEST_SECONDS)
    if len(store):
        raise ConfigurationError(f"'{folder}' has {len(store)} events already; give each episode a folder of its own.")
    return store


def habit_rewards(market: Market, seed: int, action: UpdateAction = UpdateAction.KEEP) -> NDArray[np.float64]:
    """[periods, 2] rewards and costs of the episode of `seed` where the same is done before every period: played once, remembered
    by the market."""
    if (seed, action) not in market.habits:
        episode = Episode(market, seed)
        steps = [episode.step(action) for _ in range(market.periods)]
        market.habits[seed, action] = np.array([(reward, info["cost"]) for reward, info in steps])
    return market.habits[seed, action]


def known_action(action: Any) -> UpdateAction:
    """The action of a number.

    Raises:
        ConfigurationError: if there is none; names those that there are.
    """
    try:
        # no rounding, no reading of text
        return UpdateAction(operator.index(action))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"the action is {action!r}; ModelUpdate-v0 takes {ACTION_CHOICES}.") from error
