"""Periods of traffic: sampled users visit, are served by the pipeline, respond, and their interests move on.

The simulator's side of `driftrec/ModelUpdate-v0`. The pipeline is handed requests and public features only.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from agents.rerankers import rerank
from agents.updates.gate import challenged
from agents.updates.models import ServedModels
from envs import kernels
from envs.candidate_source import RecallRequest, tell_changes
from envs.catalogue import SECONDS_PER_DAY
from envs.compiled import over_rows
from envs.engine import REQUEST_SECONDS, Response, UserState, respond
from envs.errors import ConfigurationError
from envs.event_log import EventLog, matrix
from envs.measures import consumed_diversity
from envs.modifiers import ModifiedModel
from envs.observation import FIRST_CATEGORY, Candidates, Observation
from envs.randomness import Purpose, draw_bits, draw_normal, stream
from envs.request_kernels import describe_candidates
from envs.scenarios import TrafficPlan
from envs.world import World

AWAY_DAYS = 3.0
"""Days since their last visit that users have been away on day 0 (assumed; about the pause between visits later on)."""

MADE_TOGETHER = 2_048
"""Users, at least, whose beginnings are made at once, as long as there are so many: time goes by the longest history among them as
much as by their number."""

PLAIN_TRAFFIC = TrafficPlan()
"""A crowd that comes day by day, whose events are known at once."""


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """How a request is served."""

    slate_size: int = 10
    """K: slots of a slate."""
    num_candidates: int = 100
    """C: candidates that recall hands on."""
    history_size: int = 50
    """H: last consumed items from which a user is folded in."""
    relevance: float = 1.0
    """Weight of the models' score (standardised within the request) in the re-ranker."""
    diversity: float = 0.0
    """Weight of the distance to the items already in the slate."""
    freshness: float = 0.5
    """Weight of youth, exp(-age / 30 days)."""
    popularity: float = 0.0
    """Weight of log(1 + times consumed)."""
    explore_slots: int = 1
    """Last slots of a slate that are kept for young items, whatever their score: an item that no model has rows of
    stands at its categories' mean, hence behind the best, and would never be shown and never be learnt."""
    explore_days: float = 14.0
    """Age up to which an item is young."""
    explore_draws: int = 5
    """Young items drawn for each such slot; the one with the best MF score is shown."""

    def __post_init__(self) -> None:
        if not 0 <= self.explore_slots < self.slate_size <= self.num_candidates - self.explore_slots:
            raise ConfigurationError(
                f"explore_slots ({self.explore_slots}), slate_size ({self.slate_size}) and num_candidates "
                f"({self.num_candidates}) do not fit: some slots must be left for ranked items, and candidates for each."
            )
        if self.explore_draws < 1 or self.explore_days <= 0:
            raise ConfigurationError("explore_draws must be at least 1, and explore_days positive.")


