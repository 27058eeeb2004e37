"""The slate environment: N users stepped as arrays. `envs.single_env` shows one of them.

A step is one request: the action is a slate, given as indices into the candidates; the observation is the next request. An
episode is a user's life over the horizon: leaving a visit moves the clock to the next one, only churn terminates, the
horizon truncates.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs import request_kernels
from envs.buffers import Buffers
from envs.candidate_source import CandidateSource, RecallRequest, SampledCandidates, tell_changes
from envs.catalogue import SECONDS_PER_DAY
from envs.compiled import over_rows
from envs.engine import Response, UserState, advance, respond
from envs.errors import ConfigurationError
from envs.event_log import EventLog
from envs.hidden_state import HiddenState
from envs.logs.schema import InteractionLog
from envs.measures import RewardWeights, consumed_diversity
from envs.observation import FIRST_CATEGORY, Candidates, Observation, observation_space
from envs.rewards import Parts, Reward, earned
from envs.users.protocol import UserModel
from envs.world import World, build_world, default_world

ObservationArrays = dict[str, NDArray[Any]]


class SlateVectorEnv(VectorEnv):
    """N users of a world, each answering one slate a step.

    Args:
        num_envs: N, users simulated side by side.
        world: where users start; by default made from `log` and `user_model`, and from the synthetic log without those.
        log: an interaction log; without `user_model` the parametric model is fitted to it (cached).
        user_model: the hidden model of how users respond.
        candidate_source: the recall stage; by default candidates are drawn from the catalogue.
        users: [M] users to simulate, by default `world.simulated_users`; slot after slot takes the next of them, in order, and
            after the last the first again for another life. A user who arrives during the run begins at its arrival.
        slate_size: K, slots of a slate.
        num_candidates: C, candidates of a request.
        history_size: H, last consumed items that are observed.
        reward_weights: of the scalar reward; or another `Reward`.
        autoreset_mode: NEXT_STEP (RLlib), SAME_STEP (Stable-Baselines3) or DISABLED (a finished user waits for `reset`).
        event_log: where every request is recorded; None for nowhere.
        seed: of everything random, until `reset(seed=...)` gives another.

    Raises:
        ConfigurationError: if an argument is out of its range.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        world: World | None = None,
        log: InteractionLog | None = None,
        user_model: UserModel | None = None,
        candidate_source: CandidateSource | None = None,
        users: NDArray[np.int64] | None = None,
        slate_size: int = 10,
        num_candidates: int = 100,
        history_size: int = 50,
        reward_weights: Reward | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        event_log: EventLog | None = None,
        seed: int = 0,
        render_mode: str | None = None,
    ) -> None:
        self.world = world or _world_of(log, user_model)
        for name, value in (("num_envs", num_envs), ("slate_size", slate_size), ("history_size", history_size)):
            if value < 1:
                raise ConfigurationError(f"{name} is {value}; it must be at least 1.")
        if not slate_size <= num_candidates <= self.world.num_items:
            raise ConfigurationError(
                f"num_candidates is {num_candidates}; it must lie between slate_size ({slate_size}) "
                f"and the size of the catalogue ({self.world.num_items})."
            )
        catalogue = self.world.policy_log.catalogue
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.slate_size, self.num_candidates, self.history_size = slate_size, num_candidates, history_size
        self.candidate_source = candidate_source or SampledCandidates(len(catalogue))
        self.users = self.world.simulated_users if users is None else np.asarray(users, np.int64)
        if not len(self.users) or self.users.min() < 0 or self.users.max() >= self.world.num_users:
            raise ConfigurationError(
                f"users must be indices from 0 to {self.world.num_users - 1}, at least one of them."
            )
        self.reward_weights: Reward = reward_weights or RewardWeights()
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.event_log = event_log
        self.policy_version = ""
        self.seed = seed
        self.hidden = HiddenState(self)
        """For oracles and recorders only; no policy may read it."""

        self.single_observation_space = observation_space(
            num_users=self.world.num_users,
            num_user_features=self.world.user_features.shape[1],
            num_items=len(catalogue),
            num_categories=catalogue.num_categories,
            history_size=history_size,
            num_candidates=num_candidates,
        )
        self.single_action_space = gymnasium.spaces.MultiDiscrete(np.full(slate_size, num_candidates))
        self._make_batch_spaces()
        self._buffers = Buffers()
        self._lives_begun = 0
        self._propensity: NDArray[np.float32] | None = None
        self._ended: NDArray[np.bool_] | None = None
        self._state: UserState
        self._history: NDArray[np.int32]
        self._history_clock: NDArray[np.float32]
        """[N, H] days since the run's start at which the items of the history were consumed."""
        self._seen: NDArray[np.uint8]
        self._observation: Observation
        self._num_candidates: NDArray[np.int64]
        self._preference: NDArray[np.float32]

    # ------------------------------------------------------------------ gymnasium
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObservationArrays, dict[str, Any]]:
        """Begins a new life in every slot, or in those of `options["reset_mask"]` [N]; a seed begins with the first user again."""
        super().reset(seed=seed)
        mask = (options or {}).get("reset_mask")
        if seed is not None:
            self.seed = int(seed)
            self._lives_begun = 0
        if mask is None or self._ended is None:
            self._state = self._next_lives(self.num_envs)
            self._history, self._history_clock = self.world.history(self.history_size, self._state.log_user)
            self._seen = self.world.seen(self._state.log_user)
            self._ended = np.zeros(self.num_envs, bool)
        else:
            self._begin_lives(np.flatnonzero(mask))
        self._observe()
        return self._observation.to_dict(), self._info(np.ones(self.num_envs, bool))

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[ObservationArrays, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Shows slates [N, K] (indices into the candidates, top slot first).

        A repeated candidate leaves its second slot empty, a masked candidate its own; `info["empty_slots"]` counts them.
        """
        reward, terminated, truncated, info = self.answer(actions)
        ended = terminated | truncated
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            self._begin_lives(np.flatnonzero(~info["active"]))
            self._ended = ended
        elif self.autoreset_mode == AutoresetMode.SAME_STEP and ended.any():
            self._observe()
            final = self._observation.to_dict()
            mask = ended.reshape(-1, *([1] * 2))
            info["final_obs"] = {
                name: np.where(mask[..., 0] if array.ndim == 2 else mask, array, 0) for name, array in final.items()
            }
            info["_final_obs"] = ended
            self._begin_lives(np.flatnonzero(ended))
        self._observe()
        return self._observation.to_dict(), reward, terminated, truncated, info | self._info(info["active"])

    def answer(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """The first half of `step`: users answer slates [N, K] and move on, but their next requests are not made yet.

        Returns:
            (reward [N], terminated [N], truncated [N], info); nobody begins another life.
        """
        if self._ended is None:
            raise gymnasium.error.ResetNeeded("call reset before step.")
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs, self.slate_size):
            raise ConfigurationError(
                f"the action has shape {actions.shape}; it must be {(self.num_envs, self.slate_size)} (users, slots)."
            )
        if actions.min() < 0 or actions.max() >= self.num_candidates:
            raise ConfigurationError(
                f"the action must hold indices into the candidates, 0 to {self.num_candidates - 1}."
            )
        phantom = self._ended.copy()
        slates, age = self._shown_items(actions)
        state = self._state
        departed_at = state.clock.copy()
        response = respond(self.world.user_model, state, self._preference, slates, age, self.world.outside, self.seed)
        info = self._measure(slates, response, phantom)
        before = state.take(np.flatnonzero(phantom)) if phantom.any() else None
        identity = (state.visit.copy(), state.request.copy()) if self.event_log is not None else None
        departure = advance(self.world.user_model, state, response, self.world.baseline_satisfaction, self.seed)
        if before is not None:
            state.put(np.flatnonzero(phantom), before)
        alive = ~phantom
        info["active"], info["leave"] = alive, departure.leaves & alive
        if self.event_log is not None and alive.any():
            self._record(alive, identity, departed_at, slates, response, departure.leaves)
        self._remember(np.flatnonzero(alive & (response.item >= 0)), response.item, departed_at)
        terminated = departure.churned & alive
        truncated = (state.clock >= self.world.config.days * SECONDS_PER_DAY) & ~terminated & alive
        ended = terminated | truncated

        parts = Parts(
            engagement=info["engagement"],
            diversity=info["diversity"],
            freshness=info["freshness"],
            rating=info["rating"],
            item=info["clicked_item"],
            slot=info["clicked_slot"],
            slates=slates,
            left=info["leave"],
            catalogue=self.world.policy_log.catalogue,
        )
        reward = earned(self.reward_weights, parts)
        reward[phantom] = 0
        self._ended = phantom | ended
        return reward, terminated, truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        """Nothing is held open."""

    # ------------------------------------------------------------------ for pipelines and comparisons
    @property
    def observation(self) -> Observation:
        """The present requests, typed."""
        return self._observation

    @property
    def ended(self) -> NDArray[np.bool_]:
        """[N] whether each user's life is over."""
        assert self._ended is not None
        return self._ended

    def set_propensities(self, propensity: NDArray[np.float32]) -> None:
        """Propensities [N, K] of the next slates, for the event log."""
        self._propensity = propensity

    def drop_ended(self) -> NDArray[np.int64]:
        """Removes users whose life is over (autoreset DISABLED), so that a batch of lives of unequal length runs fast.

        Returns:
            [N'] slots that were kept, in order; they are now slots 0 to N' - 1.
        """
        assert self.autoreset_mode == AutoresetMode.DISABLED and self._ended is not None
        kept = np.flatnonzero(~self._ended)
        self._state = self._state.take(kept)
        self._history, self._history_clock = self._history[kept], self._history_clock[kept]
        self._seen, self._ended = self._seen[kept], self._ended[kept]
        self._preference, self._num_candidates = self._preference[kept], self._num_candidates[kept]
        self._observation = self._observation.take(kept)
        self.num_envs = len(kept)
        if self.num_envs:
            self._make_batch_spaces()
        return kept

    def resume(
        self,
        state: UserState,
        history: NDArray[np.int32],
        history_clock: NDArray[np.float32],
        seen: NDArray[np.uint8],
    ) -> Observation:
        """Goes on with lives that were lived elsewhere (autoreset DISABLED) and makes their requests; for `envs.crowd`.

        The arrays are taken over and changed by `answer`. The spaces stay those of the environment's own size.
        """
        self.num_envs = len(state)
        self._state, self._history, self._history_clock, self._seen = state, history, history_clock, seen
        self._ended = np.zeros(len(state), bool)
        self._observe()
        return self._observation

    # ------------------------------------------------------------------ the parts of a step
    def _make_batch_spaces(self) -> None:
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def _next_lives(self, count: int) -> UserState:
        number = self._lives_begun + np.arange(count)
        self._lives_begun += count
        return self.world.start_state(self.users[number % len(self.users)], number // len(self.users))

    def _begin_lives(self, slots: NDArray[np.int64]) -> None:
        if not len(slots):
            return
        assert self._ended is not None
        fresh = self._next_lives(len(slots))
        self._state.put(slots, fresh)
        self._history[slots], self._history_clock[slots] = self.world.history(self.history_size, fresh.log_user)
        self._seen[slots] = self.world.seen(fresh.log_user)
        self._ended[slots] = False

    def _shown_items(self, actions: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(items [N, K] of the slates, their ages in days [N, K])."""
        candidates = self._observation.candidates
        slates, age_days = np.empty(actions.shape, np.int32), np.empty(actions.shape, np.float32)
        over_rows(
            request_kernels.show,
            self.num_envs,
            np.ascontiguousarray(actions, np.int64),
            candidates.items,
            candidates.mask,
            self._state.clock,
            self.world.birth_clock,
            slates,
            age_days,
        )
        return slates, age_days

    def _age_days(self, items: NDArray[np.int32]) -> NDArray[np.float32]:
        birth = self.world.birth_clock[np.maximum(items, 0)]
        return np.maximum((self._state.clock[:, None] - birth) / SECONDS_PER_DAY, 0).astype(np.float32)

    def _measure(self, slates: NDArray[np.int32], response: Response, phantom: NDArray[np.bool_]) -> dict[str, Any]:
        """The reward vector and what was seen of the response, all zero or empty for users whose life is over."""
        clicked = (response.item >= 0) & ~phantom
        item = np.where(clicked, response.item, -1).astype(np.int32)
        age = self._age_days(item[:, None])[:, 0]
        diversity, rows = np.zeros(self.num_envs, np.float32), np.flatnonzero(clicked)
        directions = self.world.policy_log.catalogue.directions
        diversity[rows] = consumed_diversity(directions, item[rows], self._history[rows])
        return {
            "engagement": clicked.astype(np.float32),
            "diversity": diversity,
            "freshness": (clicked & (age < self.world.config.fresh_days)).astype(np.float32),
            "clicked_item": item,
            "clicked_slot": np.where(clicked, response.slot, -1),
            "rating": np.where(clicked, response.rating, np.nan).astype(np.float32),
            "consumed_age": np.where(clicked, age, np.nan).astype(np.float32),
            "slate_items": slates,
            "empty_slots": np.where(phantom, 0, (slates < 0).sum(axis=1)),
            "clock": self._state.clock.copy(),
            "user": self._state.user.copy(),
        }

    def _remember(self, rows: NDArray[np.int64], items: NDArray[np.int32], clock: NDArray[np.float64]) -> None:
        """Adds what users `rows` consumed to what is observed of them."""
        over_rows(
            request_kernels.remember,
            len(rows),
            rows,
            items,
            clock,
            self.world.excludes_seen,
            self._history,
            self._history_clock,
            self._seen,
        )

    def _record(
        self,
        alive: NDArray[np.bool_],
        identity: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
        clock: NDArray[np.float64],
        slates: NDArray[np.int32],
        response: Response,
        left: NDArray[np.bool_],
    ) -> None:
        assert self.event_log is not None and identity is not None
        propensity = self._propensity if self._propensity is not None else np.full(slates.shape, np.nan, np.float32)
        self._propensity = None
        self.event_log.append(
            user=self._state.user[alive],
            log_user=self._state.log_user[alive],
            visit=identity[0][alive],
            request=identity[1][alive],
            clock=clock[alive],
            policy_version=self.policy_version,
            candidates=self._observation.candidates.items[alive],
            slate=slates[alive],
            propensity=propensity[alive],
            slot=response.slot[alive],
            item=response.item[alive],
            rating=response.rating[alive],
            left=left[alive],
        )

    def _observe(self) -> None:
        """Asks recall for the candidates of all users in one call, and makes the next observation."""
        state, world = self._state, self.world
        excluded = self._seen | world.calendar.closed(state.clock)
        tell_changes(self.candidate_source, world.calendar, state.clock)
        request = RecallRequest(state.log_user, self._history, excluded, np.stack([state.user, state.request], axis=1))
        items, scores = self.candidate_source.candidates(request, self.num_candidates)
        shape = (self.num_envs, self.num_candidates)
        width = FIRST_CATEGORY + world.policy_log.catalogue.num_categories
        mask = self._buffers.empty("mask", shape, np.int8)
        features = self._buffers.empty("features", (*shape, width), np.float32)
        history = self._buffers.empty("history", self._history.shape, np.int32)
        history_days = self._buffers.empty("history_days", self._history.shape, np.float32)
        items = np.ascontiguousarray(items, np.int32)
        self._num_candidates = np.empty(self.num_envs, np.int64)
        over_rows(
            request_kernels.describe_candidates,
            self.num_envs,
            items,
            np.ascontiguousarray(scores, np.float32),
            excluded,
            state.clock,
            world.birth_clock,
            world.policy_log.catalogue.categories,
            mask,
            features,
            self._num_candidates,
        )
        over_rows(
            request_kernels.tell_history,
            self.num_envs,
            self._history,
            self._history_clock,
            state.clock,
            history,
            history_days,
        )
        hour, day = state.hour, state.day
        context = (hour, (world.reference_weekday + day) % 7, state.requests_in_visit, day)
        self._observation = Observation(
            user=state.log_user.copy(),
            user_features=world.user_features[state.log_user],
            history=history,
            history_days=history_days,
            context=np.column_stack(context).astype(np.float32),
            candidates=Candidates(items, mask, features),
        )
        self._preference = world.preference(state)

    def _info(self, active: NDArray[np.bool_]) -> dict[str, Any]:
        return {"active": active, "num_candidates": self._num_candidates}


def _world_of(log: InteractionLog | None, user_model: UserModel | None) -> World:
    if log is None:
        if user_model is not None:
            raise ConfigurationError("a user_model needs the log that it was fitted to; pass log= as well.")
        return default_world()
    if user_model is None:
        # fitting needs torch, which a bare environment does not load
        from envs.users.fit import fit_or_load

        user_model = fit_or_load(log)
    return build_world(log, user_model)
