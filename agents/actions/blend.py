"""`blend`: an action is the weights of fitted rankers and of the recall score, so that an agent integrates models."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agents.actions.engine import SlateActionWrapper, feature_sizes
from agents.actions.ranker_scores import RankerScores
from agents.rerankers import best_first
from agents.rerankers.weighted import standardised
from agents.summary import BOUND, TOP, PublicItems, summarise, summary_names
from envs.errors import ConfigurationError
from envs.observation import Observation
from envs.slate_env import SlateVectorEnv


class Blend:
    """Makes slates from weights of rankers, and describes the rankers' scores; the same in training and in serving.

    Args:
        rankers: two or more fitted rankers.
        items: what is known of the catalogue.

    Raises:
        ConfigurationError: if there are fewer than two rankers.
    """

    def __init__(self, rankers: RankerScores, items: PublicItems) -> None:
        self.check(rankers.names)
        self.rankers, self.items = rankers, items

    @staticmethod
    def check(names: Sequence[str]) -> None:
        """Refuses fewer than two rankers.

        Raises:
            ConfigurationError: then.
        """
        if len(names) < 2:
            raise ConfigurationError(
                f"'blend' weighs two or more fitted rankers, but has {len(names)} ({', '.join(names) or 'none'}); "
                "name another, or serve the ranker by itself."
            )

    @property
    def num_weights(self) -> int:
        """R + 1: of each ranker, and last of the recall score."""
        return len(self.rankers.names) + 1

    def weights(self, actions: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Weights [N, R + 1] of actions [N, R + 1] in [-1, 1]: the action itself, but 1 more for the first ranker.

        So the action 0 is the first ranker alone, and (-1, 1, 0, ...) the second; only the direction of the weights matters.
        """
        weights = np.array(actions, np.float32)
        weights[:, 0] += 1
        return weights

    def slates(
        self, observation: Observation, scores: NDArray[np.float32], weights: NDArray[np.float32], slate_size: int
    ) -> NDArray[np.int64]:
        """Slates [N, K] of largest weighted sum.

        Args:
            observation: N requests.
            scores: [N, C, R] of the rankers, standardised.
            weights: [N, R + 1].
            slate_size: K.

        Raises:
            ConfigurationError: if a weight is not finite.
        """
        if weights.shape != (len(observation), self.num_weights) or not np.isfinite(weights).all():
            raise ConfigurationError(
                f"weights of shape {weights.shape} cannot blend {self.num_weights - 1} rankers and the recall score for "
                f"{len(observation)} requests; give finite numbers, {(len(observation), self.num_weights)}."
            )
        shown = observation.candidates.mask == 1
        value = weights[:, -1:] * standardised(observation.candidates.score, shown)
        for place in range(self.num_weights - 1):
            value = value + weights[:, place, None] * scores[:, :, place]
        return best_first(value, observation.candidates.mask, slate_size)

    def observation_space(self, num_user_features: int, num_categories: int) -> spaces.Box:
        """The box that rows of `observe` lie in."""
        width = len(summary_names(num_user_features, num_categories)) + len(self.description_names())
        return spaces.Box(-BOUND, BOUND, (width,), np.float32)

    def observe(self, observation: Observation, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """[N, S + D] the summary of each request (`agents.summary`), then `describe`."""
        return np.concatenate([summarise(observation, self.items), self.describe(observation, scores)], axis=1)

    def description_names(self) -> list[str]:
        """Names of the columns of `describe`, in order."""
        names = self.rankers.names
        pairs = [f"{first}_with_{second}" for first, second in combinations((*names, "recall"), 2)]
        return [
            *pairs,
            *(f"{name}_with_{what}" for name in names for what in ("age", "popularity")),
            *(f"{name}_top_{what}" for name in names for what in ("score", "recall", "age", "popularity")),
        ]

    def describe(self, observation: Observation, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """[N, D] what the rankers say, by numbers in [-3, 3]: see `description_names`.

        `a_with_b` is the correlation of two columns over the candidates that may be shown; `a_top_b` the mean of a column,
        standardised over these, at the ten that a ranker scores highest. Age is log(1 + days).
        """
        candidates = observation.candidates
        shown = candidates.mask == 1
        popularity = self.items.popularity[np.maximum(candidates.items, 0)]
        further = (candidates.score, np.log1p(np.maximum(candidates.age, 0)).astype(np.float32), popularity)
        recall, age, popularity = (standardised(column, shown) for column in further)
        rankers = [np.ascontiguousarray(scores[:, :, place]) for place in range(scores.shape[2])]
        number = np.maximum(shown.sum(axis=1), 1)

        def together(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
            return (first * second).sum(axis=1) / number

        columns = [together(*pair) for pair in combinations((*rankers, recall), 2)]
        columns += [together(ranker, other) for ranker in rankers for other in (age, popularity)]
        for ranker in rankers:
            best = best_first(ranker, candidates.mask, TOP)
            fewer = np.clip(number, 1, best.shape[1])
            # masked candidates are 0 in each column, so that they add nothing
            columns += [
                np.take_along_axis(column, best, axis=1).sum(axis=1) / fewer
                for column in (ranker, recall, age, popularity)
            ]
        return np.clip(np.stack(columns, axis=1), -BOUND, BOUND).astype(np.float32)


class BlendAction(SlateActionWrapper):
    """Actions are weights of two or more fitted rankers and of the recall score (a `Box`); see `Blend`.

    Args:
        env: the slate environment, of any autoreset mode.
        rankers: fitted.
        items: what is known of the catalogue; by default from the environment's policy log.
    """

    name: ClassVar[str] = "blend"

    def __init__(
        self, env: SlateVectorEnv, rankers: RankerScores | None = None, items: PublicItems | None = None
    ) -> None:
        sizes = feature_sizes(env)
        self.blend = Blend(rankers or RankerScores(()), items or PublicItems.from_log(env.world.policy_log))
        action_space = spaces.Box(-1, 1, (self.blend.num_weights,), np.float32)
        super().__init__(env, self.blend.observation_space(*sizes), action_space, rankers)

    def observe(self, observation: Observation, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows [N, S + D]."""
        return self.blend.observe(observation, scores)

    def slates(self, observation: Observation, scores: NDArray[np.float32], actions: NDArray[Any]) -> NDArray[np.int64]:
        """Slates [N, K] of largest blended score."""
        return self.blend.slates(observation, scores, self.blend.weights(actions), self.env.slate_size)
