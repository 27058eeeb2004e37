"""Contextual bandits: one linear model of what showing an item earns in this request, learnt by trying.

They are the honest step between supervised rankers and reinforcement learning: they explore and learn from simulated traffic,
but do not look beyond the present request. One file each; docs/rl.md tells them.
"""

from agents.bandits.linucb import LinUCBAgent
from agents.bandits.thompson import ThompsonAgent

__all__ = ["LinUCBAgent", "ThompsonAgent"]
