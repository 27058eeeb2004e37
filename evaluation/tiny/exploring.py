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


def _slates(plan: Plan, actions: NDArray[np.float64]) -> NDArray[np.int64]:
    """[M] numbers of the slates that actions [M, 4] stand for, clipped to the box."""
    size, popularity = plan.slates.shape[1], log_counts(tiny_world().policy_log)
    one, numbers = tiny_observation(size).take(np.zeros(1, np.int64)), np.empty(len(actions), np.int64)
    for start in range(0, len(actions), BLOCK):
        weights = weights_of_actions(np.clip(actions[start : start + BLOCK], -1, 1))
        places = rerank(one.take(np.zeros(len(weights), np.int64)), weights, popularity, size)
        numbers[start : start + BLOCK] = plan.number_of(one.candidates.items[0][places])
    return numbers
