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
"""Agents that serve by a supervised ranker."""
SB3_ALGORITHMS = ("PPO", "A2C", "DQN", "SAC", "TD3", "DDPG")
"""Algorithms of Stable-Baselines3; each is an agent 'sb3:NAME'."""
ON_REQUEST = (
    *RANKERS,
    *("linucb", "thompson", "ppo_blend", "ppo_slate", "ppo_preference", "marwil", "dqn_slots", "slateq", "drn"),
    *(f"sb3:{name}" for name in SB3_ALGORITHMS),
)
"""Agents that a comparison has only when asked for them: they take minutes to fit, or do what others do already."""
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
        "linucb": "agents.bandits.linucb:LinUCBAgent",
        "thompson": "agents.bandits.thompson:ThompsonAgent",
        "ppo": "agents.rl.ppo:PPOAgent",
        "dqn": "agents.rl.dqn:DQNAgent",
        "ppo_blend": "agents.rl.ppo_blend:PPOBlendAgent",
        "ppo_slate": "agents.rl.ppo_slate:PPOSlateAgent",
        "ppo_preference": "agents.rl.ppo_preference:PPOPreferenceAgent",
        "marwil": "agents.rl.marwil:MARWILAgent",
        "dqn_slots": "agents.rl.dqn_slots:DQNSlotsAgent",
        "slateq": "agents.rl.slateq:SlateQAgent",
        "drn": "agents.updates.drn:DRNAgent",
        "sb3_ppo": "agents.rl.sb3:SB3PPOAgent",
    }
    | {f"sb3:{name}": f"agents.rl.sb3:SB3{name}Agent" for name in SB3_ALGORITHMS}
    | {name: f"agents.rankers.agent:{kind}" for name, kind in RANKERS.items()},
)
"""Where each agent lives; it is imported when it is asked for, so that a run without RL loads neither torch nor ray."""


def agent_names() -> tuple[str, ...]:
    """Names of the agents that come with driftrec."""
    return tuple(AGENT.known)


def default_agents() -> tuple[str, ...]:
    """Names of the agents that a comparison has where none are asked for."""
    return tuple(name for name in AGENT.known if name not in ON_REQUEST)


def resolve_agent(spec: str) -> type[Agent]:
    """The class of an agent.

    Args:
        spec: one of `agent_names()`, or "path/to/file.py:Class".

    Raises:
        AgentError: if there is no such name, file or class, the file fails when it is imported, or the class is not an agent.
    """
    library, _, algorithm = spec.partition(":")
    if library == "sb3" and algorithm not in SB3_ALGORITHMS:
        raise AgentError(
            f"there is no agent '{spec}': algorithms of Stable-Baselines3 are "
            f"{', '.join(f'sb3:{name}' for name in SB3_ALGORITHMS)}."
        )
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
