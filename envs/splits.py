"""Who of a world's users is trained on, and who is kept for judging."""

import numpy as np
from numpy.typing import NDArray

from envs.randomness import Purpose, draw_uniform
from envs.world import World


def split_users(world: World, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(training users, evaluation users): a seeded half of the simulated users each; nobody is in both."""
    users = world.simulated_users
    shuffled = users[np.argsort(draw_uniform(seed, Purpose.SPLIT, users), kind="stable")]
    half = len(users) // 2
    return np.sort(shuffled[:half]), np.sort(shuffled[half:])
