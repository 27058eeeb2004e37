"""A day of traffic: sampled users visit, are served by the pipeline, respond, and their interests move on.

The simulator's side of `driftrec/ModelUpdate-v0`. The pipeline is handed requests and public features only.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agents.rerankers import rerank
from agents.updates.models import ServedModels
from envs.candidate_source import RecallRequest, is_excluded, tell_changes
from envs.catalogue import SECONDS_PER_DAY
from envs.engine import REQUEST_SECONDS, Response, UserState, respond
from envs.errors import ConfigurationError
from envs.event_log import EventLog
from envs.observation import Candidates, Observation
from envs.randomness import Purpose, draw_bits, draw_normal, draw_uniform
from envs.world import World

AWAY_DAYS = 3.0
"""Days since their last visit that users have been away on day 0 (assumed; about the pause between visits later on)."""


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
    """Weight of the MF score (standardised within the request) in the re-ranker."""
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
    """What a day's traffic came to."""

    events: EventLog
    """Every request of the day."""
    visits: int
    requests: int
    clicks: int
    shown: int
    """Slots filled."""
    unseen: int
    """Slots filled with items that the models had no rows of."""

    @property
    def click_rate(self) -> float:
        """Clicks per request, 0 without traffic."""
        return self.clicks / max(self.requests, 1)

    @property
    def engagement(self) -> float:
        """Clicks per visit, 0 without traffic."""
        return self.clicks / max(self.visits, 1)

    @property
    def unseen_share(self) -> float:
        """Share of filled slots with an item that the models had no rows of, 0 without traffic."""
        return self.unseen / max(self.shown, 1)


