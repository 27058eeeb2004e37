"""The worlds in which contenders meet (`envs.worlds`), each under the user models that it has."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from envs.errors import ConfigurationError
from envs.world import World, WorldConfig
from envs.worlds import WORLD, DriftWorld, Fitted, LogWorld, SatiationWorld, made, own_world

__all__ = ["DEFAULT_WORLDS", "PLAIN_MODEL", "WORLD", "Entry", "Fitted", "entries", "own_world"]

DEFAULT_WORLDS = ("log", "drift", "satiation")
PLAIN_MODEL = "parametric"
"""The user model whose worlds bear no suffix."""


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
                found.append(Entry(name + _suffix(model), partial(made, world)))
            elif model == user_models[0]:
                own = SatiationWorld(users=satiation_users, config=config) if spec == "satiation" else own_world(spec)
                found.append(Entry(own.name, partial(made, own)))
    keys = [entry.key for entry in found]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigurationError(f"--worlds names '{key}' twice; name it once, or give your own another `name`.")
    if not found:
        raise ConfigurationError(f"--worlds is empty; name some of {', '.join(DEFAULT_WORLDS)}.")
    return found


def _suffix(user_model: str) -> str:
    return "" if user_model == PLAIN_MODEL else f"_{user_model.rpartition(':')[2].lower()}"
