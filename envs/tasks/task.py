"""What a frozen task fixes: who is simulated, what is offered, what is asked of a policy, and what it earns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.candidate_source import CandidateSource
from envs.errors import ConfigurationError
from envs.measures import RewardWeights
from envs.splits import split_users
from envs.tasks.frozen_users import FrozenUsers
from envs.world import World
from envs.worlds import DriftWorld, LogWorld

CANDIDATE_SOURCES: Mapping[str, str] = {"als": "recall.embedding:EmbeddingRecall"}
"""Recall stages that a task may have, by name; found when they are asked for, since recall stands above this package."""
USERS = ("training", "evaluation", "all")
"""Parts of a task's users."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """An environment that stays the same; a change of anything here, or of what it stands for, is a new version.

    Tasks of the same world share it, and their fitted recall, within a process.
    """

    name: str
    """With its version, as in 'ML100K-Drift-v1'."""
    summary: str
    """What it asks, in one sentence."""
    world: LogWorld | DriftWorld
    """Log, users and what happens in the run; made with the users of a file."""
    recall: str = "als"
    """Where candidates come from, a name in `CANDIDATE_SOURCES`, fitted to the policies' log."""
    recall_seed: int = 0
    """Of what recall draws."""
    slate_size: int = 10
    """K: slots of a slate."""
    num_candidates: int = 100
    """C: candidates of a request."""
    history_size: int = 50
    """H: last consumed items that are observed."""
    reward_weights: RewardWeights = field(default_factory=RewardWeights)
    """Of the scalar reward."""
    split_seed: int = 0
    """Decides which half of the users is trained on."""
    requests: int = 40_000
    """Simulated requests of training users that an agent may spend on learning, for scores that compare."""

    @property
    def id(self) -> str:
        """Its name in gymnasium: 'driftrec/<name>'."""
        return f"driftrec/{self.name}"

    @property
    def users_file(self) -> FrozenUsers:
        """Where the users stand."""
        fitted = self.world.fitted
        assert isinstance(fitted, FrozenUsers)
        return fitted

    def make_world(self) -> World:
        """The world; made once in a process."""
        return _world(self.world)

    def candidate_source(self) -> CandidateSource:
        """The recall stage, fitted; once in a process."""
        return _recall(self.world, self.recall, self.recall_seed)

    def users(self, part: str = "training") -> NDArray[np.int64]:
        """[M] users of one of `USERS`.

        Raises:
            ConfigurationError: if there is no such part.
        """
        if part not in USERS:
            raise ConfigurationError(f"task '{self.name}' has no users '{part}'; it has {', '.join(USERS)}.")
        training, evaluation = split_users(self.make_world(), self.split_seed)
        return {"training": training, "evaluation": evaluation, "all": np.union1d(training, evaluation)}[part]


@lru_cache(maxsize=4)
def _world(world: LogWorld | DriftWorld) -> World:
    return world.make()


@lru_cache(maxsize=4)
def _recall(world: LogWorld | DriftWorld, name: str, seed: int) -> CandidateSource:
    module, _, kind = CANDIDATE_SOURCES[name].partition(":")
    source: Any = getattr(import_module(module), kind)(seed=seed)
    return source.fit(_world(world).policy_log)
