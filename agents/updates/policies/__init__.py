"""Update policies: what decides before each period of traffic whether the served models are kept, updated or retrained.

`base` is the contract; `rules` follow a calendar or count data, `detectors` and `cara` react to what monitoring shows, `schedule`
and `hindsight` look at nothing or at everything, `learnt` (by `rllib`) and `sb3` are trained on episodes (`training_env`).
`loading` finds them by name or in a user's file; `tuning` finds a family's best configuration by whole episodes (`playing`).
"""

from agents.updates.policies.base import UPDATES, MarketFacts, UpdatePolicy, decide
from agents.updates.policies.loading import make_update_policy, resolve_update_policy, update_policy_names

__all__ = [
    "UPDATES",
    "MarketFacts",
    "UpdatePolicy",
    "decide",
    "make_update_policy",
    "resolve_update_policy",
    "update_policy_names",
]
