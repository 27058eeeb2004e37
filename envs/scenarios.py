"""Scenarios: worlds in which served models age, each for one reason of its own, and the traffic that meets them there.

Nothing changes in the two controls: in `stationary` every visit is another user's, in `returning` the same users come back. Each of
the others adds one thing to the latter: `slow_drift`, `shock`, `news`, `season`, `growth`. They are made of what `WorldConfig` and
modifiers have; numbers without a log behind them are assumed, and docs/worlds.md says why they are what they are.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from envs.catalogue import SECONDS_PER_DAY
from envs.errors import ConfigurationError
from envs.loading import Kind
from envs.logs.schema import InteractionLog
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.modifiers import Drift, Modifier, Moment, Scene, WeeklySeason
from envs.randomness import Purpose, draw_normal, draw_uniform
from envs.users.protocol import UserModel, replay
from envs.world import World, WorldConfig, build_world
from envs.worlds import Fitted, own_world

OLD_DAYS = 3_650
"""Days by which a scenario's catalogue is older than the log's: nothing in it ages visibly any more, neither for users (the age
effect is flat there) nor for models that see ages."""
FIRST_PATH_DAY = -30
"""Day of the run on which the common path of interests begins."""
CROWD_PER_VISIT = 3
"""Users of a crowd for each visit of a day: everybody comes every third day on average."""


@dataclass(frozen=True, kw_only=True)
class TrafficPlan:
    """Who comes how often, and when the models hear of it."""

    visits_per_day: int = 2_000
    """Visits on a day, before the weekday's factor."""
    requests_per_visit: int = 1
    """Slates that a user is shown in a visit."""
    fresh_users: bool = False
    """Whether every user comes once and never again; else everybody of a crowd has the same chance to come, at most once a day."""
    grows: bool = False
    """Whether visits grow in proportion to the users who are there."""
    weekday_traffic: tuple[float, ...] = (1.0,) * 7
    """Factor of the visits on Monday, Tuesday, ..., Sunday."""
    event_delay: float = 0.0
    """Hours by which events reach the models late."""
    period_hours: int = 24
    """Length of a period of traffic, a divisor of 24."""

    def __post_init__(self) -> None:
        if self.visits_per_day < 0 or self.requests_per_visit < 1:
            raise ConfigurationError(
                f"visits_per_day is {self.visits_per_day} and requests_per_visit {self.requests_per_visit}; they must be at least "
                "0 and 1."
            )
        if len(self.weekday_traffic) != 7 or not all(0 <= factor < np.inf for factor in self.weekday_traffic):
            raise ConfigurationError("weekday_traffic must hold seven factors from 0 upwards, Monday first.")
        if not 0 <= self.event_delay < np.inf:
            raise ConfigurationError(f"event_delay is {self.event_delay}; it must be a number of hours from 0 upwards.")
        if self.period_hours < 1 or 24 % self.period_hours:
            raise ConfigurationError(f"period_hours is {self.period_hours}; it must divide 24.")

    @property
    def periods_per_day(self) -> int:
        return 24 // self.period_hours


@runtime_checkable
class TrafficScenario(Protocol):
    """What is asked of a scenario, also of one in a user's own file."""

    @property
    def name(self) -> str:
        """Letters, digits and underscores; stands behind the names of figures."""

    @property
    def traffic(self) -> TrafficPlan:
        """Who comes how often."""

    def make(self) -> World:
        """The world; the same each time."""


