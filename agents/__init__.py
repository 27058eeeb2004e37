"""Agents: the contract, heuristics, the re-ranker they share, constant weights, oracles, and agents trained by RL.

`resolve_agent` finds a class by its name or by "file.py:Class". Importing this package loads neither torch nor ray; it
registers `driftrec/ModelUpdate-v0`.
"""

import gymnasium

from agents.base import Agent, Training, checked_slates
from agents.loading import agent_names, resolve_agent

gymnasium.register(
    id="driftrec/ModelUpdate-v0",
    entry_point="agents.updates.environment:ModelUpdateEnv",
    vector_entry_point="agents.updates.vector_env:ModelUpdateVectorEnv",
)

__all__ = ["Agent", "Training", "agent_names", "checked_slates", "resolve_agent"]