@dataclass(frozen=True)
class Day:
    """What a day's traffic, or that of a shorter period, came to."""

    events: EventLog
    """Every request of the period."""
    visits: int
    requests: int
    clicks: int
    shown: int
    """Slots filled."""
    unseen: int
    """Slots filled with items that the models had no rows of."""
    scores: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """[requests, K] what the models' ranking gave each slot, in the order of `events`; NaN for an empty one, and for those that a
    challenger on trial filled."""
    diverse: float = 0.0
    """Sum over what was consumed of its distance (0 to 1) from what was consumed before (`envs.measures.consumed_diversity`)."""
    fresh: int = 0
    """Consumed items that were younger than the world's `fresh_days`."""

    @property
    def click_rate(self) -> float:
        """Clicks per request, 0 without traffic."""
        return self.clicks / max(self.requests, 1)

    @property
    def engagement(self) -> float:
        """Clicks per visit, 0 without traffic."""
        return self.clicks / max(self.visits, 1)

    @property
    def diversity(self) -> float:
        """Of consumption, per visit as engagement is; 0 without traffic."""
        return self.diverse / max(self.visits, 1)

    @property
    def freshness(self) -> float:
        """Young items consumed per visit, 0 without traffic."""
        return self.fresh / max(self.visits, 1)

    def with_trial(self, other: "Day") -> "Day":
        """This and what a challenger on trial served, whose scores are not told."""
        width = max(self.scores.shape[1], other.scores.shape[1])
        scores = np.full((self.requests + other.requests, width), np.nan, np.float32)
        scores[: self.requests, : self.scores.shape[1]] = self.scores
        return Day(
            EventLog.joined([self.events, other.events]),
            self.visits + other.visits,
            self.requests + other.requests,
            self.clicks + other.clicks,
            self.shown + other.shown,
            self.unseen + other.unseen,
            scores,
            self.diverse + other.diverse,
            self.fresh + other.fresh,
        )

    @cached_property
    def slots(self) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """(whether each slot shown was clicked [n], its score [n]), but for those of a challenger on trial."""
        if not self.requests:
            return np.zeros(0, bool), np.zeros(0)
        slates, slot = matrix(self.events.table, "slate"), self.events.table["slot"].to_numpy()
        there = np.isfinite(self.scores)
        return (np.arange(slates.shape[1]) == slot[:, None])[there], self.scores[there].astype(np.float64)

    @property
    def unseen_share(self) -> float:
        """Share of filled slots with an item that the models had no rows of, 0 without traffic."""
        return self.unseen / max(self.shown, 1)


@dataclass(frozen=True)
class Served:
    """V requests as they are answered, before users respond: what measurements on the simulator's side may look at."""

    users: UserState
    """Hidden."""
    observation: Observation
    """What the pipeline saw."""
    excluded: NDArray[np.uint8]
    """[V, ceil(I / 8)] bits of items that may not be offered."""
    slates: NDArray[np.int32]
    """[V, K] items shown, -1 for an empty slot."""


Audit = Callable[[Served], None]


@dataclass(frozen=True)
class Trial:
    """A challenger that serves some of the users, always the same ones, while it is judged."""

    models: ServedModels
    share: float
    """Of the users, see `agents.updates.gate.challenged`."""


def pipeline_of(world: World) -> PipelineConfig:
    """The pipeline as it comes; without slots for young items where none is born, since they would stay empty."""
    return PipelineConfig() if world.born_in_run.any() else PipelineConfig(explore_slots=0)


