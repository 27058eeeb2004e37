"""What fitted rankers say of a request's candidates, on a scale that all of them share."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from agents.rankers.base import Ranker
from agents.rankers.ranking_input import RankingInput
from agents.rerankers.weighted import standardised
from envs.catalogue import Catalogue
from envs.errors import ConfigurationError
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
        for name in self.names:
            if self.names.count(name) > 1:
                raise ConfigurationError(f"two rankers are called '{name}'; scores go by the ranker's name.")
        for ranker in self.rankers:
            if not hasattr(ranker, "categories_"):
                raise ConfigurationError(f"ranker '{ranker.name}' is not fitted; call its fit(log) first.")

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