class Traffic:
    """Users of a world who visit day after day.

    A visit is `requests_per_visit` requests long, whatever is shown, so that all update policies meet the same visits;
    what makes users leave and return is the subject of the slate environment. Between visits interests decay and wander.

    Args:
        world: where users start.
        users: [M] log users who may visit; each visits at most once a day. Each was last there `AWAY_DAYS` before day 0:
            fresh from their last row they would click far more on day 0 than ever again.
        pipeline: how requests are served.
        requests_per_visit: length of a visit.
        seed: of everything random.
    """

    def __init__(
        self, world: World, users: NDArray[np.int64], pipeline: PipelineConfig, requests_per_visit: int, seed: int
    ) -> None:
        self.world, self.pipeline, self.requests_per_visit, self.seed = world, pipeline, requests_per_visit, seed
        self._state = world.start_state(users, np.zeros_like(users))
        self._state.clock -= AWAY_DAYS * SECONDS_PER_DAY
        self._history, clocks = world.history(pipeline.history_size, users)
        self._history_clock = clocks.astype(np.float64) - AWAY_DAYS
        self._seen = world.seen(users)

    def serve(self, day: int, num_visits: int, models: ServedModels) -> Day:
        """Lets `num_visits` users visit on `day` and serves them with `models`."""
        rows = self._visitors(day, num_visits)
        events = EventLog()
        if not len(rows):
            return Day(events, 0, 0, 0, 0, 0)
        visitors = self._arrive(rows, day)
        known, popularity = models.known, models.popularity
        tastes = models.recall.user_vectors(self._history[rows])
        clicks = shown = unseen = 0
        for _ in range(self.requests_per_visit):
            observation = self._observe(rows, visitors, tastes, models)
            slates = self._slates(observation, popularity)
            response = self._respond(visitors, slates)
            self._record(events, visitors, observation, slates, response, models.version)
            self._move_on(rows, visitors, response)
            clickers = np.flatnonzero(response.item >= 0)
            # only who consumed something has another history, hence another vector, at the next request
            tastes[clickers] = models.recall.user_vectors(self._history[rows[clickers]])
            filled = slates >= 0
            clicks += int((response.item >= 0).sum())
            shown += int(filled.sum())
            unseen += int((filled & ~known[np.maximum(slates, 0)]).sum())
        visitors.visit += 1
        self._state.put(rows, visitors)
        return Day(events, len(rows), len(rows) * self.requests_per_visit, clicks, shown, unseen)

    def _visitors(self, day: int, num_visits: int) -> NDArray[np.int64]:
        """[V] rows of the users who visit, ascending: those with the smallest draws of the day."""
        draws = draw_bits(self.seed, Purpose.TRAFFIC, day, self._state.user)
        return np.sort(np.argsort(draws, kind="stable")[:num_visits])

    def _arrive(self, rows: NDArray[np.int64], day: int) -> UserState:
        """The visitors at their usual second of `day`, interests decayed and wandered since their last visit."""
        state = self._state.take(rows)
        clock = day * SECONDS_PER_DAY + self.world.start_second[state.log_user]
        days = np.maximum(clock - state.clock, 0) / SECONDS_PER_DAY
        model = self.world.user_model
        coordinates = np.arange(model.walk_width)[None, :]
        walk = draw_normal(self.seed, Purpose.INTEREST_WALK, state.user[:, None], state.visit[:, None], coordinates)
        model.pause(state.interest, np.arange(len(state)), days.astype(np.float32), walk)
        state.clock = clock
        state.requests_in_visit[:] = state.consumed_in_visit[:] = state.misses[:] = 0
        return state

    def _observe(
        self, rows: NDArray[np.int64], visitors: UserState, tastes: NDArray[np.float32], models: ServedModels
    ) -> Observation:
        """The requests as the pipeline sees them; the last `explore_slots` candidates are young items, the others recalled."""
        world, config = self.world, self.pipeline
        history = self._history[rows]
        excluded = self._seen[rows] | world.calendar.closed(visitors.clock)
        tell_changes(models.recall, world.calendar, visitors.clock)
        key = np.stack([visitors.user, visitors.request], axis=1)
        request = RecallRequest(visitors.log_user, history, excluded, key)
        recalled, scores = models.recall.candidates(request, config.num_candidates - config.explore_slots)
        young, young_scores = self._young_items(request, visitors, recalled, tastes, models)
        items, scores = np.concatenate([recalled, young], axis=1), np.concatenate([scores, young_scores], axis=1)
        mask = ~is_excluded(excluded, items)
        categories = world.policy_log.catalogue.categories[np.maximum(items, 0)]
        ages = self._age_days(visitors, items)
        features = np.concatenate([scores[:, :, None], ages[:, :, None], categories], axis=2).astype(np.float32)
        features[~mask] = 0
        since = np.where(history >= 0, visitors.clock[:, None] / SECONDS_PER_DAY - self._history_clock[rows], 0)
        context = (visitors.hour, self._weekday(visitors), visitors.requests_in_visit, visitors.day)
        return Observation(
            user=visitors.log_user,
            user_features=world.user_features[visitors.log_user],
            history=history,
            history_days=np.maximum(since, 0).astype(np.float32),
            context=np.column_stack(context).astype(np.float32),
            candidates=Candidates(items, mask.astype(np.int8), features),
        )

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
        young = np.flatnonzero((age >= 0) & (age < config.explore_days)).astype(np.int32)
        items = np.full(shape, -1, np.int32)
        scores = np.zeros(shape, np.float32)
        if not len(young) or not config.explore_slots:
            return items, scores
        draws = draw_uniform(self.seed, Purpose.AGENT, visitors.user[:, None], visitors.request[:, None], young)
        taken = is_excluded(request.excluded, np.broadcast_to(young, draws.shape))
        place = np.full(len(birth), -1)
        place[young] = np.arange(len(young))
        row, column = np.nonzero((recalled >= 0) & (place[recalled] >= 0))
        taken[row, place[recalled[row, column]]] = True
        draws[taken] = np.inf
        relevance = tastes @ models.recall.item_vectors_[young].T
        number = min(config.explore_slots * config.explore_draws, len(young))
        drawn = np.argpartition(draws, number - 1, axis=1)[:, :number]
        worth = np.where(
            np.isfinite(np.take_along_axis(draws, drawn, 1)), np.take_along_axis(relevance, drawn, 1), -np.inf
        )
        best = np.argsort(-worth, axis=1, kind="stable")[:, : config.explore_slots]
        found = np.take_along_axis(worth, best, 1)
        chosen = young[np.take_along_axis(drawn, best, 1)]
        items[:, : best.shape[1]] = np.where(np.isfinite(found), chosen, -1)
        scores[:, : best.shape[1]] = np.where(np.isfinite(found), found, 0)
        return items, scores

    def _slates(self, observation: Observation, popularity: NDArray[np.float32]) -> NDArray[np.int32]:
        """[V, K] items shown, -1 for an empty slot: the re-ranker's choice of what was recalled, then young items."""
        config = self.pipeline
        weights = np.array([config.relevance, config.diversity, config.freshness, config.popularity], np.float32)
        candidates = observation.candidates
        recalled = slice(0, config.num_candidates - config.explore_slots)
        ranked = Candidates(
            candidates.items[:, recalled], candidates.mask[:, recalled], candidates.features[:, recalled]
        )
        chosen = rerank(
            replace(observation, candidates=ranked), weights, popularity, config.slate_size - config.explore_slots
        )
        explored = np.broadcast_to(np.arange(recalled.stop, config.num_candidates), (len(chosen), config.explore_slots))
        chosen = np.concatenate([chosen, explored], axis=1)
        items = np.take_along_axis(candidates.items, chosen, axis=1)
        return np.where(np.take_along_axis(candidates.mask, chosen, axis=1) == 1, items, -1).astype(np.int32)

    def _respond(self, visitors: UserState, slates: NDArray[np.int32]) -> Response:
        world = self.world
        ages = self._age_days(visitors, slates)
        preference = world.preference(visitors)
        return respond(world.user_model, visitors, preference, slates, ages, world.outside, self.seed)

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
