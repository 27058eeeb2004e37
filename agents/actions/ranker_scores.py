"""What fitted rankers say of a request's candidates, on a scale that all of them share."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from agents.base import Training
from agents.rankers.base import Ranker
from agents.rankers.loading import fitted_ranker, resolve_ranker
from agents.rankers.ranking_input import RankingInput
from agents.rerankers.weighted import standardised
from envs.catalogue import Catalogue
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.observation import Observation


class RankerScores:
    """Scores of fitted rankers, each standardised over the candidates of a request that may be shown.

    Rankers differ in scale, and pairwise ones have no zero: only the order and the distances within a request mean anything.

    Args:
        rankers: fitted, of different names.

    Raises:
        ConfigurationError: if two have the same name, or one is not fitted.
    """

    def __init__(self, rankers: Iterable[Ranker]) -> None:
        self.rankers = tuple(rankers)
        self.names = tuple(ranker.name for ranker in self.rankers)
        _check_names(self.names)
        for ranker in self.rankers:
            if not hasattr(ranker, "categories_"):
                raise ConfigurationError(f"ranker '{ranker.name}' is not fitted; call its fit(log) first.")

    @classmethod
    def fit(
        cls,
        specs: Sequence[str],
        log: InteractionLog,
        seed: int,
        *,
        curves: Path | None = None,
        shared: Path | None = None,
    ) -> Self:
        """Rankers fitted to a log.

        Args:
            specs: their names, or "file.py:Class".
            log: the policy's log.
            seed: of all fits.
            curves: where each writes TensorBoard curves, in a folder of its own; None for nowhere.
            shared: see `fitted_ranker`, also for what it raises.

        Raises:
            ConfigurationError: if there is no such ranker, or two have the same name.
        """
        # what is wrong with the names is told before minutes are spent on fits
        names = [resolve_ranker(spec).name for spec in specs]
        _check_names(names)
        return cls(
            fitted_ranker(spec, log, seed, curves=None if curves is None else curves / name, shared=shared)
            for spec, name in zip(specs, names, strict=True)
        )

    @classmethod
    def for_training(cls, specs: Sequence[str], log: InteractionLog, training: Training) -> Self:
        """Those of an agent that builds on them: `fit` with the training's seed, folders and shared rankers."""
        curves = None if training.folder is None else training.folder / "rankers"
        return cls.fit(specs, log, training.seed, curves=curves, shared=training.rankers)

    def arrays(self) -> dict[str, NDArray[np.uint8]]:
        """The bytes of the file that each ranker writes, by its place: for an agent that keeps all in one file."""
        packed = {}
        with tempfile.TemporaryDirectory() as folder:
            for place, ranker in enumerate(self.rankers):
                path = Path(folder) / f"ranker{place}"
                ranker.save(path)
                packed[f"ranker.{place}"] = np.frombuffer(path.read_bytes(), np.uint8)
        return packed

    @classmethod
    def from_arrays(cls, specs: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Takes back what `arrays` gave; `specs` as in `fit`.

        Raises:
            KeyError: if there is none for a spec.
            ArtefactError: if the bytes are no such ranker.
        """
        rankers = []
        with tempfile.TemporaryDirectory() as folder:
            for place, spec in enumerate(specs):
                path = Path(folder) / f"ranker{place}"
                path.write_bytes(arrays[f"ranker.{place}"].tobytes())
                rankers.append(resolve_ranker(spec).load(path))
        return cls(rankers)

    def check_catalogue(self, catalogue: Catalogue) -> None:
        """Refuses a catalogue that a ranker was not fitted on.

        Raises:
            ConfigurationError: if there is such a ranker.
        """
        for ranker in self.rankers:
            ranker.check_catalogue(catalogue, "the environment")

    def __call__(self, observation: Observation) -> NDArray[np.float32]:
        """[N, C, R] standardised scores of N requests, 0 for masked candidates; a row does not depend on the others.

        Raises:
            ConfigurationError: if a ranker's score of a candidate that may be shown is not finite.
        """
        shown = observation.candidates.mask == 1
        batch, columns = RankingInput.of(observation), np.zeros((*shown.shape, len(self.rankers)), np.float32)
        for place, ranker in enumerate(self.rankers):
            scores = np.where(shown, ranker.score(batch), 0).astype(np.float32)
            if not np.isfinite(scores).all():
                row, candidate = np.argwhere(~np.isfinite(scores))[0]
                raise ConfigurationError(
                    f"ranker '{ranker.name}' gave candidate {candidate} of request {row} the score {scores[row, candidate]}; "
                    "scores must be finite where a candidate may be shown."
                )
            columns[:, :, place] = standardised(scores, shown)
        return columns


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"two rankers are called '{name}'; scores go by the ranker's name.")