class Beginnings:
    """What users begin with: their hidden state, and what was seen of them before the run. Made when it is first asked for, with
    that of others who may come later, and kept, since the histories of drawn users take a while to make; several episodes may
    share it.

    Args:
        world: where users start.
        users: [M] users.
        history_size: H.
    """

    def __init__(self, world: World, users: NDArray[np.int64], history_size: int) -> None:
        self.world, self.users, self.history_size = world, users, history_size
        self._made = np.zeros(len(users), bool)
        self._state = world.room_for(users)
        self._history = np.zeros((len(users), history_size), np.int32)
        self._days = np.zeros((len(users), history_size), np.float32)
        self._seen = np.zeros((len(users), (world.num_items + 7) // 8), np.uint8)

    def of(
        self, rows: NDArray[np.int64]
    ) -> tuple[UserState, NDArray[np.int32], NDArray[np.float32], NDArray[np.uint8]]:
        """(state, history [N, H], its clock in days [N, H], bits of items seen) of the users at `rows` [N], as copies."""
        missing = rows[~self._made[rows]]
        if len(missing):
            self._make_writable()
            self._made[missing] = True
            later = np.flatnonzero(~self._made)[: max(MADE_TOGETHER - len(missing), 0)]
            missing = np.concatenate([missing, later])
            users = self.users[missing]
            self._state.put(missing, self.world.start_state(users, np.zeros_like(users)))
            self._history[missing], self._days[missing] = self.world.history(self.history_size, users)
            self._seen[missing] = self.world.seen(users)
            self._made[missing] = True
        return self._state.take(rows), self._history[rows], self._days[rows], self._seen[rows]

    def _make_writable(self) -> None:
        """Takes copies where Ray handed its shared memory on, which nobody may write to."""
        if not self._made.flags.writeable:
            self._state = self._state.take(np.arange(len(self.users)))
            self._made, self._history = self._made.copy(), self._history.copy()
            self._days, self._seen = self._days.copy(), self._seen.copy()


class Traffic:
    """Users of a world who visit period after period.

    A visit is `requests_per_visit` requests long, whatever is shown, so that all update policies meet the same visits;
    what makes users leave and return is the subject of the slate environment. Between visits interests decay and wander.

    Periods are days, or hours of the plan's length: a day's visitors are the same, and come in the period that has their usual
    second. Users who arrive during the run visit from the day of their arrival on.

    Args:
        world: where users start.
        users: [M] users who may visit; each visits at most once a day. Each was last there `AWAY_DAYS` before day 0, or before its
            only visit where users are fresh: just after its last row it would click far more than ever again.
        pipeline: how requests are served.
        requests_per_visit: length of a visit.
        seed: of everything random.
        plan: who comes how often, and when events are known; `requests_per_visit` counts, not the plan's.
        beginnings: of the same world, users and size of histories, shared with other episodes.
    """

    def __init__(
        self,
        world: World,
        users: NDArray[np.int64],
        pipeline: PipelineConfig,
        requests_per_visit: int,
        seed: int,
        plan: TrafficPlan = PLAIN_TRAFFIC,
        beginnings: Beginnings | None = None,
    ) -> None:
        self.world, self.pipeline, self.requests_per_visit, self.seed = world, pipeline, requests_per_visit, seed
        self.plan = plan
        self._beginnings = beginnings or Beginnings(world, users, pipeline.history_size)
        self._start_day = world.start_day[users]
        self._state = world.room_for(users)
        self._history = np.zeros((len(users), pipeline.history_size), np.int32)
        self._history_clock = np.zeros(self._history.shape)
        self._seen = np.zeros((len(users), (world.num_items + 7) // 8), np.uint8)
        self._begun = np.zeros(len(users), bool)
        if not plan.fresh_users:
            self._begin(np.flatnonzero(world.keeps_history(users)), 0)
        self._came = 0
        self._today: tuple[int, NDArray[np.int64]] = (-1, np.zeros(0, np.int64))

    def due_visits(self, period: int) -> int:
        """Visits that the plan has for the day of `period`."""
        day = period // self.plan.periods_per_day
        visits = self.plan.visits_per_day * self.plan.weekday_traffic[(self.world.reference_weekday + day) % 7]
        if self.plan.grows:
            visits *= (self._start_day <= day).sum() / max((self._start_day <= 0).sum(), 1)
        return round(visits)

    @property
    def visits_today(self) -> int:
        """Visits of the whole day to which the last period that was served belongs."""
        return len(self._today[1])

    def serve(
        self,
        period: int,
        num_visits: int,
        models: ServedModels,
        audit: Audit | None = None,
        trial: Trial | None = None,
    ) -> Day:
        """Lets `num_visits` users visit on the day of `period`, those of them whose hours are its, and serves them with `models`,
        but for those whom a challenger serves on trial.

        Raises:
            ConfigurationError: if users are fresh and there are none left.
        """
        day = period // self.plan.periods_per_day
        rows = self._visitors(period, num_visits)
        self._begin(rows[~self._begun[rows]], day)
        if trial is None:
            return self._serve(rows, day, models, audit)
        tried = challenged(self._state.user[rows], trial.share, self.seed)
        return self._serve(rows[~tried], day, models, audit).with_trial(
            self._serve(rows[tried], day, trial.models, audit)
        )

    def _serve(self, rows: NDArray[np.int64], day: int, models: ServedModels, audit: Audit | None) -> Day:
        """Serves the visits of the users at `rows`."""
        events = EventLog()
        if not len(rows):
            return Day(events, 0, 0, 0, 0, 0)
        visitors = self._arrive(rows, day)
        known, popularity = models.known, models.popularity
        tastes = models.recall.user_vectors(self._history[rows])
        clicks = shown = unseen = fresh = 0
        diverse = 0.0
        shown_scores = []
        for left in reversed(range(self.requests_per_visit)):
            observation = self._observe(rows, visitors, tastes, models)
            scores = models.rank(observation)
            slates, slot_scores = self._slates(observation, scores, popularity)
            if audit is not None:
                audit(Served(visitors, observation, self._excluded(rows, visitors), slates))
            response = self._respond(visitors, slates)
            self._record(events, visitors, observation, slates, response, models.version)
            worth = self._measure(rows, visitors, response)
            diverse, fresh = diverse + worth[0], fresh + worth[1]
            self._move_on(rows, visitors, response)
            clickers = np.flatnonzero(response.item >= 0)
            if left:
                # only who consumed something has another history, hence another vector, at the next request
                tastes[clickers] = models.recall.user_vectors(self._history[rows[clickers]])
            filled = slates >= 0
            clicks += int((response.item >= 0).sum())
            shown += int(filled.sum())
            unseen += int((filled & ~known[np.maximum(slates, 0)]).sum())
            shown_scores.append(slot_scores)
        visitors.visit += 1
        self._state.put(rows, visitors)
        requests = len(rows) * self.requests_per_visit
        scores = np.concatenate(shown_scores)
        return Day(events, len(rows), requests, clicks, shown, unseen, scores, diverse, fresh)

    def _visitors(self, period: int, num_visits: int) -> NDArray[np.int64]:
        """[V] rows of the users who visit, ascending."""
        day, part = divmod(period, self.plan.periods_per_day)
        if day != self._today[0]:
            self._today = day, self._visitors_of(day, num_visits)
        rows = self._today[1]
        if self.plan.periods_per_day == 1:
            return rows
        hour = self.world.start_second[self._state.log_user[rows]] // 3_600
        return rows[hour // self.plan.period_hours == part]

    def _visitors_of(self, day: int, num_visits: int) -> NDArray[np.int64]:
        """[V] rows of the day's visitors, ascending: those with the smallest draws of the day, or the next ones in the order of
        one draw for all days where users are fresh."""
        if self.plan.fresh_users:
            left = len(self._state) - self._came
            if num_visits > left:
                raise ConfigurationError(
                    f"{num_visits} fresh users are to come on day {day}, but {left} are left of {len(self._state)}; draw more "
                    "users (drawn_users), or let fewer visit."
                )
            order = np.argsort(draw_bits(self.seed, Purpose.TRAFFIC, -1, self._state.user), kind="stable")
            self._came += num_visits
            return np.sort(order[self._came - num_visits : self._came])
        there = np.flatnonzero(self._start_day <= day)
        draws = draw_bits(self.seed, Purpose.TRAFFIC, day, self._state.user[there])
        return np.sort(there[np.argsort(draws, kind="stable")[:num_visits]])

    def _begin(self, rows: NDArray[np.int64], day: int) -> None:
        """Lets the users at `rows`, who were not there before, begin; those who arrive during the run have not been away."""
        if not len(rows):
            return
        state, self._history[rows], days, self._seen[rows] = self._beginnings.of(rows)
        away = AWAY_DAYS - (day if self.plan.fresh_users else 0)
        state.clock -= np.where(self._start_day[rows] > 0, 0, away) * SECONDS_PER_DAY
        self._history_clock[rows] = days.astype(np.float64) - away
        self._state.put(rows, state)
        self._begun[rows] = True

    def _arrive(self, rows: NDArray[np.int64], day: int) -> UserState:
        """The visitors at their usual second of `day`, interests decayed and wandered since their last visit."""
        state = self._state.take(rows)
        clock = day * SECONDS_PER_DAY + self.world.start_second[state.log_user]
        days = (np.maximum(clock - state.clock, 0) / SECONDS_PER_DAY).astype(np.float32)
        model = self.world.user_model
        coordinates = np.arange(model.walk_width)[None, :]
        walk = draw_normal(self.seed, Purpose.INTEREST_WALK, state.user[:, None], state.visit[:, None], coordinates)
        if isinstance(model, ModifiedModel):
            walk = model.wander(state.user, clock, days, walk)
        model.pause(state.interest, np.arange(len(state)), days, walk)
        state.clock = clock
        state.requests_in_visit[:] = state.consumed_in_visit[:] = state.misses[:] = 0
        return state

    def _observe(
        self, rows: NDArray[np.int64], visitors: UserState, tastes: NDArray[np.float32], models: ServedModels
    ) -> Observation:
        """The requests as the pipeline sees them; the last `explore_slots` candidates are young items, the others recalled."""
        world, config = self.world, self.pipeline
        history = self._history[rows]
        excluded = self._excluded(rows, visitors)
        tell_changes(models.recall, world.calendar, visitors.clock)
        key = np.stack([visitors.user, visitors.request], axis=1)
        request = RecallRequest(visitors.log_user, history, excluded, key)
        recalled, scores = models.recall.candidates(request, config.num_candidates - config.explore_slots)
        young, young_scores = self._young_items(request, visitors, recalled, tastes, models)
        items, scores = np.concatenate([recalled, young], axis=1), np.concatenate([scores, young_scores], axis=1)
        categories = world.policy_log.catalogue.categories
        mask = np.empty(items.shape, np.int8)
        features = np.empty((*items.shape, FIRST_CATEGORY + categories.shape[1]), np.float32)
        over_rows(
            describe_candidates,
            len(items),
            items,
            np.ascontiguousarray(scores, np.float32),
            excluded,
            visitors.clock,
            world.birth_clock,
            categories,
            mask,
            features,
            np.empty(len(items), np.int64),
        )
        since = np.where(history >= 0, visitors.clock[:, None] / SECONDS_PER_DAY - self._history_clock[rows], 0)
        context = (visitors.hour, self._weekday(visitors), visitors.requests_in_visit, visitors.day)
        return Observation(
            user=visitors.log_user,
            user_features=world.user_features[visitors.log_user],
            history=history,
            history_days=np.maximum(since, 0).astype(np.float32),
            context=np.column_stack(context).astype(np.float32),
            candidates=Candidates(items, mask, features),
        )

    def _excluded(self, rows: NDArray[np.int64], visitors: UserState) -> NDArray[np.uint8]:
        """[V, ceil(I / 8)] bits of what was consumed, or is not on offer."""
        return self._seen[rows] | self.world.calendar.closed(visitors.clock)

    def _young_items(
        self,
        request: RecallRequest,
        visitors: UserState,
        recalled: NDArray[np.int32],
        tastes: NDArray[np.float32],
        models: ServedModels,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(items [V, E], MF scores [V, E]) to explore: of those drawn among the young ones that were not recalled, the best."""
        config, birth = self.pipeline, self.world.birth_clock
        shape = (len(request), config.explore_slots)
        age = (visitors.clock.max() - birth) / SECONDS_PER_DAY
        young = (age >= 0) & (age < config.explore_days) & self.world.calendar.open_to_some(visitors.clock)
        if not young.any() or not config.explore_slots:
            return np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
        drawn = np.empty((len(request), config.explore_slots * config.explore_draws), np.int32)
        over_rows(
            kernels.sample_items,
            len(request),
            stream(self.seed, Purpose.AGENT),
            visitors.user,
            visitors.request,
            np.flatnonzero(young).astype(np.int32),
            request.excluded,
            recalled,
            drawn,
        )
        vectors = models.recall.item_vectors_[np.maximum(drawn, 0)]
        relevance = np.matmul(vectors, tastes[:, :, None])[:, :, 0]
        worth = np.where(drawn >= 0, relevance, -np.inf)
        best = np.argsort(-worth, axis=1, kind="stable")[:, : config.explore_slots]
        items, scores = np.take_along_axis(drawn, best, 1), np.take_along_axis(relevance, best, 1)
        return items, np.where(items >= 0, scores, 0)

    def _slates(
        self, observation: Observation, scores: NDArray[np.float32], popularity: NDArray[np.float32]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(items shown [V, K], -1 for an empty slot; scores of these, NaN there): the re-ranker's choice of what was recalled, by
        `scores` [V, C], then young items."""
        config = self.pipeline
        weights = np.array([config.relevance, config.diversity, config.freshness, config.popularity], np.float32)
        candidates = observation.candidates
        recalled = slice(0, config.num_candidates - config.explore_slots)
        mask = candidates.mask[:, recalled]
        # the re-ranker looks at categories for diversity alone
        width = candidates.features.shape[2] if config.diversity else FIRST_CATEGORY
        features = candidates.features[:, recalled, :width].copy()
        features[:, :, 0] = np.where(mask == 1, scores[:, recalled], 0)
        ranked = Candidates(candidates.items[:, recalled], mask, features)
        chosen = rerank(
            replace(observation, candidates=ranked), weights, popularity, config.slate_size - config.explore_slots
        )
        explored = np.broadcast_to(np.arange(recalled.stop, config.num_candidates), (len(chosen), config.explore_slots))
        chosen = np.concatenate([chosen, explored], axis=1)
        there = np.take_along_axis(candidates.mask, chosen, axis=1) == 1
        items = np.where(there, np.take_along_axis(candidates.items, chosen, axis=1), -1).astype(np.int32)
        return items, np.where(there, np.take_along_axis(scores, chosen, axis=1), np.nan).astype(np.float32)

    def _respond(self, visitors: UserState, slates: NDArray[np.int32]) -> Response:
        world = self.world
        ages = self._age_days(visitors, slates)
        preference = world.preference(visitors)
        return respond(world.user_model, visitors, preference, slates, ages, world.outside, self.seed)

    def _measure(self, rows: NDArray[np.int64], visitors: UserState, response: Response) -> tuple[float, int]:
        """(sum of the diversity of what is consumed, number of young items consumed), before users move on."""
        clicked = response.item >= 0
        item, world = response.item[clicked], self.world
        history = self._history[rows[clicked]]
        diversity = consumed_diversity(world.policy_log.catalogue.directions, item, history)
        age = (visitors.clock[clicked] - world.birth_clock[item]) / SECONDS_PER_DAY
        return float(diversity.sum(dtype=np.float64)), int((age < world.config.fresh_days).sum())

    def _move_on(self, rows: NDArray[np.int64], visitors: UserState, response: Response) -> None:
        """Moves interests, observed histories and clocks after a response."""
        clicked = response.item >= 0
        clickers = np.flatnonzero(clicked)
        items = response.item[clickers]
        self.world.user_model.consume(visitors.interest, clickers, items)
        visitors.consumed_in_visit += clicked
        who = rows[clickers]
        self._history[who, 1:] = self._history[who, :-1]
        self._history[who, 0] = items
        self._history_clock[who, 1:] = self._history_clock[who, :-1]
        self._history_clock[who, 0] = visitors.clock[clickers] / SECONDS_PER_DAY
        if self.world.excludes_seen:
            self._seen[who, items >> 3] |= np.uint8(1) << (items & 7).astype(np.uint8)
        visitors.clock += REQUEST_SECONDS
        visitors.request += 1
        visitors.requests_in_visit += 1

    def _record(
        self,
        events: EventLog,
        visitors: UserState,
        observation: Observation,
        slates: NDArray[np.int32],
        response: Response,
        version: str,
    ) -> None:
        last = visitors.requests_in_visit == self.requests_per_visit - 1
        events.append(
            user=visitors.user,
            log_user=visitors.log_user,
            visit=visitors.visit,
            request=visitors.request.copy(),
            clock=visitors.clock.copy(),
            policy_version=version,
            candidates=observation.candidates.items,
            slate=slates,
            propensity=np.full(slates.shape, np.nan, np.float32),
            slot=response.slot,
            item=response.item,
            rating=response.rating,
            left=last,
        )

    def _weekday(self, visitors: UserState) -> NDArray[np.int64]:
        return (self.world.reference_weekday + visitors.day) % 7

    def _age_days(self, visitors: UserState, items: NDArray[np.int32]) -> NDArray[np.float32]:
        birth = self.world.birth_clock[np.maximum(items, 0)]
        return np.maximum((visitors.clock[:, None] - birth) / SECONDS_PER_DAY, 0).astype(np.float32)