def synthetic() -> tuple[InteractionLog, UserModel]:
    """The generated log of seed 0 and the users who made it: scenarios without a log of one's own, offline."""
    return generate_log(SyntheticConfig(), seed=0)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Base of those that come with driftrec: users drawn from those of a log, of whom each comes every third day, in a catalogue
    that is complete from the start and where nothing is new.

    Interests stand still between visits except where a scenario says otherwise, so that each changes by one cause alone. Policies
    learn from the log's own users at first, and of the drawn ones what they see in requests.
    """

    name: ClassVar[str]
    fitted: Fitted = synthetic
    days: int = 60
    """Horizon in days."""
    visits_per_day: int = 2_000
    requests_per_visit: int = 1
    event_delay: float = 0.0
    """Hours by which events reach the models late."""
    period_hours: int = 24
    popular_click_rate: float = 0.5
    """See `WorldConfig` (assumed). That is in the state just after the last row; on a day of traffic, days later, a slate is then
    clicked in a quarter to a third of requests, one impression in forty."""
    seed: int = 0
    """Of who is drawn, and of everything that happens to the world: shocks, births, arrivals."""

    @property
    def crowd(self) -> int:
        """Users drawn."""
        return max(CROWD_PER_VISIT * self.visits_per_day, 1)

    @property
    def traffic(self) -> TrafficPlan:
        return TrafficPlan(
            visits_per_day=self.visits_per_day,
            requests_per_visit=self.requests_per_visit,
            event_delay=self.event_delay,
            period_hours=self.period_hours,
        )

    def config(self, log: InteractionLog, model: UserModel) -> WorldConfig:
        """How the world is made."""
        return WorldConfig(
            days=self.days,
            held_back_share=0.0,
            drawn_users=self.crowd,
            keep_histories=False,
            modifiers=self.modifiers(log, model),
            popular_click_rate=self.popular_click_rate,
            seed=self.seed,
        )

    def modifiers(self, log: InteractionLog, model: UserModel) -> tuple[Modifier, ...]:
        """What changes tastes over the days."""
        return (Drift(scale=0.0),)

    def catalogue(self, log: InteractionLog) -> InteractionLog:
        """The log with the births that its items have in the scenario."""
        births = log.catalogue.birth - OLD_DAYS * SECONDS_PER_DAY
        return replace(log, catalogue=log.catalogue.with_birth(births))

    def make(self) -> World:
        """Built from the log and its user model."""
        log, model = self.fitted()
        log = self.catalogue(log)
        return build_world(log, model, self.config(log, model))


@dataclass(frozen=True, kw_only=True)
class Stationary(Scenario):
    """Nothing changes but chance: no births, no walk, and every visit is the first one of another user."""

    name: ClassVar[str] = "stationary"

    @property
    def crowd(self) -> int:
        return max(self.visits_per_day * self.days, 1)

    @property
    def traffic(self) -> TrafficPlan:
        return replace(super().traffic, fresh_users=True)


@dataclass(frozen=True, kw_only=True)
class Returning(Scenario):
    """Nothing changes but that the same users come back: what models lose here they lose by serving one crowd again and again."""

    name: ClassVar[str] = "returning"


@dataclass(frozen=True, kw_only=True)
class InterestDrift(Modifier):
    """Interests wander as far from day to day as the user model assumes, and return to the middle of all users' as fast as keeps
    them as different as they are: an Ornstein-Uhlenbeck process instead of a random walk, by which they would grow without end.

    Source: Uhlenbeck and Ornstein (1930), On the theory of the Brownian motion, eq. 13.
    """

    rate: float
    """Of the return, per day."""
    centre: tuple[float, ...]
    """[d] middle of the users' long-term interests."""
    shared: float = 0.5
    """Share of the variance of a step that is common to all users, in [0, 1]: fashions."""

    def rest(self, scene: Scene) -> tuple[float, NDArray[np.float32]]:
        return self.rate, np.array(self.centre, np.float32)

    def wander(
        self, scene: Scene, moment: Moment, days: NDArray[np.float32], steps: NDArray[np.float32]
    ) -> NDArray[np.floating]:
        # what is common is the same process, driven by one draw a day for everybody, and runs straight in between
        number = np.arange(FIRST_PATH_DAY, scene.days + 2)
        drive = draw_normal(scene.seed, Purpose.MODIFIER, number[:, None], np.arange(steps.shape[1]))
        path = np.zeros(drive.shape)
        for place in range(1, len(path)):
            path[place] = np.exp(-self.rate) * path[place - 1] + drive[place]

        def at(day: NDArray[np.float64]) -> NDArray[np.float64]:
            place = np.clip(day - FIRST_PATH_DAY, 0, len(path) - 1.001)
            whole = place.astype(np.int64)
            part = (place - whole)[:, None]
            return (1 - part) * path[whole] + part * path[whole + 1]

        time = np.maximum(days.astype(np.float64), 1e-6)[:, None]
        common = (at(moment.day) - np.exp(-self.rate * time) * at(moment.day - days)) / np.sqrt(time)
        # over a long pause a process that returns does not get as far as the root of the time
        reach = np.sqrt(-np.expm1(-2 * self.rate * time) / (2 * self.rate * time)) if self.rate > 0 else 1.0
        return np.sqrt(1 - self.shared) * reach * steps + np.sqrt(self.shared) * common


