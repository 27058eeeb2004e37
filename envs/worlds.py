"""Worlds by name, small classes with `make`: those that verdicts and frozen tasks are about, or one in a user's own file.

`LogWorld` has the users of a log in the log's own catalogue, `DriftWorld` lets their interests wander fast while items are
born every day, `SatiationWorld` has generated users whom popular items tire of everything, so that planning pays. docs/worlds.md
shows how to write another.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from envs.errors import ConfigurationError, DriftrecError
from envs.loading import Kind, failing_in, made_from
from envs.logs.schema import InteractionLog
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.modifiers import Drift
from envs.users.interest import InterestModel
from envs.users.protocol import UserModel
from envs.world import World, WorldConfig, build_world

Fitted = Callable[[], tuple[InteractionLog, UserModel]]
"""Gives a log and the user model fitted to it."""


class NamedWorld(Protocol):
    """What is asked of a world, also of one in a user's own file."""

    @property
    def name(self) -> str:
        """Letters, digits and underscores; stands behind the names of figures."""

    def make(self) -> World:
        """The world; the same each time."""


@dataclass(frozen=True, kw_only=True)
class LogWorld:
    """The users of a log as they were fitted, in the log's own catalogue."""

    name: str
    fitted: Fitted
    config: WorldConfig = field(default_factory=WorldConfig)

    def make(self) -> World:
        """Built from the log and its user model."""
        return build_world(*self.fitted(), self.config)


@dataclass(frozen=True, kw_only=True)
class DriftWorld:
    """The same users, whose interests wander five times as fast, while new items are born every day."""

    name: str
    fitted: Fitted
    config: WorldConfig = field(default_factory=WorldConfig)
    births_per_day: float = 5.0
    """Mean number of items born on each day, beside those that are withheld."""
    drift: Drift = field(default_factory=Drift)
    """How much faster interests wander."""

    def make(self) -> World:
        """Built from the log and its user model."""
        moved = replace(self.config, births_per_day=self.births_per_day, modifiers=(self.drift,))
        return build_world(*self.fitted(), moved)


@dataclass(frozen=True, kw_only=True)
class SatiationWorld:
    """A generated log whose users tire of what they consume: of most items by category, of *heavy* ones of everything.

    Heavy items are the most popular, and what they take from all that comes after is seen only later: who shows what is clicked
    most now shows too many of them. So planning pays; docs/worlds.md tells how much. Policies see that such an item belongs to
    all categories, not what it does.
    """

    name: str = "satiation"
    users: int = 600
    config: WorldConfig = field(default_factory=WorldConfig)
    gain: float = 3.0
    """Logits of utility lost per unit of satiation."""
    decay: float = 0.9
    """Share of satiation kept per item consumed."""
    half_life_days: float = 3.0
    """Days in which half of it is forgotten."""
    heavy_share: float = 0.1
    """Share of the items that are heavy."""
    heavy_load: float = 6.0
    """Satiation that such an item leaves, all categories together; another leaves 1."""
    heavy_appeal: float = 3.0
    """Logits by which such an item is more popular than it would be otherwise."""

    def generated(self) -> tuple[InteractionLog, InterestModel]:
        """The log, and the users who made it as they are known to be."""
        config = SyntheticConfig(
            num_users=self.users,
            num_categories=8,
            satiation_gain=self.gain,
            satiation_decay=self.decay,
            satiation_half_life_days=self.half_life_days,
            heavy_share=self.heavy_share,
            heavy_load=self.heavy_load,
            heavy_appeal=self.heavy_appeal,
        )
        return generate_log(config, self.config.seed)

    def make(self) -> World:
        """Generated; no user model is fitted."""
        return build_world(*self.generated(), self.config)


WORLD = Kind(
    name="world",
    wanted="a class with a name and make()",
    error=ConfigurationError,
    known={
        "log": "envs.worlds:LogWorld",
        "drift": "envs.worlds:DriftWorld",
        "satiation": "envs.worlds:SatiationWorld",
    },
)
"""Worlds that come with driftrec, and how others are found; the first two are about a log and take it as an argument."""


def own_world(spec: str) -> NamedWorld:
    """A world of a user's own file, 'path/to/file.py:Class', made without arguments.

    Raises:
        ConfigurationError: if there is no such file or class, it cannot be made without arguments, or lacks a name or `make`.
    """
    kind: Any = WORLD.find(spec)
    path, _, class_name = spec.rpartition(":")
    world: Any = made_from(WORLD, spec, kind)
    if not str(getattr(world, "name", "")).isidentifier():
        raise ConfigurationError(
            f"world '{class_name}' in '{path}' needs a name of letters, digits and underscores; write name = \"my_world\"."
        )
    if not callable(getattr(world, "make", None)):
        raise ConfigurationError(
            f"world '{class_name}' in '{path}' lacks the method make(self), which returns an envs.world.World; add it."
        )
    return world


def made(world: NamedWorld) -> World:
    """What a world's `make` returns, checked; a fault in a user's own file is told in one sentence.

    Raises:
        ConfigurationError: if `make` fails or returns anything else than a World.
    """
    try:
        built = world.make()
    except DriftrecError:
        raise
    except Exception as error:
        if type(world).__module__ == __name__:
            raise
        raise ConfigurationError(failing_in("world", world, "make", error)) from error
    if not isinstance(built, World):
        raise ConfigurationError(
            f"world '{world.name}': make returned a {type(built).__name__}; it must return an envs.world.World, "
            "as envs.world.build_world makes it."
        )
    return built
