"""Logs, users and the environment: what is logged, who is simulated, and what a policy meets.

From an interaction log (`envs.logs`) a user model is fitted (`envs.users`); a `World` draws the line between what policies
may learn from and what stays hidden; the batched engine steps N users of it; `SlateVectorEnv` is gymnasium's face.
Importing this package registers `driftrec/Slate-v0`.
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

__all__ = ["Candidates", "Catalogue", "InteractionLog", "Observation", "RewardWeights", "Users"]
