"""Agents that serve what a ranker scores highest, one for each ranker that comes with driftrec."""

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, Training
from agents.rankers.base import Ranker, RankerConfig
from agents.rankers.loading import fitted_ranker, resolve_ranker
from agents.rankers.ranking_input import RankingInput
from agents.rerankers import best_first
from envs.artefacts import load_json, save_json
from envs.catalogue import Catalogue
from envs.errors import ArtefactError
from envs.logs.schema import InteractionLog
from envs.observation import Observation


class RankerAgent(Agent):
    """Shows the candidates that a ranker scores highest, best first.

    The ranker is fitted to the policy's log, and goes on learning from what `update` is given. A subclass names its ranker by its
    own `name`, or has `spec` say which it is.

    Args:
        slate_size: K.
        seed: of the ranker's fit.
        config: of the ranker, by default its own.
    """

    spec: ClassVar[str] = ""
    """Ranker's name or "file.py:Class"; the agent's own name where empty."""
    ranker_: Ranker

    def __init__(self, slate_size: int = 10, seed: int = 0, config: RankerConfig | None = None) -> None:
        super().__init__(slate_size, seed)
        self.config = config

    def fit(self, log: InteractionLog, training: Training | None = None) -> Self:
        """Fits the ranker to the policy's log; simulated traffic is not asked for."""
        curves = training.folder if training is not None else None
        if self.config is None:
            shared = training.rankers if training is not None else None
            self.ranker_ = fitted_ranker(self.spec or self.name, log, self.seed, curves=curves, shared=shared)
        else:
            self.ranker_ = self._ranker_class()(self.config, self.seed).fit(log, folder=curves)
        return self

    def act(self, observation: Observation) -> NDArray[np.int64]:
        """Slates [N, K]."""
        scores = self.ranker_.score(RankingInput.of(observation))
        return best_first(scores, observation.candidates.mask, self.slate_size)

    def update(self, events: InteractionLog) -> None:
        """The ranker learns from new events."""
        self.ranker_.update(events)

    def save(self, path: Path) -> None:
        """Writes the agent's settings to `path`, and before that the ranker to a file of that name with '.safetensors' behind."""
        self.ranker_.save(_weights(path))
        save_json(path, {"agent": type(self).__name__, "slate_size": self.slate_size, "seed": self.seed})

    @classmethod
    def load(cls, path: Path, catalogue: Catalogue | None = None) -> Self:
        """Reads what `save` wrote.

        Args:
            path: the file.
            catalogue: the catalogue that is to be served; one that the ranker was not fitted on is refused.

        Raises:
            ArtefactError: if a file is missing or damaged, or holds another agent, or one of another catalogue.
        """
        about: Any = load_json(path)
        if not isinstance(about, dict) or about.get("agent") != cls.__name__:
            raise ArtefactError(f"'{path}' does not hold an agent {cls.__name__}; delete it and make it again.")
        ranker = cls._ranker_class().load(_weights(path), catalogue)
        agent = cls(about["slate_size"], about["seed"], ranker.config)
        agent.ranker_ = ranker
        return agent

    @classmethod
    def _ranker_class(cls) -> type[Ranker]:
        return resolve_ranker(cls.spec or cls.name)


def _weights(path: Path) -> Path:
    return path.with_name(f"{path.name}.safetensors")


class LogisticAgent(RankerAgent):
    """Serves by `agents.rankers.logistic`."""

    name: ClassVar[str] = "logistic"


class GBDTAgent(RankerAgent):
    """Serves by `agents.rankers.gbdt`."""

    name: ClassVar[str] = "gbdt"


class MFPointwiseAgent(RankerAgent):
    """Serves by `agents.rankers.mf_pointwise`."""

    name: ClassVar[str] = "mf_pointwise"


class MFBPRAgent(RankerAgent):
    """Serves by `agents.rankers.mf_bpr`."""

    name: ClassVar[str] = "mf_bpr"


class NeuMFAgent(RankerAgent):
    """Serves by `agents.rankers.neumf`."""

    name: ClassVar[str] = "neumf"


class DINAgent(RankerAgent):
    """Serves by `agents.rankers.din`."""

    name: ClassVar[str] = "din"


class DIENAgent(RankerAgent):
    """Serves by `agents.rankers.dien`."""

    name: ClassVar[str] = "dien"


class GRU4RecAgent(RankerAgent):
    """Serves by `agents.rankers.gru4rec`."""

    name: ClassVar[str] = "gru4rec"


class SASRecAgent(RankerAgent):
    """Serves by `agents.rankers.sasrec`."""

    name: ClassVar[str] = "sasrec"
