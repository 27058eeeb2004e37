"""Finds an update policy's class by a known name, or in a user's file as "file.py:Class"."""

from typing import Any

from agents.updates.policies.base import UpdatePolicy
from envs.errors import AgentError
from envs.loading import Kind, made_from

SB3_ALGORITHMS = ("PPO", "A2C", "DQN")
"""Algorithms of Stable-Baselines3 that choose among actions; each is an update policy 'sb3:NAME'."""
UPDATE_POLICY = Kind(
    name="update policy",
    wanted="a subclass of agents.updates.policies.UpdatePolicy",
    error=AgentError,
    known={
        "never": "agents.updates.policies.rules:Never",
        "every": "agents.updates.policies.rules:Every",
        "after_data": "agents.updates.policies.rules:AfterData",
        "adwin": "agents.updates.policies.detectors:ADWIN",
        "page_hinkley": "agents.updates.policies.detectors:PageHinkley",
        "cara": "agents.updates.policies.cara:CARA",
        "dqn": "agents.updates.policies.learnt:UpdateDQN",
        "ppo": "agents.updates.policies.learnt:UpdatePPO",
    }
    | {f"sb3:{name}": f"agents.updates.policies.sb3:SB3{name}Update" for name in SB3_ALGORITHMS},
)
"""Where each family of update policies lives; it is imported when it is asked for. `hindsight` is none: it knows the future."""
RULES = ("never", "every", "after_data", "adwin", "page_hinkley", "cara")
"""Families that learn nothing: their best configuration is found by trying."""


def update_policy_names() -> tuple[str, ...]:
    """Names of the families that come with driftrec."""
    return tuple(UPDATE_POLICY.known)


def resolve_update_policy(spec: str) -> type[UpdatePolicy]:
    """The class of a family: one of `update_policy_names()`, or "path/to/file.py:Class".

    Raises:
        AgentError: if there is no such name, file or class, the file fails when it is imported, or the class is no update policy.
    """
    library, _, algorithm = spec.partition(":")
    if library == "sb3" and algorithm not in SB3_ALGORITHMS:
        names = ", ".join(f"sb3:{name}" for name in SB3_ALGORITHMS)
        raise AgentError(f"there is no update policy '{spec}': those of Stable-Baselines3 are {names}.")
    found: Any = UPDATE_POLICY.find_derived(spec, UpdatePolicy)
    return found


def make_update_policy(spec: str) -> UpdatePolicy:
    """An update policy with its default settings; one of a user's own is made without arguments.

    Raises:
        AgentError: as `resolve_update_policy`, or if it cannot be made so.
    """
    policy: UpdatePolicy = made_from(UPDATE_POLICY, spec, resolve_update_policy(spec))
    return policy
