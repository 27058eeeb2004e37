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
from agents.actions.blend import Blend
from agents.actions.ranker_scores import RankerScores
from agents.base import Agent
from agents.rerankers import candidate_terms, log_counts, rerank
from agents.rerankers.weighted import standardised
from agents.summary import PublicItems
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

    def one_step_share(self, policy: NDArray[np.int64]) -> float:
        """Reward of a life's requests under a policy [I] over what the best slate for each of these very requests would earn alone.

        So a policy is judged by what it does where it gets to, not by where it gets to: the measure of what does not plan.
        """
        states = np.arange(len(self.start))
        moves = self.next_state()[states, policy]
        visits = np.linalg.solve(np.eye(len(states)) - self.survival * moves.T, self.start)
        return float(visits @ self.reward[states, policy] / (visits @ self.reward.max(axis=1)))

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


def reachable_by_blend(plan: Plan, rankers: RankerScores, world: World | None = None) -> NDArray[np.bool_]:
    """[I, L] slates that some weights of rankers and the recall score make of each state, with room to spare.

    Rankers must not mind who the user is beyond its history: the first user is asked for all.
    """
    world, slate_size = world or tiny_world(), plan.slates.shape[1]
    observation = tiny_observation(slate_size, world).take(np.arange(world.num_items))
    recall = standardised(observation.candidates.score, observation.candidates.mask == 1)
    columns = np.concatenate([rankers(observation), recall[:, :, None]], axis=2)
    blend = Blend(rankers, PublicItems.from_log(world.policy_log))
    low, high = (blend.weights(np.full((1, blend.num_weights), side, np.float32))[0] for side in (-1, 1))
    return np.array(
        [
            [_largest_lead(_leads(gains, place), low, high) is not None for place in np.argsort(items)[plan.slates]]
            for gains, items in zip(columns, observation.candidates.items, strict=True)
        ]
    )


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
    gains = np.stack([relevance, np.zeros(len(items)), freshness, popularity], axis=1)
    found = np.full((len(plan.slates), 4), np.nan)
    for number, place in enumerate(np.argsort(items)[plan.slates]):
        weights = _largest_lead(_leads(gains, place, directions @ directions.T), WEIGHT_LOW, WEIGHT_HIGH)
        if weights is not None:
            found[number] = weights
    return found


def _leads(
    gains: NDArray[np.floating], place: NDArray[np.int64], cosine: NDArray[np.floating] | None = None
) -> NDArray[np.floating]:
    """[R, W] by what each item of a slate gains more, per unit of each weight, than each item that is left when it is chosen.

    Args:
        gains: [C, W] of the candidates per unit of weight.
        place: [K] candidates of the slate.
        cosine: [C, C] of the candidates; the second weight is then for distance to what is in the slate already.
    """
    leads = []
    for slot, chosen in enumerate(place):
        now = gains.copy()
        if cosine is not None and slot:
            now[:, 1] = 1 - cosine[:, place[:slot]].max(axis=1)
        left = np.setdiff1d(np.arange(len(gains)), place[: slot + 1])
        leads.append(now[chosen] - now[left])
    return np.concatenate(leads)


def _largest_lead(
    leads: NDArray[np.floating], low: NDArray[np.floating], high: NDArray[np.floating]
) -> NDArray[np.float64] | None:
    """[W] weights that make the smallest of `leads` [R, W] @ weights as large as can be; None if that does not exceed `MARGIN`."""
    bounds = [*zip(low.tolist(), high.tolist(), strict=True), (None, None)]
    # maximise m subject to leads @ weights >= m
    constraints = np.column_stack([-leads.astype(np.float64), np.ones(len(leads))])
    aim = np.append(np.zeros(len(low)), -1.0)
    solved = linprog(aim, A_ub=constraints, b_ub=np.zeros(len(leads)), bounds=bounds)
    return np.asarray(solved.x[:-1]) if solved.x[-1] > MARGIN else None


def _marked(plan: Plan, slates: NDArray[np.integer]) -> NDArray[np.bool_]:
    """[L] which of all slates are among `slates` [..., K]."""
    marked = np.zeros(len(plan.slates), bool)
    marked[plan.number_of(slates)] = True
    return marked
