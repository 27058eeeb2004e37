"""References that look into the simulator: the best next slate, and the best with a view to the requests after it.

They pick from the same candidates for the same scalar reward as everybody else, so they bound what re-ranking can reach.
"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent
from envs.errors import AgentError
from envs.measures import RECENT_ITEMS, RewardWeights
from envs.observation import Observation
from envs.users.protocol import position_logits

if TYPE_CHECKING:
    from envs.slate_env import SlateVectorEnv

MAX_ROUNDS = 20
"""Rounds after which the search for the best slate stops at the latest; it takes 3 to 5."""


class OracleMyopic(Agent):
    """Shows the slate of largest expected reward in this request, under the user's true utilities."""

    name: ClassVar[str] = "oracle_myopic"
    is_oracle: ClassVar[bool] = True

    def bind(self, env: "SlateVectorEnv") -> None:
        """Hands over the environment whose hidden state this oracle reads; `act` must get its present observation."""
        self._env = env

    def act(self, observation: Observation) -> NDArray[np.int64]:
        """Slates [N, K].

        Raises:
            AgentError: if `bind` was not called, or the observation is not the environment's present one.
        """
        return best_slates(*self._odds_and_payoff(observation), self.slate_size)[0]

    def _odds_and_payoff(self, observation: Observation) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(odds against consuming nothing, 0 where masked; reward on a click), both [N, C]."""
        env = getattr(self, "_env", None)
        if env is None:
            raise AgentError(f"agent '{self.name}' is an oracle: call bind(env) before act.")
        candidates = observation.candidates
        if not np.array_equal(candidates.items, env.observation.candidates.items):
            raise AgentError(f"agent '{self.name}' was shown an observation that is not its environment's present one.")
        utility = env.hidden.utilities(candidates.items).astype(np.float64)
        odds = np.where(candidates.mask == 1, np.exp(utility - env.hidden.outside), 0)
        directions, recent = env.world.policy_log.catalogue.directions, observation.history[:, :RECENT_ITEMS]
        known = recent >= 0
        number = known.sum(axis=1, keepdims=True)
        centre = (directions[np.maximum(recent, 0)] * known[:, :, None]).sum(axis=1) / np.maximum(number, 1)
        cosine = np.matmul(directions[np.maximum(candidates.items, 0)], centre[:, :, None])[:, :, 0]
        diversity = np.where(number > 0, 1 - cosine, 0)
        fresh = candidates.age < env.world.config.fresh_days
        weights = env.hidden.reward_weights
        if not isinstance(weights, RewardWeights):
            return odds, env.hidden.payoff(candidates.items, diversity, fresh)
        return odds, weights.engagement + weights.diversity * diversity + weights.freshness * fresh


class OracleLookahead(OracleMyopic):
    """Also counts what a click does to the requests that follow.

    The most promising candidates are each followed into the user's next state; the difference that it makes to the expected
    reward of the best slate there is added to the candidate's payoff, times the number of requests for which it counts.
    """

    name: ClassVar[str] = "oracle_lookahead"
    promising: int = 30
    """Candidates that are followed; the others are not shown."""
    lasting: float = 1.0
    """Requests for which a change of state counts."""

    def act(self, observation: Observation) -> NDArray[np.int64]:
        """Slates [N, K]; raises as `OracleMyopic.act` does."""
        odds, payoff = self._odds_and_payoff(observation)
        _, value = best_slates(odds, payoff, self.slate_size)
        gain = np.where(odds > 0, odds * (payoff - value[:, None]), -np.inf)
        followed = _largest(gain, max(self.slate_size, min(self.promising, gain.shape[1])))
        odds, payoff = (np.take_along_axis(array, followed, axis=1) for array in (odds, payoff))
        items = np.take_along_axis(observation.candidates.items, followed, axis=1)
        change = self._value_after_each(items, odds, payoff, value) - value[:, None]
        chosen, _ = best_slates(odds, payoff + self.lasting * change, self.slate_size)
        return np.take_along_axis(followed, chosen, axis=1)

    def _value_after_each(
        self,
        items: NDArray[np.int32],
        odds: NDArray[np.float64],
        payoff: NDArray[np.float64],
        value: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """[N, M] expected reward of the best slate of the next request, after each of `items` [N, M] was consumed."""
        hidden = self._env.hidden
        after = np.exp(hidden.utilities_after_each(items, items).astype(np.float64) - hidden.outside)
        # whatever was consumed is not offered again
        after *= (odds > 0)[:, None, :] & ~np.eye(items.shape[1], dtype=bool)
        number = items.shape[1]
        _, later = best_slates(
            after.reshape(-1, number),
            np.repeat(payoff, number, axis=0),
            self.slate_size,
            start=np.repeat(value, number),
            rounds=1,
        )
        return later.reshape(items.shape)


def best_slates(
    odds: NDArray[np.float64],
    payoff: NDArray[np.float64],
    slate_size: int,
    start: NDArray[np.float64] | None = None,
    rounds: int = MAX_ROUNDS,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Slates of largest expected reward under a multinomial logit with position weights, exactly.

    The expected reward of a slate is sum_k w_k odds_k payoff_k / (1 + sum_k w_k odds_k), a ratio. It exceeds z exactly if
    sum_k w_k odds_k (payoff_k - z) exceeds z, which the largest terms in the top slots make largest; so z is raised to
    the reward of the slate that is best for the last z, until it rises no more.

    Args:
        odds: [N, C] exp(utility - outside), 0 for masked candidates, which come last.
        payoff: [N, C] reward on a click.
        slate_size: K.
        start: [N] values to begin with, by default 0; near the result one round is nearly exact.
        rounds: stops after so many.

    Returns:
        (slates [N, K], their expected rewards [N]).

    Source: Dinkelbach (1967), On nonlinear fractional programming.
    """
    weights = np.exp(position_logits(slate_size).astype(np.float64))
    value = np.zeros(len(odds)) if start is None else start
    for _ in range(rounds):
        slates = _largest(np.where(odds > 0, odds * (payoff - value[:, None]), -np.inf), slate_size)
        shown = weights * np.take_along_axis(odds, slates, axis=1)
        reward = (shown * np.take_along_axis(payoff, slates, axis=1)).sum(axis=1) / (1 + shown.sum(axis=1))
        settled = np.abs(reward - value) <= 1e-9
        value = reward
        if settled.all():
            break
    return slates, value


def _largest(gain: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """[N, count] places of the largest entries of each row, largest first."""
    if count < gain.shape[1]:
        top = np.argpartition(-gain, count - 1, axis=1)[:, :count]
        top.sort(axis=1)
    else:
        top = np.broadcast_to(np.arange(gain.shape[1]), gain.shape)
    order = np.argsort(-np.take_along_axis(gain, top, axis=1), axis=1, kind="stable")
    return np.take_along_axis(top, order, axis=1)
