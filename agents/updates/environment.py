"""`driftrec/ModelUpdate-v0`: an agent decides day by day whether the served models are kept, updated or refitted."""

from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from agents.updates.models import ServedModels, joined
from agents.updates.monitoring import TREND_DAYS, Monitoring, UpdateAction
from agents.updates.traffic import Day, PipelineConfig, Traffic
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.world import World, default_world
from recall.embedding import EmbeddingConfig


@dataclass(frozen=True, kw_only=True)
class UpdateConfig:
    """Traffic, models, prices and budget of `driftrec/ModelUpdate-v0`."""

    days: int = 30
    """Length of an episode in days; items are born over the world's days."""
    visits_per_day: int = 300
    """Users who visit on a day (fewer where there are fewer users; each visits at most once a day)."""
    weekday_traffic: tuple[float, ...] = (1.0,) * 7
    """Factor of the visits on Monday, Tuesday, ..., Sunday, in [0, 1]."""
    requests_per_visit: int = 4
    """Slates that a user is shown in a visit."""
    price_per_million_samples: float = 0.01
    """Clicks per visit that training on a million samples must earn on one day to pay for itself (assumed)."""
    budget_refits: float = 40.0
    """Budget of an episode, in full refits of the log as it is on day 0. An update is begun while any of it is left (so
    the last may overdraw it); after that update actions count as keep."""
    embedding: EmbeddingConfig = field(
        default_factory=lambda: EmbeddingConfig(dimension=16, iterations=4, update_passes=1, newcomer_share=0.0)
    )
    """How recall embeddings and MF scores are learnt. The pipeline has a channel of its own for young items."""
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    """How a request is served."""
    model_seed: int = 0
    """Seed of the factorisation's start."""

    def __post_init__(self) -> None:
        for name, low in (("days", 1), ("visits_per_day", 0), ("requests_per_visit", 1)):
            if getattr(self, name) < low:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be at least {low}.")
        for name in ("price_per_million_samples", "budget_refits"):
            if not getattr(self, name) >= 0:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must not be negative.")
        if len(self.weekday_traffic) != 7 or not all(0 <= factor <= 1 for factor in self.weekday_traffic):
            raise ConfigurationError("weekday_traffic must hold seven factors from 0 to 1, Monday first.")


