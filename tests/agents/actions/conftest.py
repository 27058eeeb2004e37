from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from agents.rankers.base import Ranker
from agents.rankers.popularity import Popularity
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.slate_env import SlateVectorEnv
from envs.world import WorldConfig, build_world
from recall.embedding import EmbeddingConfig, EmbeddingRecall


class Youngest(Ranker):
    """The newest item first: a ranker that disagrees with the popular one."""

    name = "youngest"

    def _fit(self, training: Any, validation: Any, progress: Any, folder: Path | None) -> None:
        """Nothing to learn."""

    def _update(self, samples: Any) -> None:
        """Nothing to learn."""

    def _score(self, batch: Any) -> Any:
        return -batch.ages


@pytest.fixture(scope="session")
def small_world():
    """Short lives, so that many end in a test."""
    log, user_model = generate_log(SyntheticConfig(num_users=60, num_items=150), seed=3)
    return build_world(log, user_model, WorldConfig(days=4, seed=1))


@pytest.fixture(scope="session")
def two_rankers(small_world):
    return tuple(kind().fit(small_world.policy_log) for kind in (Popularity, Youngest))


@pytest.fixture(scope="session")
def recall(small_world):
    return EmbeddingRecall(EmbeddingConfig(dimension=8, iterations=2)).fit(small_world.policy_log)


@pytest.fixture
def make_env(small_world, recall):
    """make_env(num_envs=12, mode=NEXT_STEP, **further): 20 candidates, 4 slots."""

    def make(num_envs=12, mode=AutoresetMode.NEXT_STEP, **further):
        arguments = {
            "candidate_source": recall,
            "num_candidates": 20,
            "slate_size": 4,
            "history_size": 6,
            "seed": 3,
            **further,
        }
        return SlateVectorEnv(num_envs, world=small_world, autoreset_mode=mode, **arguments)

    return make


class FewCandidates:
    """A candidate source that finds `count` items for each request, and none where it is 0."""

    def __init__(self, count: int) -> None:
        self.count = count

    def candidates(self, request: Any, count: int) -> Any:
        rows = len(request.user)
        items = np.full((rows, count), -1, np.int32)
        items[:, : self.count] = np.arange(self.count)
        return items, np.where(items >= 0, -items, 0).astype(np.float32)


@pytest.fixture
def few_candidates():
    return FewCandidates
