"""What exploring by a Gaussian costs in the tiny world: the best policy of an agent that sets weights and cannot stop exploring."""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from agents.actions import weights_of_actions
from agents.rerankers import log_counts, rerank
from evaluation.tiny.planning import Plan
from evaluation.tiny.world import tiny_observation, tiny_world

REPETITIONS = 600
"""Passes of value iteration, far beyond what is needed at these discounts."""
BLOCK = 10_000
"""Actions whose slates are made at once; bounds memory."""


def best_while_exploring(
    plan: Plan, deviation: float, gamma: float = 0.95, steps: int = 6, draws: int = 150
) -> NDArray[np.int64]:
    """[I] numbers of the slates of the means of the best Gaussian policy on weights whose standard deviation is fixed.

    Such a policy is what PPO climbs towards while its deviation stands. Its mean is served after training; the slate there
    is good together with those around it, and need not be the best.

    Args:
        plan: of the tiny world.
        deviation: of the actions, in each of the four coordinates, in units of half the box.
        gamma: discount of the agent.
        steps: means are looked for on a grid of so many values in each coordinate.
        draws: of the noise, the same for all means.
    """
    grid = np.linspace(-0.95, 0.95, steps)
    means = np.array(list(product(grid, repeat=4)))
    noise = deviation * np.random.default_rng(0).standard_normal((draws, 4))
    each = _slates(plan, (means[:, None] + noise).reshape(-1, 4)).reshape(len(means), draws)
    shown = np.stack([np.bincount(own, minlength=len(plan.slates)) for own in each]) / draws
    reward, moves = plan.reward @ shown.T, np.einsum("sla,ml->sma", plan.next_state(), shown)
    worth = np.zeros_like(reward)
    for _ in range(REPETITIONS):
        worth = reward + gamma * plan.survival * moves @ worth.max(axis=1)
    return _slates(plan, means)[worth.argmax(axis=1)]


def climbed(
    plan: Plan,
    first: float,
    last: float,
    *,
    gamma: float = 0.95,
    updates: int = 100,
    step: float = 1.0,
    draws: int = 300,
    seed: int = 0,
) -> NDArray[np.int64]:
    """[I] numbers of the slates where a Gaussian policy on weights gets by natural gradient ascent while its deviation shrinks.

    What a slate is worth is known here, so this is what PPO would do without the noise of responses, each state by itself.

    Args:
        plan: of the tiny world.
        first: standard deviation of the actions at first, in units of half the box; means begin at its centre.
        last: at last; its log changes linearly.
        gamma: discount of the agent.
        updates: steps of the ascent.
        step: length of a step, in deviations per unit of standardised advantage.
        draws: of actions in each state and step.
        seed: of the draws.

    Source: Kakade (2002), A natural policy gradient, for a mean: the gradient times the variance.
    """
    random, states = np.random.default_rng(seed), len(plan.start)
    means, moves = np.zeros((states, 4)), plan.next_state()
    for deviation in np.geomspace(first, last, updates):
        noise = random.standard_normal((states, draws, 4))
        numbers = _slates(plan, (means[:, None] + deviation * noise).reshape(-1, 4)).reshape(states, draws)
        shown = np.stack([np.bincount(own, minlength=len(plan.slates)) for own in numbers]) / draws
        reward, after = (plan.reward * shown).sum(axis=1), np.einsum("sl,sla->sa", shown, moves)
        worth = np.linalg.solve(np.eye(states) - gamma * plan.survival * after, reward)
        advantage = np.take_along_axis(plan.look_ahead(worth, gamma=gamma), numbers, axis=1) - worth[:, None]
        gradient = (advantage[..., None] * noise).mean(axis=1) / max(advantage.std(), 1e-9)
        means = np.clip(means + step * deviation * gradient, -1, 1)
    return _slates(plan, means)


def _slates(plan: Plan, actions: NDArray[np.float64]) -> NDArray[np.int64]:
    """[M] numbers of the slates that actions [M, 4] stand for, clipped to the box."""
    size, popularity = plan.slates.shape[1], log_counts(tiny_world().policy_log)
    one, numbers = tiny_observation(size).take(np.zeros(1, np.int64)), np.empty(len(actions), np.int64)
    for start in range(0, len(actions), BLOCK):
        weights = weights_of_actions(np.clip(actions[start : start + BLOCK], -1, 1))
        places = rerank(one.take(np.zeros(len(weights), np.int64)), weights, popularity, size)
        numbers[start : start + BLOCK] = plan.number_of(one.candidates.items[0][places])
    return numbers
