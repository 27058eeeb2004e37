"""Thompson sampling: shows what is best by weights drawn from the belief, for each request anew."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.bandits.bandit import BanditAgent, BanditOptions


@dataclass(frozen=True, kw_only=True)
class ThompsonOptions(BanditOptions):
    """Settings of Thompson sampling."""

    scale: float = 0.4
    """v: standard deviation of the noise of a row's reward, as the draws take it to be; about that of a reward with few clicks. The
    theorem wants it larger by a factor that grows with the number of features."""


class ThompsonAgent(BanditAgent):
    """Explores by score = xᵀ(θ + v R z) with R Rᵀ = A⁻¹ and z standard normal, a draw for each request.

    The chance that a draw puts an item into a slot has no closed form, so slates that were drawn come without propensities.

    Source: Agrawal and Goyal (2013), algorithm 1.
    """

    name: ClassVar[str] = "thompson"
    options_class = ThompsonOptions
    tells_propensities = False

    def explored(
        self,
        features: NDArray[np.float32],
        mean: NDArray[np.float64],
        root: NDArray[np.float64],
        noise: NDArray[np.floating],
    ) -> NDArray[np.float64]:
        """[N, C] scores under the drawn weights."""
        weights = mean + self.options.scale * noise @ root.T
        return (features * weights[:, None]).sum(axis=2)
