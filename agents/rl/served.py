"""What the trained agents share: how they are fitted, served, saved and loaded. Serving needs neither Ray nor SB3."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import nn

from agents.actions import WEIGHT_CENTRE, SlateActionWrapper
from agents.base import Agent, Training, TrainingStopped
from agents.rerankers import rerank
from agents.rl.networks import in_blocks, network_from
from agents.summary import PublicItems, summarise, summary_names
from envs.artefacts import content_hash, load_arrays, save_arrays
from envs.errors import AgentError, ArtefactError, ConfigurationError
from envs.logs.schema import InteractionLog
from envs.observation import Observation
from envs.slate_env import SlateVectorEnv

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

    def go_on(self, points: NDArray[np.float64]) -> None:
        """Takes the points [M, 2] of a training that was cut short."""
        for requests, reward in points:
            self.add(int(requests), float(reward))

    def points(self) -> NDArray[np.float64]:
        """[M, 2] requests spent, mean reward of a request."""
        return np.array(self._points, np.float64).reshape(-1, 2)


def checked_training(name: str, training: Training | None) -> Training:
    """The traffic that agent `name` learns from.

    Raises:
        AgentError: if there is none.
        ConfigurationError: if no request may be spent.
    """
    if training is None:
        raise AgentError(
            f"agent '{name}' learns from simulated traffic; pass fit(log, training=Training(...)) or load a trained one."
        )
    if training.requests < 1:
        raise ConfigurationError(f"agent '{name}' needs at least 1 request to train, not {training.requests}.")
    return training


def check_data_set(path: Path, name: str, data: str, log: InteractionLog | None) -> None:
    """Refuses the agent in a file for a log, where one is given, of another data set than that of the fingerprint `data`.

    Raises:
        ArtefactError: if it is another.
    """
    if log is not None and data != fingerprint(log):
        raise ArtefactError(
            f"'{path}' holds a '{name}' agent trained on another data set than '{log.name}'; train it on this one."
        )


def check_items(name: str, observation: Observation, num_items: int) -> None:
    """Refuses requests that name items beyond the `num_items` that agent `name` was trained on.

    Raises:
        AgentError: if there is one.
    """
    most = max(observation.candidates.items.max(initial=-1), observation.history.max(initial=-1))
    if most >= num_items:
        raise AgentError(
            f"agent '{name}' was trained on a catalogue of {num_items} items, these requests name item {most}; "
            "train it on this data set."
        )


class TrainedAgent(Agent):
    """An agent with a policy network that is trained on simulated traffic.

    A subclass says how the network is made, trained and read (`prepare`, `with_actions`, `train`, `network_of`, `choose`), and what
    else it keeps in its file (`kept_arrays`, `kept_content`, `restore`, `fits`).

    Args:
        slate_size: K.
        seed: kept for the record; training takes its seed from `Training`.
        options: the algorithm's settings; see the subclass.
    """

    options_class: ClassVar[type[Any]]
    """Frozen dataclass of the algorithm's settings."""
    autoreset_mode: ClassVar[AutoresetMode] = AutoresetMode.NEXT_STEP

    policy_: Weights
    initial_: Weights
    data_: str
    """Fingerprint of the data set that it was trained on."""

    def __init__(self, slate_size: int = 10, seed: int = 0, options: Any = None) -> None:
        super().__init__(slate_size, seed)
        self.options = self.options_class() if options is None else options
        self.learning_curve_: NDArray[np.float64] = np.zeros((0, 2))

    # ------------------------------------------------------------------ what a subclass adds
    @abstractmethod
    def prepare(self, log: InteractionLog, training: Training) -> None:
        """Learns from the log what the training builds on."""

    @abstractmethod
    def with_actions(self, env: SlateVectorEnv) -> SlateActionWrapper:
        """The environment with this agent's actions."""

    @abstractmethod
    def train(self, make_env: Callable[[int], SlateActionWrapper], training: Training) -> Trained:
        """Trains a policy for `training.requests` requests; `make_env(num_envs)` makes the environment.

        Raises:
            TrainingStopped: if losses or rewards are no longer finite.
        """

    @abstractmethod
    def network_of(self, weights: Weights) -> nn.Module:
        """The policy network with these weights.

        Raises:
            ValueError: if they are not those of such a network.
        """

    @abstractmethod
    def choose(self, observation: Observation) -> NDArray[np.int64]:
        """Slates [N, K] of the trained policy, without exploration."""

    @abstractmethod
    def kept_arrays(self) -> Mapping[str, NDArray[Any]]:
        """What `prepare` learnt, by name."""

    def kept_content(self) -> Mapping[str, Any]:
        """What else `restore` needs, as JSON can hold it."""
        return {}

    @abstractmethod
    def restore(self, arrays: Mapping[str, NDArray[Any]], content: Mapping[str, Any]) -> None:
        """Takes back what `kept_arrays` and `kept_content` gave.

        Raises:
            KeyError, TypeError, ValueError: if a part is missing or of the wrong kind.
        """

    def fits(self) -> bool:
        """Whether the restored parts and the policy's weights belong together."""
        return True

    # ------------------------------------------------------------------ the contract of an agent
    def fit(self, log: InteractionLog, training: Training | None = None) -> Self:
        """Learns from the policy's log, then from simulated traffic.

        Where `training.folder` holds a checkpoint of the same training, agents that write checkpoints go on from it.

        Raises:
            AgentError: if there is no traffic to learn from.
            TrainingStopped: if losses or rewards are no longer finite; the agent is then what it was before that.
        """
        training = checked_training(self.name, training)
        self.data_ = fingerprint(log)
        self.prepare(log, training)

        # the function may travel to workers, whither the progress bar behind `training.report` could not
        traffic = training.make_env

        def make_env(num_envs: int) -> SlateActionWrapper:
            return self.with_actions(traffic(num_envs, self.autoreset_mode))

        try:
            self._take_over(self.train(make_env, training))
        except TrainingStopped as stopped:
            self._take_over(stopped.trained)
            raise
        return self

    def act(self, observation: Observation) -> NDArray[np.int64]:
        """Slates [N, K] of the policy's mean (or greedy) action; a row does not depend on the others.

        Raises:
            AgentError: if the agent is not trained, or was trained on data of another shape.
        """
        if not hasattr(self, "policy_"):
            raise AgentError(f"agent '{self.name}' is not trained; call fit or load first.")
        return self.choose(observation)

    def initial_policy(self) -> Self:
        """This agent as it was before training."""
        agent = copy.copy(self)
        agent._take_over(Trained(self.initial_, self.initial_, np.zeros((0, 2))))
        return agent

    def save(self, path: Path) -> None:
        """Writes the agent, whole or not at all.

        Raises:
            AgentError: if the agent is not trained.
        """
        if not hasattr(self, "policy_"):
            raise AgentError(f"agent '{self.name}' is not trained, so there is nothing to save; call fit first.")
        save_arrays(
            path,
            f"agent {type(self).__name__}",
            {
                **self.kept_arrays(),
                "learning_curve": self.learning_curve_,
                **{f"policy.{name}": array for name, array in self.policy_.items()},
                **{f"initial.{name}": array for name, array in self.initial_.items()},
            },
            {
                "slate_size": self.slate_size,
                "seed": self.seed,
                "options": asdict(self.options),
                "data": self.data_,
                **self.kept_content(),
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
            agent.data_ = configuration["data"]
            agent.restore(arrays, configuration)
            policy, initial = with_prefix(arrays, "policy."), with_prefix(arrays, "initial.")
            agent.network_of(initial)
            agent._take_over(Trained(initial, policy, arrays["learning_curve"].reshape(-1, 2)))
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(f"'{path}' is not a whole '{cls.name}' agent ({error}); train it again.") from error
        if not agent.fits():
            raise ArtefactError(f"'{path}' holds a '{cls.name}' agent whose parts do not fit together; train it again.")
        check_data_set(path, agent.name, agent.data_, log)
        return agent

    def _take_over(self, trained: Trained) -> None:
        self.policy_, self.initial_ = trained.final, trained.initial
        self.learning_curve_ = trained.learning_curve
        self._network: Any = self.network_of(trained.final)


class ReinforcedAgent(TrainedAgent):
    """An agent whose policy network maps a summary of the request to re-ranking weights.

    Of the log it takes popularity and the catalogue.
    """

    num_outputs: int = len(WEIGHT_CENTRE)
    """Outputs of the policy network."""

    items_: PublicItems

    @abstractmethod
    def weights_of_outputs(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Re-ranking weights [N, 4] that the network's outputs [N, A] stand for, without exploration."""

    @abstractmethod
    def wrapped(self, env: Any, items: PublicItems) -> SlateActionWrapper:
        """The environment with this agent's actions."""

    def prepare(self, log: InteractionLog, training: Training) -> None:
        self.items_ = PublicItems.from_log(log)

    def with_actions(self, env: SlateVectorEnv) -> SlateActionWrapper:
        return self.wrapped(env, self.items_)

    def network_of(self, weights: Weights) -> nn.Sequential:
        return network_from(weights)

    def choose(self, observation: Observation) -> NDArray[np.int64]:
        rows = self.rows(observation)
        width = len(self.policy_["0.weight"][0])
        if rows.shape[1] != width:
            raise AgentError(
                f"agent '{self.name}' was trained on summaries of {width} numbers, these have {rows.shape[1]}; "
                "train it on this data set."
            )
        weights = self.weights_of_outputs(in_blocks(self._network, rows))
        return rerank(observation, weights, self.items_.popularity, self.slate_size)

    def rows(self, observation: Observation) -> NDArray[np.float32]:
        """[N, S] what the network sees of N requests."""
        return summarise(observation, self.items_)

    def kept_arrays(self) -> Mapping[str, NDArray[Any]]:
        return {"popularity": self.items_.popularity, "categories": self.items_.categories}

    def restore(self, arrays: Mapping[str, NDArray[Any]], content: Mapping[str, Any]) -> None:
        self.items_ = PublicItems(arrays["popularity"], arrays["categories"])

    def fits(self) -> bool:
        """Whether the network takes summaries of these items and gives this agent's outputs."""
        width_in = len(summary_names(0, self.items_.categories.shape[1]))
        return len(self.items_.popularity) == len(self.items_.categories) and all(
            len(policy["0.weight"][0]) >= width_in and len(policy[f"{len(policy) - 2}.bias"]) == self.num_outputs
            for policy in (self.policy_, self.initial_)
        )


def fingerprint(log: InteractionLog) -> str:
    """Hex digest of what a log says of items and users before anybody consumes anything: names, categories, births, attributes."""
    items, users = log.catalogue, log.users
    arrays = {"items": items.item_ids, "categories": items.categories, "birth": items.birth, "features": users.features}
    return content_hash(arrays, {"categories": items.category_names, "features": users.feature_names})


def with_prefix(arrays: Mapping[str, NDArray[Any]], prefix: str) -> Weights:
    """The arrays whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _tuples(options: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where the options have tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
