"""Deciding when the served models are refreshed: the environment `driftrec/ModelUpdate-v0`, rules, and a DQN.

A step is a day of simulated traffic. `models` holds what is served and can be rolled back, `traffic` the users of a day,
`monitoring` what an update policy sees, `rules` and `dqn` are such policies, `study` compares them. `costs` counts what
training costs, `registry` keeps every version, `gate` decides whether a challenger goes live, by the measures of `metrics` and the
intervals of `intervals` and `bootstrap`, which `evaluation/` shares.
"""

from agents.updates.monitoring import Monitoring, UpdateAction

__all__ = ["Monitoring", "UpdateAction"]
