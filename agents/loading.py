"""Finds an agent's class by a known name, or in a user's file as "file.py:Class"."""

from typing import Any

from agents.base import Agent
from envs.errors import AgentError
from envs.loading import Kind

RANKERS = {
    "logistic": "LogisticAgent",
    "gbdt": "GBDTAgent",
    "mf_pointwise": "MFPointwiseAgent",
    "mf_bpr": "MFBPRAgent",
    "neumf": "NeuMFAgent",
    "din": "DINAgent",
    "dien": "DIENAgent",
    "gru4rec": "GRU4RecAgent",
    "sasrec": "SASRecAgent",
}
"""Agents that serve by a supervised ranker. They take minutes to fit, so a comparison has them only when asked for them."""
AGENT = Kind(
    name="agent",
    wanted="a subclass of agents.Agent",
    error=AgentError,
    known={
        "random": "agents.heuristics:Random",
        "popular": "agents.heuristics:Popular",
        "freshest": "agents.heuristics:Freshest",
        "mf": "agents.heuristics:MatrixFactorisation",
        "mmr": "agents.heuristics:MMR",
        "constant": "agents.constant:Constant",
        "oracle_myopic": "agents.oracles:OracleMyopic",
        "oracle_lookahead": "agents.oracles:OracleLookahead",
        "ppo": "agents.rl.ppo:PPOAgent",
        "dqn": "agents.rl.dqn:DQNAgent",
        "sb3_ppo": "agents.rl.sb3:SB3PPOAgent",
    }
    | {name: f"agents.rankers.agent:{kind}" for name, kind in RANKERS.items()},
)
"""Where each agent lives; it is imported when it is asked for, so that a run without RL loads neither torch nor ray."""


def agent_names() -> tuple[str, ...]:
    """Names of the agents that come with driftrec."""
    return tuple(AGENT.known)


def default_agents() -> tuple[str, ...]:
    """Names of the agents that a comparison has where none are asked for."""
    return tuple(name for name in AGENT.known if name not in RANKERS)


def resolve_agent(spec: str) -> type[Agent]:
    """The class of an agent.

    Args:
        spec: one of `agent_names()`, or "path/to/file.py:Class".

    Raises:
        AgentError: if there is no such name, file or class, the file fails when it is imported, or the class is not an agent.
    """
    found: Any = AGENT.find(spec)
    if spec in AGENT.known:
        return found
    path, _, class_name = spec.rpartition(":")
    act: Any = getattr(found, "act", None)
    if not callable(act) or getattr(act, "__isabstractmethod__", False):
        raise AgentError(
            f"class '{class_name}' in '{path}' lacks the method act(self, observation), which returns slates [N, K]; add it."
        )
    if not issubclass(found, Agent):
        raise AgentError(
            f"class '{class_name}' in '{path}' is not a subclass of agents.Agent; write 'class {class_name}(Agent):' "
            "and import Agent by 'from agents import Agent'."
        )
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise AgentError(f"class '{class_name}' in '{path}' lacks {', '.join(missing)}; add what is missing.")
    return found
