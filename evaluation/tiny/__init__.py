"""A world so small that its best policies are known exactly, in the real environment: what agents must reach before results count.

`world.py` makes it, `planning.py` solves it, `exploring.py` tells what exploring costs in it, `docs/tiny-world.md` tells it.
"""

from evaluation.tiny.exploring import best_while_exploring, climbed
from evaluation.tiny.planning import (
    Plan,
    reachable_by_blend,
    reachable_by_presets,
    reachable_by_weights,
    weights_of_slates,
)
from evaluation.tiny.world import TinyModel, tiny_env, tiny_observation, tiny_training, tiny_world

__all__ = [
    "Plan",
    "TinyModel",
    "best_while_exploring",
    "climbed",
    "reachable_by_blend",
    "reachable_by_presets",
    "reachable_by_weights",
    "tiny_env",
    "tiny_observation",
    "tiny_training",
    "tiny_world",
    "weights_of_slates",
]
