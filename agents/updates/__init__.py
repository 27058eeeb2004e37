"""Deciding when the served models are refreshed: the environment `driftrec/ModelUpdate-v0`, and policies that do so.

A step is a period of simulated traffic. `models` holds what is served and can be rolled back, `traffic` the users of a period,
`market` what all episodes share, `monitoring` what an update policy sees, `policies` are such policies, `study` compares them,
`fronts` puts them by cost and engagement. `costs` counts what training costs, `registry` keeps every version, `gate` decides
whether a challenger goes live, by the measures of `metrics` and the
intervals of `intervals` and `bootstrap`, which `evaluation/` shares.
"""

from agents.updates.monitoring import Monitoring, UpdateAction

__all__ = ["Monitoring", "UpdateAction"]