@dataclass(frozen=True, kw_only=True)
class SlowDrift(Scenario):
    """Interests wander between visits, each day as far as the user model has it; users as a whole stay as different as they are."""

    name: ClassVar[str] = "slow_drift"
    shared: float = 0.0
    """Share of the walk that is common to all users: fashions. By default none: they make everybody like the whole catalogue more,
    or less, by more than a month of wandering ages a model."""

    def modifiers(self, log: InteractionLog, model: UserModel) -> tuple[Modifier, ...]:
        state: Any = replay(model, log)
        if not hasattr(state, "long_term"):
            raise ConfigurationError(
                f"slow_drift moves long-term interests, but the states of {type(model).__name__} have no long_term; take another "
                "user model or scenario."
            )
        interest = state.long_term
        moved = state.take(np.zeros(1, np.int64))
        model.pause(moved, np.zeros(1, np.int64), np.ones(1, np.float32), np.ones((1, model.walk_width), np.float32))
        step = float((moved.long_term - interest[:1]).mean())
        rate = step**2 / max(2 * float(interest.var(axis=0).mean()), 1e-12)
        return (InterestDrift(rate=rate, centre=tuple(interest.mean(axis=0).tolist()), shared=self.shared),)


@dataclass(frozen=True, kw_only=True)
class TopicShock(Modifier):
    """On days that nobody knows beforehand one category falls and another rises, for everybody and for good.

    What is in fashion goes out of it: which category falls is drawn by its share of what was consumed before the run; which rises
    is drawn evenly from the less consumed half.
    """

    consumed: tuple[float, ...]
    """[G] share of each category in what was consumed before the run."""
    strength: float = 1.5
    """Logits by which they fall and rise, of an item that belongs to nothing else."""
    count: int = 2
    """Number of shocks in a run."""
    earliest: float = 0.25
    """Share of the run before which there is none."""
    latest: float = 0.75
    """Share of the run after which there is none."""

    def weights(self, scene: Scene, moment: Moment) -> NDArray[np.float32]:
        weights = np.zeros((len(moment.user), scene.categories.shape[1]), np.float32)
        for onset, falling, rising in self.shocks(scene):
            since = moment.day >= onset
            weights[:, falling] -= self.strength * since
            weights[:, rising] += self.strength * since
        return weights

    def shocks(self, scene: Scene) -> list[tuple[float, int, int]]:
        """(day, category that falls, category that rises) of each; no category twice while there are others."""
        share = np.asarray(self.consumed, np.float64)
        order = np.argsort(-share, kind="stable")
        popular = order[: (len(order) + 1) // 2]
        niche = order[len(popular) :] if len(order) > 1 else order
        number = np.arange(self.count)
        place = self.earliest + (self.latest - self.earliest) * draw_uniform(scene.seed, Purpose.MODIFIER, number, 0)
        # the largest of log(share) plus a Gumbel draw is a draw by share, without replacement from the top down
        taste = draw_uniform(scene.seed, Purpose.MODIFIER, popular, 1).astype(np.float64)
        falling = popular[np.argsort(-(np.log(np.maximum(share[popular], 1e-12)) - np.log(-np.log(taste))))]
        rising = niche[np.argsort(draw_uniform(scene.seed, Purpose.MODIFIER, niche, 2))]
        return [
            (float(place[shock] * scene.days), int(falling[shock % len(falling)]), int(rising[shock % len(rising)]))
            for shock in range(self.count)
        ]


@dataclass(frozen=True, kw_only=True)
class Shock(Scenario):
    """On unknown days a topic that many consume falls and one of the others rises."""

    name: ClassVar[str] = "shock"
    strength: float = 1.5
    """Logits (assumed: the height of `envs.modifiers.CategoryShock`)."""
    count: int = 2

    def modifiers(self, log: InteractionLog, model: UserModel) -> tuple[Modifier, ...]:
        consumed = log.item_counts() @ log.catalogue.categories.astype(np.float64)
        share = consumed / max(consumed.sum(), 1e-12)
        shock = TopicShock(consumed=tuple(share.tolist()), strength=self.strength, count=self.count)
        return (*super().modifiers(log, model), shock)


@dataclass(frozen=True, kw_only=True)
class Ageless(Modifier):
    """Items are liked alike at any age."""

    def age_scale(self, scene: Scene) -> float:
        return 0.0


@dataclass(frozen=True, kw_only=True)
class News(Scenario):
    """Items live for days: as many are born as retire, so that the catalogue keeps its size and is another one after a while.

    Users like items alike at any age; else a catalogue that turns from years old to days old would be liked otherwise for that.
    """

    name: ClassVar[str] = "news"
    life_days: float = 10.0
    """Days from birth to retirement (assumed)."""

    def modifiers(self, log: InteractionLog, model: UserModel) -> tuple[Modifier, ...]:
        return (*super().modifiers(log, model), Ageless())

    def config(self, log: InteractionLog, model: UserModel) -> WorldConfig:
        births = len(log.catalogue) / self.life_days
        return replace(super().config(log, model), births_per_day=births, retire_after_days=self.life_days)


@dataclass(frozen=True, kw_only=True)
class Season(Scenario):
    """Each category has its days of the week, and people come more at weekends."""

    name: ClassVar[str] = "season"
    strength: float = 0.5
    """Standard deviation of the heights of the waves, in logits (assumed: that of `envs.modifiers.WeeklySeason`)."""
    weekend: float = 1.5
    """Visits of a Saturday or Sunday over those of another day (assumed)."""

    def modifiers(self, log: InteractionLog, model: UserModel) -> tuple[Modifier, ...]:
        return (*super().modifiers(log, model), WeeklySeason(strength=self.strength))

    @property
    def traffic(self) -> TrafficPlan:
        weekday = 7 / (5 + 2 * self.weekend)
        factors = (weekday,) * 5 + (weekday * self.weekend,) * 2
        return replace(super().traffic, weekday_traffic=factors)


@dataclass(frozen=True, kw_only=True)
class Growth(Scenario):
    """New users, of whom nothing is known, arrive all along, and traffic grows with them."""

    name: ClassVar[str] = "growth"
    doubling_days: float = 30.0
    """Days in which as many arrive as were there at first (assumed)."""

    def config(self, log: InteractionLog, model: UserModel) -> WorldConfig:
        return replace(super().config(log, model), arrivals_per_day=self.crowd / self.doubling_days)

    @property
    def traffic(self) -> TrafficPlan:
        return replace(super().traffic, grows=True)


SCENARIO = Kind(
    name="scenario",
    wanted="a class with a name and make()",
    error=ConfigurationError,
    known={
        kind.name: f"envs.scenarios:{kind.__name__}"
        for kind in (Stationary, Returning, SlowDrift, Shock, News, Season, Growth)
    },
)
"""Scenarios that come with driftrec, and how others are found."""


@dataclass(frozen=True)
class _OwnScenario:
    """A world of a user's own file, with the traffic that it asks for or plain traffic."""

    world: Any
    traffic: TrafficPlan

    @property
    def name(self) -> str:
        return str(self.world.name)

    def make(self) -> World:
        return self.world.make()


def scenario(spec: str, **settings: Any) -> TrafficScenario:
    """A scenario by name ('slow-drift' is 'slow_drift'), made with `settings` (`Scenario`'s fields), or one of a user's own,
    'path/to/file.py:Class', made without arguments; its `traffic` is a `TrafficPlan`, or plain traffic where it has none. Of the
    settings only an `event_delay` above 0 counts there.

    Raises:
        ConfigurationError: if there is no such scenario, or a user's own lacks a part or has another `traffic`.
    """
    if ":" in spec:
        world = own_world(spec)
        traffic = getattr(world, "traffic", TrafficPlan())
        if not isinstance(traffic, TrafficPlan):
            raise ConfigurationError(
                f"scenario '{spec}': traffic is a {type(traffic).__name__}; it must be an envs.scenarios.TrafficPlan."
            )
        if settings.get("event_delay"):
            return _OwnScenario(world, replace(traffic, event_delay=settings["event_delay"]))
        return world if isinstance(world, TrafficScenario) else _OwnScenario(world, traffic)
    kind: Any = SCENARIO.find(spec.replace("-", "_"))
    return kind(**settings)
