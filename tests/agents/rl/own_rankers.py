"""Rankers that need no training, as a user's own file has them."""

from agents.rankers.popularity import Popularity


class Loved(Popularity):
    """The most consumed first."""

    name = "loved"


class Youngest(Popularity):
    """The newest first."""

    name = "youngest"

    def _score(self, batch):
        return -batch.ages
