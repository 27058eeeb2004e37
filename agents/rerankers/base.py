"""The contract of a re-ranker, and the plainest of them."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from agents.rerankers.weighted import best_first
from envs.artefacts import load_arrays, save_arrays
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.observation import Observation


@dataclass(frozen=True, kw_only=True)
class RerankerConfig:
    """What every configuration of a re-ranker is; one without settings has no fields."""


class Reranker(ABC):
    """Chooses and orders slates from scored candidates. A new one needs only `choose`.

    What `choose` returns for a request depends on that request alone. What `fit` learns are arrays in attributes that end
    in `_`; `save` keeps them with the configuration.
    """

    name: ClassVar[str]
    """Name in configurations, tables and on the command line."""
    config_type: ClassVar[type[RerankerConfig]] = RerankerConfig
    """Class of `config`; `load` makes one of what was saved."""

    def __init__(self, config: RerankerConfig | None = None) -> None:
        self.config = self.config_type() if config is None else config

    def fit(self, log: InteractionLog) -> Self:
        """Learns what the rule needs to know of the items from the policy's log; most need nothing."""
        return self

    def rerank(self, observation: Observation, scores: NDArray[np.float32], slate_size: int) -> NDArray[np.int64]:
        """Chooses slates for N requests.

        Args:
            observation: of N requests; its candidates are scored already, and its recall score is not looked at.
            scores: [N, C] of the ranker, larger is better; of masked candidates they may be anything.
            slate_size: K.

        Returns:
            [N, K] distinct indices into the candidates, the top slot first. Ties go to the earlier candidate; masked
            candidates come after all others, so that their slots stay empty.

        Raises:
            ConfigurationError: if there are fewer candidates than slots, the scores have another shape than the candidates, or
                one of a candidate that may be shown is not finite.
        """
        mask = observation.candidates.mask
        if slate_size > mask.shape[1]:
            raise ConfigurationError(
                f"slate_size is {slate_size}, but there are {mask.shape[1]} candidates; "
                "ask for more candidates or a shorter slate."
            )
        if scores.shape != mask.shape:
            raise ConfigurationError(
                f"scores of shape {scores.shape} do not fit candidates of shape {mask.shape}; score each candidate once."
            )
        wrong = ~np.isfinite(scores) & (mask == 1)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise ConfigurationError(
                f"the ranker gave candidate {column} of request {row} the score {scores[row, column]}; "
                "scores must be finite where a candidate may be shown."
            )
        return self.choose(observation, np.asarray(scores, np.float32), slate_size)

    @abstractmethod
    def choose(self, observation: Observation, scores: NDArray[np.float32], slate_size: int) -> NDArray[np.int64]:
        """The rule: as `rerank`, with arguments that were checked."""

    def save(self, path: Path) -> None:
        """Writes the configuration and what was learnt, whole or not at all."""
        learnt = {name: value for name, value in vars(self).items() if name.endswith("_") and not name.startswith("_")}
        save_arrays(path, f"re-ranker {type(self).__name__}", learnt, asdict(self.config))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            ArtefactError: if the file is damaged or holds another re-ranker.
        """
        arrays, configuration = load_arrays(path, f"re-ranker {cls.__name__}")
        reranker = cls(cls.config_type(**configuration))
        for name, array in arrays.items():
            setattr(reranker, name, array)
        return reranker

    def __repr__(self) -> str:
        settings: dict[str, Any] = asdict(self.config)
        return f"{self.name}({', '.join(f'{name}={value}' for name, value in settings.items())})"


class Greedy(Reranker):
    """The candidates of largest score, best first."""

    name: ClassVar[str] = "greedy"

    def choose(self, observation: Observation, scores: NDArray[np.float32], slate_size: int) -> NDArray[np.int64]:
        """Slates [N, K]."""
        return best_first(scores, observation.candidates.mask, slate_size)
