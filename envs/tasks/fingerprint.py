"""Whether a task is still the one that was frozen: digests of all that decides how it goes, beside those in the repository.

Settings, data and parameters are compared to the bit. That the code still does the same with them is seen in a short run of a few
users under fixed slates; it tells who clicked what, which the last bits of other processors' arithmetic all but never change.
"""

from dataclasses import is_dataclass
from functools import lru_cache
from importlib import metadata
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs.artefacts import content_hash, load_json, save_json
from envs.candidate_source import SampledCandidates
from envs.errors import ConfigurationError
from envs.slate_env import SlateVectorEnv
from envs.tasks.frozen_users import FOLDER
from envs.tasks.task import CANDIDATE_SOURCES, Task
from envs.world import World

PROBED_USERS = 16
"""Users who are simulated for a fingerprint."""
PROBED_REQUESTS = 12
"""Requests of each."""
_NOTHING = object()
REWARD_STEP = 0.02
"""Width of the steps in which rewards are compared."""
REWARD_SHIFT = 0.357
"""Share of a step by which the steps are moved, so that no round reward lies on an edge."""
PARTS = {
    "data": "the log that users and policies start from",
    "users": "the users' parameters",
    "world": "horizon, births, modifiers or another setting of the world",
    "requests": "slates, candidates or the recall stage",
    "reward": "the reward",
    "split": "who is trained on and who is judged on",
    "behaviour": "what users do under the same slates",
}
"""Parts of a fingerprint, and what each is about."""
LATER: dict[tuple[str, str], Any] = {
    ("WorldConfig", "keep_histories"): True,
    ("EmbeddingConfig", "exposure"): False,
}
"""Settings that came after tasks were frozen: (class, name) -> the value with which all is as before, and which does not count."""
FROZEN = FOLDER / "fingerprints.json"


def fingerprint(task: Task) -> dict[str, str]:
    """Part of `PARTS` -> hex digest of what the task is in this version of driftrec."""
    log, model = task.users_file()
    arrays, told = model.stored()
    rows = {name: getattr(log, name) for name in ("user", "item", "timestamp", "clicked", "rating")}
    catalogue = {"categories": log.catalogue.categories, "birth": log.catalogue.birth, "features": log.users.features}
    world, source = task.make_world(), task.candidate_source()
    born = {"birth": world.birth_clock, "born": world.born_in_run, "categories": world.policy_log.catalogue.categories}
    parts: dict[str, tuple[dict[str, NDArray[Any]], Any]] = {
        "data": (rows | catalogue, {"repeats": log.has_repeats}),
        "users": (arrays, {name: told[name] for name in ("params", "visits", "choice")}),
        "world": (born, _plain(world.config)),
        "requests": (
            {},
            {
                "slate_size": task.slate_size,
                "num_candidates": task.num_candidates,
                "history_size": task.history_size,
                "recall": [CANDIDATE_SOURCES[task.recall], _plain(getattr(source, "config", None)), task.recall_seed],
            },
        ),
        "reward": ({}, _plain(task.reward_weights)),
        "split": ({part: task.users(part) for part in ("training", "evaluation")}, task.requests),
        "behaviour": (_lives(task, world), {}),
    }
    return {name: content_hash(arrays, {"told": told}) for name, (arrays, told) in parts.items()}


@lru_cache(maxsize=16)
def check_frozen(task: Task) -> None:
    """Refuses a task that is no longer the one that was frozen; looked at once in a process.

    Raises:
        ConfigurationError: then; tells what has changed, and which version to use.
    """
    frozen = load_json(FROZEN)
    if task.name not in frozen:
        raise ConfigurationError(
            f"task '{task.name}' has no fingerprint in '{FROZEN}', so nobody can tell what it was; known are "
            f"{', '.join(frozen)}."
        )
    kept, now = frozen[task.name], fingerprint(task)
    changed = [PARTS[part] for part in PARTS if kept["parts"].get(part) != now[part]]
    if changed:
        raise ConfigurationError(
            f"task '{task.name}' is not what it was when it was frozen; changed is {'; '.join(changed)}. Scores would not "
            f"compare: use {_newer(task.name, list(frozen))}driftrec {kept['driftrec']}, with which it was frozen "
            f"(this is {_version()})."
        )


def freeze(task: Task) -> None:
    """Writes down the fingerprint of a new task.

    Raises:
        ConfigurationError: if the task has one already.
    """
    frozen = load_json(FROZEN) if FROZEN.exists() else {}
    if task.name in frozen:
        stem, _, version = task.name.rpartition("-v")
        raise ConfigurationError(
            f"task '{task.name}' is frozen already; give what you have changed a new version, {stem}-v{int(version) + 1}."
        )
    save_json(FROZEN, frozen | {task.name: {"driftrec": _version(), "parts": fingerprint(task)}})


def _newer(name: str, known: list[str]) -> str:
    stem, _, version = name.rpartition("-v")
    newer = [int(other.rpartition("-v")[2]) for other in known if other.rpartition("-v")[0] == stem]
    return f"{stem}-v{max(newer)}, or " if max(newer) > int(version) else ""


def _version() -> str:
    try:
        return metadata.version("driftrec")
    except metadata.PackageNotFoundError:
        return "of an unknown version"


def _plain(settings: Any) -> Any:
    """Settings as JSON has them; classes within them by name and value."""
    if is_dataclass(settings) and not isinstance(settings, type):
        kind = type(settings).__qualname__
        fields = {name: getattr(settings, name) for name in settings.__dataclass_fields__}
        known = {name: value for name, value in fields.items() if LATER.get((kind, name), _NOTHING) != value}
        return {"class": kind} | {name: _plain(value) for name, value in known.items()}
    if isinstance(settings, tuple | list):
        return [_plain(each) for each in settings]
    return settings


def _lives(task: Task, world: World) -> dict[str, NDArray[Any]]:
    """What the first users click in their first requests, and who leaves, under slates that hang on neither recall nor agent."""
    users = world.simulated_users[:PROBED_USERS]
    env = SlateVectorEnv(
        len(users),
        world=world,
        candidate_source=SampledCandidates(world.num_items),
        users=users,
        slate_size=task.slate_size,
        num_candidates=min(2 * task.slate_size, world.num_items),
        history_size=task.history_size,
        reward_weights=task.reward_weights,
        autoreset_mode=AutoresetMode.NEXT_STEP,
        seed=0,
    )
    env.reset()
    slates = np.tile(np.arange(task.slate_size), (len(users), 1))
    clicked, left, rewarded = [], [], []
    for _ in range(PROBED_REQUESTS):
        _, reward, _, _, info = env.step(slates)
        clicked.append(info["clicked_item"])
        left.append(info["leave"])
        rewarded.append(np.floor(reward / REWARD_STEP + REWARD_SHIFT).astype(np.int64))
    return {"clicked": np.array(clicked), "left": np.array(left), "rewarded": np.array(rewarded)}
