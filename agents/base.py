"""The contract of an agent, and what it is handed to learn from."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs.artefacts import load_arrays, save_arrays
from envs.errors import AgentError
from envs.logs.schema import InteractionLog
from envs.observation import Observation

if TYPE_CHECKING:
    from envs.slate_env import SlateVectorEnv


@dataclass(frozen=True, kw_only=True)
class Training:
    """Simulated traffic that an agent may learn from: the same amount for every agent that asks for it."""

    make_env: Callable[[int, AutoresetMode], "SlateVectorEnv"]
    """(num_envs, autoreset mode) -> an environment of training users, whom the comparison does not use."""
    requests: int
    """Number of simulated requests (environment steps of single users) that the agent may spend."""
    seed: int
    """Seed of everything random in the training."""
    folder: Path | None = None
    """Where checkpoints and learning curves may be written; None for nowhere. Folders in it that are called checkpoint-... are
    deleted once the agent is saved."""
    rankers: Path | None = None
    """Where rankers that are fitted to this log lie and are left, to be shared by all who build on them (see
    `agents.rankers.loading.fitted_ranker`); None if everybody is to fit its own."""
    report: Callable[[int], None] = lambda requests: None
    """To be called with the number of requests spent so far; moves the progress bar."""


class TrainingStopped(AgentError):
    """A training that could not go on; the agent is what it had learnt before.

    `trained` says the same as `agents.rl.served.Trained` does, where agents learn by that; others hold it themselves.
    """

    def __init__(self, message: str, trained: Any = None) -> None:
        super().__init__(message)
        self.trained = trained


class Agent(ABC):
    """Picks slates from candidates. A new agent needs only `act`.

    `fit` learns from the policy's log and, where the agent wants it, from simulated traffic; learnt attributes end in `_`.
    """

    name: ClassVar[str] = ""
    """Name in tables and on the command line; the class's own name where empty."""
    is_oracle: ClassVar[bool] = False
    """True only for references that look into the simulator; they are marked in every table and plot."""

    def __init__(self, slate_size: int = 10, seed: int = 0) -> None:
        self.slate_size = slate_size
        self.seed = seed

    def fit(self, log: InteractionLog, training: Training | None = None) -> Self:
        """Learns from the policy's log and perhaps from simulated traffic. Heuristics have nothing to learn."""
        return self

    @abstractmethod
    def act(self, observation: Observation) -> NDArray[np.int64] | tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Chooses slates for N requests.

        Returns:
            slates [N, K]: distinct indices into the candidates, the top slot first; or (slates, propensities [N, K]),
            the probability with which each slot's item was chosen given the slots above it.
        """

    def update(self, events: InteractionLog) -> None:
        """Takes in new events (exposures included), if the agent learns online; for callers who serve it over time."""

    def save(self, path: Path) -> None:
        """Writes the learnt state to `path`, whole or not at all. Agents without learnt state write their settings."""
        save_arrays(
            path,
            f"agent {type(self).__name__}",
            self.learnt_arrays(),
            {"slate_size": self.slate_size, "seed": self.seed},
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            ArtefactError: if the file is damaged or holds another agent.
        """
        arrays, configuration = load_arrays(path, f"agent {cls.__name__}")
        agent = cls(**configuration)
        for name, array in arrays.items():
            setattr(agent, name, array)
        return agent

    def learnt_arrays(self) -> dict[str, NDArray[Any]]:
        """Attributes that end in `_`, all of them arrays: what the default `save` keeps.

        Raises:
            AgentError: if one is not an array, so that it would be lost.
        """
        learnt = {name: value for name, value in vars(self).items() if name.endswith("_") and not name.startswith("_")}
        for name, value in learnt.items():
            if not isinstance(value, np.ndarray):
                raise AgentError(
                    f"agent '{self.name or type(self).__name__}' keeps '{name}', a {type(value).__name__}, which the default "
                    "save would lose; override save and load, or keep arrays."
                )
        return learnt

    def initial_policy(self) -> "Agent | None":
        """The agent as it was before training, for agents trained by reinforcement learning; else None."""
        return None


def checked_slates(
    agent_name: str, returned: Any, observation: Observation, slate_size: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(slates [N, K], propensities [N, K], NaN where the agent gave none) after the checks a comparison insists on.

    Masked candidates are let pass (their slot stays empty); where there are fewer candidates than slots they fill the rest.

    Raises:
        AgentError: if the shape is wrong, an index is outside the candidates, or an item stands twice in a slate.
    """
    slates, propensities = returned if isinstance(returned, tuple) else (returned, None)
    slates = np.asarray(slates)
    expected = (len(observation), slate_size)
    if slates.shape != expected or not np.issubdtype(slates.dtype, np.integer):
        raise AgentError(
            f"agent '{agent_name}' returned slates of shape {slates.shape} and type {slates.dtype}; "
            f"act must return integers of shape {expected} (users, slots)."
        )
    count = observation.candidates.items.shape[1]
    outside = (slates < 0) | (slates >= count)
    if outside.any():
        row, slot = np.argwhere(outside)[0]
        raise AgentError(
            f"agent '{agent_name}' put {slates[row, slot]} into slot {slot} of row {row}; "
            f"act must return indices into the candidates, 0 to {count - 1}."
        )
    shown = np.take_along_axis(observation.candidates.mask, slates, axis=1) == 1
    # masked candidates stay empty, so only items that would be shown can collide
    keyed = np.sort(np.where(shown, slates, -1 - np.arange(slate_size)), axis=1)
    repeated = (np.diff(keyed, axis=1) == 0).any(axis=1)
    if repeated.any():
        row = int(np.argmax(repeated))
        raise AgentError(
            f"agent '{agent_name}' put the same candidate twice into the slate of row {row} ({slates[row].tolist()}); "
            "every slot needs a candidate of its own."
        )
    if propensities is None:
        return slates.astype(np.int64), np.full(expected, np.nan, np.float32)
    return slates.astype(np.int64), np.broadcast_to(np.asarray(propensities, np.float32), expected)
