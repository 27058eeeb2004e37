"""Scores of a linear model of crossed features: each pair from what differs between pairs, without a table of features."""

from typing import Annotated

import numpy as np
from numba import types
from numpy.typing import NDArray

from envs.compiled import Doubles1, Float, Floats2, Floats2Out, Int, Ints2, Kernel

Doubles3 = Annotated[NDArray[np.float64], types.Array(types.float64, 3, "C", readonly=True)]


@Kernel
def score_pairs(
    begin: Int,
    end: Int,
    items: Ints2,
    ages: Floats2,
    counts: Floats2,
    history: Ints2,
    history_days: Floats2,
    categories: Floats2,
    item_term: Doubles1,
    request_term: Doubles1,
    user_rate: Doubles1,
    tastes: Doubles3,
    weights: Doubles1,
    recent_days: Float,
    prior: Float,
    logits: Floats2Out,
) -> None:
    """Fills `logits` [N, C] of rows `begin` to `end`; 0 where there is no item.

    `weights` [7] are those of the three overlaps, log count, log age, youth, and the rate in categories; `tastes` [N, G, 2] rows
    and liked rows of the user by category. All else of `CrossedRanker.features`, times its weights, is summed in `item_term` [I]
    and `request_term` [N].
    """
    groups = categories.shape[1]
    profile = np.empty(groups, np.float64)
    for row in range(begin, end):
        length, recent, newest = 0.0, 0.0, 0.0
        for place in range(history.shape[1]):
            if history[row, place] >= 0:
                length += 1.0
                recent += np.exp(-np.float64(history_days[row, place]) / recent_days)
                newest += 1.0 if place < 3 else 0.0
        profile[:] = 0.0
        for place in range(history.shape[1]):
            if history[row, place] >= 0:
                weight = weights[0] / length
                weight += weights[1] * np.exp(-np.float64(history_days[row, place]) / recent_days) / max(recent, 1e-6)
                if place < 3:
                    weight += weights[2] / newest
                for group in range(groups):
                    profile[group] += weight * categories[history[row, place], group]
        for column in range(items.shape[1]):
            item = items[row, column]
            if item < 0:
                logits[row, column] = 0.0
                continue
            overlap, rows, liked = 0.0, 0.0, 0.0
            for group in range(groups):
                share = np.float64(categories[item, group])
                overlap += profile[group] * share
                rows += tastes[row, group, 0] * share
                liked += tastes[row, group, 1] * share
            age = max(np.float64(ages[row, column]), 0.0)
            logits[row, column] = (
                request_term[row]
                + item_term[item]
                + overlap
                + weights[3] * np.log(max(np.float64(counts[row, column]), 1e-6))
                + weights[4] * np.log1p(age) / 8.0
                + weights[5] * np.exp(-age / 30.0)
                + weights[6] * (liked + prior * user_rate[row]) / (rows + prior)
            )
