"""LinUCB: shows what might be best, by the upper end of an interval for the reward of each candidate."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.bandits.bandit import BanditAgent, BanditOptions


@dataclass(frozen=True, kw_only=True)
class LinUCBOptions(BanditOptions):
    """Settings of LinUCB."""

    alpha: float = 0.5
    """Half-width of the interval, in units of |x| under the belief: the larger, the more is tried."""


class LinUCBAgent(BanditAgent):
    """Explores by score = xᵀθ + alpha sqrt(xᵀ A⁻¹ x), the same for all who are observed alike.

    Source: Li, Chu, Langford and Schapire (2010), algorithm 1, with weights shared by all items as in Chu et al. (2011), Contextual
    bandits with linear payoff functions.
    """

    name: ClassVar[str] = "linucb"
    options_class = LinUCBOptions
    tells_propensities = True

    def explored(
        self,
        features: NDArray[np.float32],
        mean: NDArray[np.float64],
        root: NDArray[np.float64],
        noise: NDArray[np.floating],
    ) -> NDArray[np.float64]:
        """[N, C] upper ends of the intervals."""
        spread = np.einsum("ncd,de->nce", features, root, optimize=True)
        return (features * mean).sum(axis=2) + self.options.alpha * np.sqrt((spread**2).sum(axis=2))