class ModelUpdateEnv(gymnasium.Env[NDArray[np.float32], int]):
    """A step is a day: first, in the night, the action is carried out on the events of the days before; then the day's users
    are served with the models as they are.

    Actions: 0 keep, 1 incremental update on the events since the last update, 2 full refit on the policy's log and all
    events of the episode. Observation: `Monitoring`, scaled to order one. Reward: clicks per visit of the day, minus
    `price_per_million_samples` for each million samples that the action trained on; a sample is an interaction met in
    one half-pass of the factorisation, so the cost is the same on every machine. Measured seconds are in `update_seconds`
    and `serve_seconds`, outside reward and info, which a seed reproduces to the bit. An episode of `days` days is truncated.

    Every episode begins with the same models, fitted to the policy's log. The seed decides who visits, their choices and
    how their interests wander; the world decides what is born when.

    Args:
        world: users, log and births; by default those of the synthetic log of seed 0.
        config: see `UpdateConfig`.
        users: [M] log users who may visit, by default all.

    Raises:
        ConfigurationError: if an argument is out of its range.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"]}

    def __init__(
        self,
        world: World | None = None,
        config: UpdateConfig | None = None,
        users: NDArray[np.int64] | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "ansi"):
            raise ConfigurationError(f"render_mode is '{render_mode}'; it must be 'ansi' or None.")
        self.render_mode = render_mode
        self.world = world or default_world()
        self.config = config or UpdateConfig()
        self.users = self.world.present_users if users is None else np.asarray(users, np.int64)
        self.users = self.users[self.users < self.world.first_arriving]  # its traffic is a fixed crowd's
        if not len(self.users) or self.users.min() < 0 or self.users.max() >= self.world.num_users:
            raise ConfigurationError(
                f"users must be indices from 0 to {self.world.num_users - 1}, at least one of them."
            )
        pipeline = self.config.pipeline
        if pipeline.num_candidates > self.world.num_items:
            raise ConfigurationError(
                f"num_candidates is {pipeline.num_candidates}, but the catalogue has {self.world.num_items} items; ask for fewer."
            )
        self._log = self.world.policy_log.consumed()
        self.models = ServedModels(self.config.embedding, self.config.model_seed, ranker=None).fit(self._log)
        self._first_models = self.models.snapshot()
        self.budget = self.config.budget_refits * self.models.trained_samples
        """Samples that an episode may train on."""
        most = min(self.config.visits_per_day, len(self.users)) * self.config.requests_per_visit
        self.observation_space = Monitoring.space(days=self.config.days, requests=self.config.days * most)
        self.action_space = gymnasium.spaces.Discrete(len(UpdateAction))
        self.history: list[Day] = []
        """The days of the episode so far, with the event log of each."""
        self.update_seconds = self.serve_seconds = 0.0
        """Measured time of the last step's update and traffic."""
        self._ended = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begins an episode on day 0, with the models fitted to the policy's log and a full budget."""
        super().reset(seed=seed)
        episode_seed = int(self.np_random.integers(2**63))
        config = self.config
        self._traffic = Traffic(self.world, self.users, config.pipeline, config.requests_per_visit, episode_seed)
        self.models.rollback(self._first_models)
        self.history = []
        self._events: list[InteractionLog] = []
        self._learnt_days = 0
        self._refit_day = self._update_day = 0
        self._spent = 0
        self._ended = False
        return self.monitoring.to_array(), {"budget_left": self._budget_left, "day": 0}

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Carries out the action, then serves the day.

        Raises:
            ConfigurationError: if the action is none of 0, 1 and 2.
        """
        asked = _known_action(action)
        if self._ended:
            raise gymnasium.error.ResetNeeded("call reset before step: no episode has begun, or the last one is over.")
        start = perf_counter()
        taken = asked if self._budget_left > 0 else UpdateAction.KEEP
        trained = self._refresh(taken)
        self._spent += trained
        cost = self.config.price_per_million_samples * trained / 1e6
        updated = perf_counter()
        day_number = len(self.history)
        factor = self.config.weekday_traffic[self._weekday]
        day = self._traffic.serve(day_number, round(self.config.visits_per_day * factor), self.models)
        self.history.append(day)
        self._events.append(day.events.to_log(self.world.policy_log, self.world.reference_time))
        self.update_seconds, self.serve_seconds = updated - start, perf_counter() - updated
        self._ended = len(self.history) >= self.config.days
        info = {
            "day": day_number,
            "engagement": day.engagement,
            "clicks": day.clicks,
            "visits": day.visits,
            "requests": day.requests,
            "unseen_share": day.unseen_share,
            "action": int(asked),
            "action_taken": int(taken),
            "trained_samples": trained,
            "cost": cost,
            "budget_left": self._budget_left,
            "budget_exhausted": taken != asked,
            "model_version": self.models.version,
        }
        return self.monitoring.to_array(), day.engagement - cost, False, self._ended, info

    @property
    def monitoring(self) -> Monitoring:
        """What is known now, in natural units."""
        rates = [day.click_rate for day in self.history if day.requests]
        earlier = rates[-1 - TREND_DAYS : -1]
        now = len(self.history)
        angle = 2 * np.pi * self._weekday / 7
        return Monitoring(
            click_rate=rates[-1] if rates else 0.0,
            click_trend=rates[-1] - float(np.mean(earlier)) if earlier else 0.0,
            unseen_share=self.history[-1].unseen_share if self.history else 0.0,
            days_since_refit=now - self._refit_day,
            days_since_update=now - self._update_day,
            clicks_since_update=sum(day.clicks for day in self.history[self._learnt_days :]),
            budget_left=self._budget_left,
            weekday_sin=float(np.sin(angle)),
            weekday_cos=float(np.cos(angle)),
            day_share=now / self.config.days,
        )

    def render(self) -> str:  # type: ignore[override]
        """The last day as a line of text."""
        if not self.history:
            return "No day yet."
        day = self.history[-1]
        return (
            f"day {len(self.history) - 1}: models {self.models.version}, {day.visits} visits, {day.engagement:.3f} clicks a visit, "
            f"{100 * day.unseen_share:.1f} % of slots unseen by the models, {100 * self._budget_left:.0f} % of the budget left"
        )

    @property
    def _budget_left(self) -> float:
        return max(1 - self._spent / self.budget, 0.0) if self.budget > 0 else 0.0

    @property
    def _weekday(self) -> int:
        """Of the coming day, Monday 0."""
        return (self.world.reference_weekday + len(self.history)) % 7

    def _refresh(self, action: UpdateAction) -> int:
        """Carries out `action` and returns the samples trained on."""
        if action == UpdateAction.KEEP:
            return 0
        today = len(self.history)
        if action == UpdateAction.REFIT:
            self.models.fit(joined([self._log, *self._events]))
            self._refit_day = today
            trained = self.models.trained_samples
        else:
            fresh = self._events[self._learnt_days :]
            trained = 0
            if any(log.clicked.any() for log in fresh):
                self.models.update(joined(fresh))
                trained = self.models.trained_samples
        self._update_day = self._learnt_days = today
        return trained


def _known_action(action: Any) -> UpdateAction:
    try:
        return UpdateAction(int(action))
    except (TypeError, ValueError) as error:
        choices = ", ".join(f"{member.value} ({member.name.lower()})" for member in UpdateAction)
        raise ConfigurationError(f"the action is {action!r}; ModelUpdate-v0 takes {choices}.") from error
