"""A candidate in some tens of bounded numbers: what the reward of showing it is linear in."""

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from agents.actions.ranker_scores import RankerScores
from agents.rerankers import FRESHNESS_DAYS
from agents.rerankers.weighted import standardised
from agents.summary import BOUND, FRESH_DAYS, PublicItems
from envs.errors import AgentError
from envs.measures import RECENT_ITEMS
from envs.observation import Observation

_CENTURY = np.float32(np.log1p(36_500))


@dataclass(frozen=True)
class BanditFeatures:
    """Describes the candidates of requests by what is public: of the item, of the user's history, and of how both fit."""

    items: PublicItems
    """What is known of the catalogue."""
    rankers: RankerScores
    """Fitted rankers whose scores are among the numbers."""

    def names(self) -> list[str]:
        """Names of the columns of `of`, in order."""
        own, categories = self._own_names(), range(self.items.categories.shape[1])
        return [
            "constant",
            *own,
            *(f"{first}_by_{second}" for first, second in combinations_with_replacement(own, 2)),
            *("place", "activity", "history"),
            *(f"{name}_by_activity" for name in ("recall", *self.rankers.names)),
            *("like_recent_by_place", "like_last_by_place"),
            *(f"category_{place}" for place in categories),
            *(f"category_{place}_by_recent" for place in categories),
        ]

    def _own_names(self) -> list[str]:
        """Names of the numbers of a candidate that are crossed with each other."""
        return ["recall", *self.rankers.names, "age", "freshness", "fresh", "popularity", "like_recent", "like_last"]

    def of(self, observation: Observation) -> NDArray[np.float32]:
        """[N, C, D] numbers in [-3, 3] of each candidate, 0 where it is masked; a row does not depend on the others.

        Scores and popularity are standardised over a request's candidates. `fresh` and `like_recent` are those of the reward's own
        freshness and diversity. Likenesses are cosines of public categories, to the last ten items together and to the very last.
        These numbers come with their products and squares (over 3): what an item earns is far from linear in them alone.

        Raises:
            AgentError: if the observation has other categories or more items than the catalogue of `items`.
        """
        candidates = observation.candidates
        known, shown = self._checked(observation), candidates.mask == 1
        rows = np.maximum(observation.history, 0)
        recent = slice(0, RECENT_ITEMS)
        lengths = np.linalg.norm(self.items.categories, axis=1, keepdims=True)
        directions = (self.items.categories / np.maximum(lengths, 1e-12))[rows[:, recent]] * known[:, recent, None]
        number = np.maximum(known[:, recent].sum(axis=1), 1)[:, None]
        profile = (self.items.categories[rows[:, recent]] * known[:, recent, None]).sum(axis=1) / number
        own = candidates.categories
        own_directions = own / np.maximum(np.linalg.norm(own, axis=2, keepdims=True), 1e-12)
        like_recent = (own_directions * (directions.sum(axis=1) / number)[:, None]).sum(axis=2)
        like_last = (own_directions * directions[:, :1]).sum(axis=2)
        place = np.log1p(observation.context[:, 2:3]) / 4
        activity = observation.user_features[:, :1]
        age = np.maximum(candidates.age, 0)
        popularity = self.items.popularity[np.maximum(candidates.items, 0)]
        scores = [standardised(candidates.score, shown), *np.moveaxis(self.rankers(observation), 2, 0)]
        numbers = [*scores, np.log1p(age) / _CENTURY, np.exp(age / -FRESHNESS_DAYS), age < FRESH_DAYS[0]]
        numbers += [standardised(popularity, shown), like_recent, like_last]
        bounded = [np.clip(number, -BOUND, BOUND).astype(np.float32) for number in numbers]
        of_request = (place, activity, known.mean(axis=1, keepdims=True, dtype=np.float32))
        columns = [
            np.ones(shown.shape, np.float32),
            *bounded,
            *(first * second / BOUND for first, second in combinations_with_replacement(bounded, 2)),
            *(np.broadcast_to(number, shown.shape) for number in of_request),
            *(score * activity for score in scores),
            *(like_recent * place, like_last * place),
        ]
        described = np.concatenate([np.stack(columns, axis=2), own, own * profile[:, None]], axis=2)
        return (np.clip(described, -BOUND, BOUND) * shown[:, :, None]).astype(np.float32)

    def diversity(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """[...] diversity of consuming what has `features` [..., D], as `envs.measures.consumed_diversity` has it."""
        names = self.names()
        without_history = features[..., names.index("history")] == 0
        return np.where(without_history, 0, 1 - features[..., names.index("like_recent")]).astype(np.float32)

    def freshness(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """[...] 1 where what has `features` [..., D] is fresh, else 0."""
        return features[..., self.names().index("fresh")]

    def _checked(self, observation: Observation) -> NDArray[np.bool_]:
        """[N, H] which places of the histories hold an item."""
        num_categories = self.items.categories.shape[1]
        if observation.candidates.categories.shape[2] != num_categories:
            raise AgentError(
                f"the observation has {observation.candidates.categories.shape[2]} categories, the agent learnt from a log with "
                f"{num_categories}; train the agent on this data set."
            )
        if max(observation.candidates.items.max(initial=-1), observation.history.max(initial=-1)) >= len(
            self.items.popularity
        ):
            raise AgentError(
                f"the observation has an item beyond the {len(self.items.popularity)} that the agent learnt from; "
                "train the agent on this data set."
            )
        return observation.history >= 0
