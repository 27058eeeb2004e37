"""The tiny world as a Markov decision process, solved by value iteration; policies' values by a linear system.

Nothing here is estimated: choice probabilities come from the user model's table, rewards from what is public of the items.
"""

from dataclasses import dataclass
from itertools import permutations
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from agents.actions import PRESETS, WEIGHT_HIGH, WEIGHT_LOW
from agents.base import Agent
from agents.rerankers import candidate_terms, log_counts, rerank
from envs.measures import RewardWeights, consumed_diversity
from envs.observation import Observation
from envs.users.protocol import position_logits
from envs.world import World
from evaluation.tiny.world import TinyModel, tiny_observation, tiny_world

MARGIN = 1e-3
"""Lead of an item over the next, in units of the re-ranker's gain, from which on a slate counts as one that weights can make."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The process: states are last items [I], actions are slates [L, K] of different items in order, lives end by chance."""

    slates: NDArray[np.int64]
    """[L, K] items, the top slot first: all of them."""
    click: NDArray[np.float64]
    """[I, L, I] chance that the user consumes an item, by last item and slate."""
    payoff: NDArray[np.float64]
    """[I, I] reward of consuming an item, by last item."""
    survival: float
    """Chance that a life goes on after a request."""
    start: NDArray[np.float64]
    """[I] share of lives that begin with each last item."""

    @classmethod
    def of(cls, world: World | None = None, slate_size: int = 2, weights: RewardWeights | None = None) -> Self:
        """The process of a tiny world.

        Source of the choice probabilities: Train (2009), eq. 3.6, with position weights, as `envs.engine.respond` draws them.
        """
        world, weights = world or tiny_world(), weights or RewardWeights()
        model = world.user_model
        assert isinstance(model, TinyModel)
        count = world.num_items
        slates = np.array(list(permutations(range(count), slate_size)))
        odds = np.exp(model.utility[:count].astype(np.float64) - world.outside)
        shown = np.exp(position_logits(slate_size).astype(np.float64)) * odds[:, slates]
        chance = shown / (1 + shown.sum(axis=2, keepdims=True))
        click = np.zeros((count, len(slates), count))
        for slot in range(slate_size):
            click[:, np.arange(len(slates)), slates[:, slot]] = chance[:, :, slot]
        item, last = (
            np.tile(np.arange(count, dtype=np.int32), count),
            np.repeat(np.arange(count, dtype=np.int32), count),
        )
        diversity = consumed_diversity(world.policy_log.catalogue.directions, item, last[:, None])
        fresh = -world.birth_clock < world.config.fresh_days * 86_400
        payoff = weights.engagement + weights.diversity * diversity.reshape(count, count) + weights.freshness * fresh
        first = world.history(1, world.simulated_users)[0][:, 0]
        return cls(
            slates=slates,
            click=click,
            payoff=payoff.astype(np.float64),
            survival=model.survival,
            start=np.bincount(first, minlength=count) / len(first),
        )

    @property
    def reward(self) -> NDArray[np.float64]:
        """[I, L] expected reward of the next request."""
        return (self.click * self.payoff[:, None]).sum(axis=2)

    def next_state(self) -> NDArray[np.float64]:
        """[I, L, I] chance of each last item after a request, if the life goes on: whoever consumes nothing stays."""
        stays = 1 - self.click.sum(axis=2)
        return self.click + stays[:, :, None] * np.eye(len(self.start))[:, None]

    def best_values(self, allowed: NDArray[np.bool_] | None = None, gamma: float = 1.0) -> NDArray[np.float64]:
        """[I] return of a life from each state on under the best policy, by value iteration to the last bits.

        Args:
            allowed: [L] or [I, L] slates that may be shown; all by default.
            gamma: discount on top of the chance that the life ends.

        Source: Bellman (1957), Dynamic programming; Sutton and Barto (2018), eq. 4.10.
        """
        value, before = np.zeros(len(self.start)), np.full(len(self.start), np.inf)
        while np.abs(value - before).max() > 1e-12:
            before, value = value, self.look_ahead(value, allowed, gamma).max(axis=1)
        return value

    def look_ahead(
        self, value: NDArray[np.float64], allowed: NDArray[np.bool_] | None = None, gamma: float = 1.0
    ) -> NDArray[np.float64]:
        """[I, L] expected return of showing a slate once, and being worth `value` [I] after it; -inf where not allowed."""
        worth = self.reward + gamma * self.survival * self.next_state() @ value
        return worth if allowed is None else np.where(allowed, worth, -np.inf)

    def best_policy(self, allowed: NDArray[np.bool_] | None = None, gamma: float = 1.0) -> NDArray[np.int64]:
        """[I] number of the slate that the best policy shows in each state; the first of equals."""
        return self.look_ahead(self.best_values(allowed, gamma), allowed, gamma).argmax(axis=1)

    def myopic_policy(self, allowed: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """[I] number of the slate of largest expected reward in the next request."""
        return self.best_policy(allowed, gamma=0.0)

    def values(self, policy: NDArray[np.int64]) -> NDArray[np.float64]:
        """[I] return of a life from each state on under a policy [I] of numbers of slates, by the linear system that it solves."""
        states = np.arange(len(self.start))
        moves = self.next_state()[states, policy]
        solved = np.linalg.solve(np.eye(len(states)) - self.survival * moves, self.reward[states, policy])
        return np.asarray(solved, np.float64)

    def value(self, policy: NDArray[np.int64]) -> float:
        """Mean return of a life under a policy [I], or of one for each user [U, I] of as many users at each start."""
        if policy.ndim == 1:
            return float(self.start @ self.values(policy))
        first = np.repeat(np.arange(len(self.start)), np.rint(self.start * len(policy)).astype(np.int64))
        return float(np.mean([self.values(own)[place] for own, place in zip(policy, first, strict=True)]))

    def number_of(self, slates: NDArray[np.integer]) -> NDArray[np.int64]:
        """[...] numbers of slates [..., K] of items."""
        found = (self.slates == np.asarray(slates)[..., None, :]).all(axis=-1)
        assert found.any(axis=-1).all(), "a slate holds an item twice"
        return found.argmax(axis=-1)

    def policy_of(self, agent: Agent, observation: Observation | None = None) -> NDArray[np.int64]:
        """[U, I] numbers of the slates that an agent shows to each user in each state: all that its policy is."""
        observation = observation or tiny_observation(self.slates.shape[1])
        returned = agent.act(observation)
        places = returned[0] if isinstance(returned, tuple) else returned
        items = np.take_along_axis(observation.candidates.items, places, axis=1)
        return self.number_of(items).reshape(-1, len(self.start))


def reachable_by_presets(plan: Plan, world: World | None = None) -> NDArray[np.bool_]:
    """[L] slates that the re-ranker makes of some preset."""
    world, slate_size = world or tiny_world(), plan.slates.shape[1]
    observation = tiny_observation(slate_size, world).take(np.zeros(len(PRESETS), np.int64))
    places = rerank(observation, PRESETS, log_counts(world.policy_log), slate_size)
    return _marked(plan, np.take_along_axis(observation.candidates.items, places, axis=1))


def reachable_by_weights(plan: Plan, world: World | None = None) -> NDArray[np.bool_]:
    """[L] slates that the re-ranker makes of some weights within their bounds, with room to spare (`MARGIN`)."""
    return np.isfinite(weights_of_slates(plan, world)[:, 0])


def weights_of_slates(plan: Plan, world: World | None = None) -> NDArray[np.float64]:
    """[L, 4] weights within their bounds of which the re-ranker makes each slate by the largest lead; NaN where there are none.

    A slate is made of weights if, slot by slot, its item gains more than every item that is left. Gains are linear in the weights,
    so those of largest lead are the solution of a linear programme.
    """
    world, slate_size = world or tiny_world(), plan.slates.shape[1]
    observation = tiny_observation(slate_size, world).take(np.zeros(1, np.int64))
    items = observation.candidates.items[0]
    terms = candidate_terms(observation, log_counts(world.policy_log))
    relevance, freshness, popularity = (term[0] for term in terms)
    directions = world.policy_log.catalogue.directions[items]
    cosine = directions @ directions.T
    place = np.argsort(items)
    found = []
    for slate in place[plan.slates]:
        leads = []
        for slot, chosen in enumerate(slate):
            closest = cosine[:, slate[:slot]].max(axis=1) if slot else np.ones(len(items))
            gains = np.stack([relevance, 1 - closest, freshness, popularity], axis=1)
            left = np.setdiff1d(np.arange(len(items)), slate[: slot + 1])
            leads.append(gains[chosen] - gains[left])
        found.append(_largest_lead(np.concatenate(leads)))
    return np.array(found)


def _largest_lead(leads: NDArray[np.floating]) -> NDArray[np.float64]:
    """[4] weights that make the smallest of `leads` [R, 4] @ weights as large as can be; NaN if that does not exceed `MARGIN`."""
    bounds = [*zip(WEIGHT_LOW.tolist(), WEIGHT_HIGH.tolist(), strict=True), (None, None)]
    # maximise m subject to leads @ weights >= m
    constraints = np.column_stack([-leads.astype(np.float64), np.ones(len(leads))])
    solved = linprog([0, 0, 0, 0, -1], A_ub=constraints, b_ub=np.zeros(len(leads)), bounds=bounds)
    return solved.x[:4] if solved.x[4] > MARGIN else np.full(4, np.nan)


def _marked(plan: Plan, slates: NDArray[np.integer]) -> NDArray[np.bool_]:
    """[L] which of all slates are among `slates` [..., K]."""
    marked = np.zeros(len(plan.slates), bool)
    marked[plan.number_of(slates)] = True
    return marked
