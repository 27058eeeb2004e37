"""Worlds in which contenders meet. Each is a small class with a name and `make`."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from envs.errors import ConfigurationError
from envs.loading import Kind
from envs.logs.schema import InteractionLog
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.modifiers import Drift
from envs.users.protocol import UserModel
from envs.world import World, WorldConfig, build_world

DEFAULT_WORLDS = ("log", "drift", "satiation")
PLAIN_MODEL = "parametric"
"""The user model whose worlds bear no suffix."""


class VerdictWorld(Protocol):
    """What a verdict asks of a world, also of one in a user's own file."""

    @property
    def name(self) -> str:
        """Letters, digits and underscores; stands behind the names of figures."""

    def make(self) -> World:
        """The world; the same each time."""


Fitted = Callable[[], tuple[InteractionLog, UserModel]]
"""Gives a log and the user model fitted to it."""


@dataclass(frozen=True, kw_only=True)
class LogWorld:
    """The users of a log as they were fitted, in the log's own catalogue."""

    name: str
    fitted: Fitted
    config: WorldConfig

    def make(self) -> World:
        """Built from the log and its user model."""
        return build_world(*self.fitted(), self.config)


@dataclass(frozen=True, kw_only=True)
class DriftWorld:
    """The same users, whose interests wander five times as fast, while new items are born every day."""

    name: str
    fitted: Fitted
    config: WorldConfig
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
    """A generated log whose users, as they are known to be, tire of a category and take days to recover: planning pays."""

    name: str = "satiation"
    users: int = 600
    config: WorldConfig = field(default_factory=WorldConfig)
    gain: float = 0.8
    """Logits of utility lost per unit of satiation."""
    decay: float = 0.9
    """Share of satiation kept per item consumed."""
    half_life_days: float = 3.0
    """Days in which half of it is forgotten."""

    def make(self) -> World:
        """Generated; no user model is fitted."""
        log, model = generate_log(SyntheticConfig(num_users=self.users, num_categories=8), self.config.seed)
        params = replace(
            model.params,
            satiation_gain=self.gain,
            satiation_decay=self.decay,
            satiation_half_life_days=self.half_life_days,
        )
        return build_world(log, replace(model, params=params), self.config)


WORLD = Kind(
    name="world",
    wanted="a class with a name and make()",
    error=ConfigurationError,
    known={
        "log": "evaluation.verdict.worlds:LogWorld",
        "drift": "evaluation.verdict.worlds:DriftWorld",
        "satiation": "evaluation.verdict.worlds:SatiationWorld",
    },
)


@dataclass(frozen=True)
class Entry:
    """A world under a user model."""

    key: str
    """Name in folders and behind figures: 'drift', 'drift_dien'."""
    make: Callable[[], World]


def entries(
    specs: list[str],
    user_models: list[str],
    log_name: str,
    fitted: Callable[[str], Fitted],
    config: WorldConfig,
    satiation_users: int,
) -> list[Entry]:
    """The worlds of a verdict, in order: each under every user model, where a log is behind it.

    Args:
        specs: names of `DEFAULT_WORLDS`, or "file.py:Class".
        user_models: by name or "file.py:Class".
        log_name: of the log; 'ml-100k' is the world 'ml100k'.
        fitted: user model -> gives the log and the fitted model.
        config: of the worlds that come with driftrec.
        satiation_users: users of the world 'satiation'.

    Raises:
        ConfigurationError: if there is no such world, it has no name or `make`, or two have the same name.
    """
    plain_name = "".join(letter for letter in log_name.lower() if letter.isalnum()) or "log"
    found: list[Entry] = []
    for model in user_models:
        for spec in specs:
            if spec in ("log", "drift"):
                name = plain_name if spec == "log" else spec
                kind: Any = LogWorld if spec == "log" else DriftWorld
                world = kind(name=name, fitted=fitted(model), config=config)
                found.append(Entry(name + _suffix(model), world.make))
            elif model == user_models[0]:
                own = SatiationWorld(users=satiation_users, config=config) if spec == "satiation" else own_world(spec)
                found.append(Entry(own.name, own.make))
    keys = [entry.key for entry in found]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigurationError(f"--worlds names '{key}' twice; name it once, or give your own another `name`.")
    if not found:
        raise ConfigurationError(f"--worlds is empty; name some of {', '.join(DEFAULT_WORLDS)}.")
    return found


def own_world(spec: str) -> VerdictWorld:
    """A world of a user's own file.

    Raises:
        ConfigurationError: if there is no such file or class, it cannot be made without arguments, or lacks a name or
        `make`.
    """
    kind: Any = WORLD.find(spec)
    try:
        world: Any = kind()
    except Exception as error:
        raise ConfigurationError(f"world '{spec}' cannot be made without arguments: {error}") from error
    if not str(getattr(world, "name", "")).isidentifier() or not callable(getattr(world, "make", None)):
        raise ConfigurationError(
            f"world '{spec}' needs a name (letters, digits, underscores) and make(), see docs/verdict.md."
        )
    return world


def _suffix(user_model: str) -> str:
    return "" if user_model == PLAIN_MODEL else f"_{user_model.rpartition(':')[2].lower()}"
