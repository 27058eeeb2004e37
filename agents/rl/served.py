"""What the trained agents share: how they are fitted, served, saved and loaded. Serving needs neither Ray nor SB3."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import nn

from agents.actions import WEIGHT_CENTRE, SlateActionWrapper
from agents.base import Agent, Training
from agents.rerankers import rerank
from agents.rl.networks import in_blocks, network_from
from agents.summary import PublicItems, summarise, summary_names
from envs.artefacts import load_arrays, save_arrays
from envs.errors import AgentError, ArtefactError, ConfigurationError
from envs.logs.schema import InteractionLog
from envs.observation import Observation

Weights = dict[str, NDArray[np.float32]]
"""Weights of a policy network by name; see `agents.rl.networks.arrays_of`."""


@dataclass(frozen=True)
class Trained:
    """What a training returns."""

    initial: Weights
    """The policy before training."""
    final: Weights
    """The policy after it."""
    learning_curve: NDArray[np.float64]
    """[M, 2] requests spent, mean reward of a request since the point before."""


class LearningCurve:
    """Collects the points of a learning curve, and tells the progress bar.

    A point is the mean reward of the requests since the last point. The return of a life would be biased: of lives begun
    together, the short ones end first.
    """

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report = report
        self._points: list[tuple[int, float]] = []

    def add(self, requests: int, reward: float) -> None:
        """Takes the mean reward of the requests since the last call; `requests` were spent so far."""
        self._points.append((requests, reward))
        self._report(requests)

    def points(self) -> NDArray[np.float64]:
        """[M, 2] requests spent, mean reward of a request."""
        return np.array(self._points, np.float64).reshape(-1, 2)


class ReinforcedAgent(Agent):
    """An agent whose policy network maps a summary of the request to re-ranking weights.

    Args:
        slate_size: K.
        seed: kept for the record; training takes its seed from `Training`.
        options: the algorithm's settings; see the subclass.
    """

    options_class: ClassVar[type[Any]]
    """Frozen dataclass of the algorithm's settings."""
    num_outputs: ClassVar[int] = len(WEIGHT_CENTRE)
    """Outputs of the policy network."""
    autoreset_mode: ClassVar[AutoresetMode] = AutoresetMode.NEXT_STEP

    def __init__(self, slate_size: int = 10, seed: int = 0, options: Any = None) -> None:
        super().__init__(slate_size, seed)
        self.options = self.options_class() if options is None else options
        self.learning_curve_: NDArray[np.float64] = np.zeros((0, 2))

    @staticmethod
    @abstractmethod
    def weights_of_outputs(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Re-ranking weights [N, 4] that the network's outputs [N, A] stand for, without exploration."""

    @staticmethod
    @abstractmethod
    def wrapped(env: Any, items: PublicItems) -> SlateActionWrapper:
        """The environment with this agent's actions."""

    @abstractmethod
    def train(self, make_env: Callable[[int], SlateActionWrapper], training: Training) -> Trained:
        """Trains a policy for `training.requests` requests; `make_env(num_envs)` makes the environment."""

    def fit(self, log: InteractionLog, training: Training | None = None) -> Self:
        """Learns from simulated traffic; of the log it takes popularity and the catalogue.

        Raises:
            AgentError: if there is no traffic to learn from.
        """
        if training is None:
            raise AgentError(
                f"agent '{self.name}' learns from simulated traffic; pass fit(log, training=Training(...)) "
                "or load a trained one."
            )
        if training.requests < 1:
            raise ConfigurationError(f"agent '{self.name}' needs at least 1 request to train, not {training.requests}.")
        items = PublicItems.from_log(log)

        def make_env(num_envs: int) -> SlateActionWrapper:
            return self.wrapped(training.make_env(num_envs, self.autoreset_mode), items)

        trained = self.train(make_env, training)
        self._take_over(items, trained.final, trained.initial, _fingerprint(log))
        self.learning_curve_ = trained.learning_curve
        return self

    def act(self, observation: Observation) -> NDArray[np.int64]:
        """Slates [N, K] of the policy's mean (or greedy) action; a row does not depend on the others.

        Raises:
            AgentError: if the agent is not trained, or was trained on data of another shape.
        """
        if not hasattr(self, "items_"):
            raise AgentError(f"agent '{self.name}' is not trained; call fit or load first.")
        summaries = summarise(observation, self.items_)
        width = len(self.policy_["0.weight"][0])
        if summaries.shape[1] != width:
            raise AgentError(
                f"agent '{self.name}' was trained on summaries of {width} numbers, these have {summaries.shape[1]}; "
                "train it on this data set."
            )
        weights = self.weights_of_outputs(in_blocks(self._network, summaries))
        return rerank(observation, weights, self.items_.popularity, self.slate_size)

    def initial_policy(self) -> Self:
        """This agent as it was before training."""
        agent = type(self)(self.slate_size, self.seed, self.options)
        agent._take_over(self.items_, self.initial_, self.initial_, self.data_)
        return agent

    def save(self, path: Path) -> None:
        """Writes the agent, whole or not at all.

        Raises:
            AgentError: if the agent is not trained.
        """
        if not hasattr(self, "items_"):
            raise AgentError(f"agent '{self.name}' is not trained, so there is nothing to save; call fit first.")
        save_arrays(
            path,
            f"agent {type(self).__name__}",
            {
                "popularity": self.items_.popularity,
                "categories": self.items_.categories,
                "learning_curve": self.learning_curve_,
                **{f"policy.{name}": array for name, array in self.policy_.items()},
                **{f"initial.{name}": array for name, array in self.initial_.items()},
            },
            {
                "slate_size": self.slate_size,
                "seed": self.seed,
                "options": asdict(self.options),
                "data": self.data_,
            },
        )

    @classmethod
    def load(cls, path: Path, log: InteractionLog | None = None) -> Self:
        """Reads what `save` wrote.

        Args:
            path: the file.
            log: the log that the agent is to serve, if it shall be checked that it was trained on that data set.

        Raises:
            ArtefactError: if the file is damaged, holds another agent, or one of another data set.
        """
        arrays, configuration = load_arrays(path, f"agent {cls.__name__}")
        try:
            agent = cls(
                configuration["slate_size"],
                configuration["seed"],
                cls.options_class(**_tuples(configuration["options"])),
            )
            items = PublicItems(arrays["popularity"], arrays["categories"])
            policy, initial = _with_prefix(arrays, "policy."), _with_prefix(arrays, "initial.")
            agent._take_over(items, policy, initial, configuration["data"])
            network_from(initial)
            agent.learning_curve_ = arrays["learning_curve"].reshape(-1, 2)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(f"'{path}' is not a whole '{cls.name}' agent ({error}); train it again.") from error
        if not agent._fits():
            raise ArtefactError(f"'{path}' holds a '{cls.name}' agent whose parts do not fit together; train it again.")
        if log is not None and configuration["data"] != _fingerprint(log):
            raise ArtefactError(
                f"'{path}' holds a '{cls.name}' agent trained on another data set than '{log.name}'; train it on this one."
            )
        return agent

    def _take_over(self, items: PublicItems, policy: Weights, initial: Weights, data: str) -> None:
        self.items_, self.policy_, self.initial_, self.data_ = items, policy, initial, data
        self._network: nn.Sequential = network_from(policy)

    def _fits(self) -> bool:
        """Whether the network takes summaries of these items and gives this agent's outputs."""
        width_in = len(summary_names(0, self.items_.categories.shape[1]))
        return len(self.items_.popularity) == len(self.items_.categories) and all(
            len(policy["0.weight"][0]) >= width_in and len(policy[f"{len(policy) - 2}.bias"]) == self.num_outputs
            for policy in (self.policy_, self.initial_)
        )


def _fingerprint(log: InteractionLog) -> str:
    """Hex digest of the names of a log's items, categories and user attributes."""
    names = "\0".join([*log.catalogue.item_ids.tolist(), *log.catalogue.category_names, *log.users.feature_names])
    return sha256(names.encode()).hexdigest()


def _with_prefix(arrays: dict[str, NDArray[Any]], prefix: str) -> Weights:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _tuples(options: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where the options have tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
