"""How active users are, by when they asked: what they do without being shown anything better counts for nothing.

Source: Zheng et al. (2018), DRN, section 4.4 and fig. 5. A return there is any request; here it is the first of a visit: those of
a visit are seconds apart, and would bring everybody to 1 at once.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Activeness:
    """The score S of each user: it begins at `initial`, decays as exp(-hazard * days), and rises by `gain` at a return, up to 1.

    Args:
        initial: S0.
        gain: Sa.
        hazard: λ0, a day.
    """

    def __init__(self, initial: float, gain: float, hazard: float) -> None:
        self.initial, self.gain, self.hazard = initial, gain, hazard
        self.score = np.zeros(0)
        """[U] after each user's last request."""
        self.days = np.zeros(0)
        """[U] when that was, in days; NaN for a user who has not asked yet."""

    def asked(
        self, user: NDArray[np.int64], days: NDArray[np.float64], begins_visit: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """[N] scores right after requests of users `user` [N] at `days` [N]; a user whose clock went back begins anew.

        Args:
            user: non-negative numbers.
            days: the clock.
            begins_visit: [N] whether the request is the first of a visit.
        """
        self._grow(int(user.max(initial=-1)) + 1)
        since = days - self.days[user]
        begun = since >= 0
        decayed = self.score[user] * np.exp(-self.hazard * np.where(begun, since, 0))
        score = np.where(begun, np.minimum(decayed + self.gain * begins_visit, 1.0), self.initial)
        self.score[user], self.days[user] = score, days
        return score

    def forget(self, user: NDArray[np.int64]) -> None:
        """Lets users `user` [N] begin anew."""
        self._grow(int(user.max(initial=-1)) + 1)
        self.days[user] = np.nan

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that it goes on from."""
        return {"score": self.score, "days": self.days}

    def take_back(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Goes on from what `arrays` gave.

        Raises:
            KeyError, ValueError: if a part is missing or of the wrong shape.
        """
        self.score, self.days = arrays["score"].copy(), arrays["days"].copy()
        if self.score.ndim != 1 or self.score.shape != self.days.shape:
            raise ValueError("the activeness is not one number a user")

    def _grow(self, users: int) -> None:
        more = users - len(self.score)
        if more > 0:
            self.score = np.concatenate([self.score, np.zeros(more)])
            self.days = np.concatenate([self.days, np.full(more, np.nan)])
