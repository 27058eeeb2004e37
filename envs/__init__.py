"""Logs, users and the environment: what is logged, who is simulated, and what a policy meets.

From an interaction log (`envs.logs`) a user model is fitted (`envs.users`); a `World` draws the line between what policies
may learn from and what stays hidden; the batched engine steps N users of it; `SlateVectorEnv` is gymnasium's face.
Importing this package registers `driftrec/Slate-v0` and the frozen tasks (`envs.tasks`).
"""

import gymnasium

from envs.catalogue import Catalogue
from envs.logs.schema import InteractionLog, Users
from envs.measures import RewardWeights
from envs.observation import Candidates, Observation

gymnasium.register(
    id="driftrec/Slate-v0",
    entry_point="envs.single_env:SlateEnv",
    vector_entry_point="envs.slate_env:SlateVectorEnv",
)

TASK_NAMES = ("ML100K-v1", "ML100K-Clicks-v1", "ML100K-Drift-v1", "Satiation-v1", "Satiation-Small-v1")
"""Frozen tasks; what each is stands in `envs.tasks.known`, which is imported when one is made."""
for _name in TASK_NAMES:
    gymnasium.register(
        id=f"driftrec/{_name}",
        entry_point="envs.tasks.environments:task_env",
        vector_entry_point="envs.tasks.environments:task_vector_env",
        kwargs={"task": _name},
    )

__all__ = ["TASK_NAMES", "Candidates", "Catalogue", "InteractionLog", "Observation", "RewardWeights", "Users"]
