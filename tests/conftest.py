import os

# one thread is faster for small arrays, and keeps tests that run side by side out of each other's way
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from envs.world import World, default_world


@pytest.fixture(scope="session")
def world() -> World:
    """The world of the synthetic log of seed 0."""
    return default_world()
