from dataclasses import replace

import numpy as np
import pytest

from agents.rankers.log_history import LogHistory
from envs.logs.schema import InteractionLog
from envs.logs.synthetic import SyntheticConfig, generate_log

SMALL = SyntheticConfig(num_users=40, num_items=60, events_per_user=25, num_categories=5)


@pytest.fixture(scope="session")
def shown_log() -> InteractionLog:
    """A log with exposures: slates of ten, mostly passed over."""
    return generate_log(SMALL, seed=11)[0]


@pytest.fixture(scope="session")
def rated_log() -> InteractionLog:
    """A log of consumption alone, with ratings."""
    return generate_log(replace(SMALL, with_exposures=False), seed=12)[0]


@pytest.fixture(scope="session")
def ask():
    """Makes a ranking input of some rows of a log with random items: ask(log, rows, count, seed=0)."""

    def make(log, rows, count, seed=0):
        random = np.random.default_rng(seed)
        items = np.argsort(random.random((len(rows), len(log.catalogue))), axis=1)[:, :count].astype(np.int32)
        return replace(LogHistory(log, 20).inputs(np.asarray(rows), items), counts=None)

    return make
