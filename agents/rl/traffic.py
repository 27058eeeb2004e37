"""The state of simulated traffic as bytes, without the world in which it happens."""

import io
import pickle
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv
from ray import cloudpickle

LEARNER_FILE = "learner.pkl"
"""In the folder of a learner that is not RLlib's."""
LEFT_OUT = ("world", "candidate_source", "items", "rankers", "blend")
"""Attributes of an environment, or of what it wraps, that the same configuration makes again and training does not change."""


def without_world(content: Any, env: VectorEnv[Any, Any, Any]) -> bytes:
    """Bytes of something that holds `env`; `with_world` reads them in a process that has made the same environment."""
    places = {id(shared): place for place, shared in _shared(env).items()}

    class Pickler(cloudpickle.CloudPickler):
        def persistent_id(self, found: Any) -> str | None:
            return places.get(id(found))

    kept = io.BytesIO()
    Pickler(kept).dump(content)
    return kept.getvalue()


def with_world(kept: bytes, env: VectorEnv[Any, Any, Any]) -> Any:
    """What `without_world` was given, in the world of `env`."""
    shared = _shared(env)

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, place: str) -> Any:
            return shared[place]

    return Unpickler(io.BytesIO(kept)).load()


def write_learner(folder: str, content: Any, env: VectorEnv[Any, Any, Any]) -> None:
    """Makes `folder` and writes into it what a learner goes on from; `read_learner` takes it back."""
    Path(folder).mkdir()
    (Path(folder) / LEARNER_FILE).write_bytes(without_world(content, env))


def read_learner(folder: str, env: VectorEnv[Any, Any, Any]) -> Any:
    """What `write_learner` was given, in the world of `env`."""
    return with_world((Path(folder) / LEARNER_FILE).read_bytes(), env)


def _shared(env: Any) -> dict[str, Any]:
    """By place, what is left out."""
    found, depth = {}, 0
    while env is not None:
        for name in LEFT_OUT:
            if vars(env).get(name) is not None:
                found[f"{depth}.{name}"] = vars(env)[name]
        env, depth = vars(env).get("env"), depth + 1
    return found
