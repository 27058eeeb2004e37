"""Probabilistic interleaving: two rankings serve one slate, and what is clicked tells which of them is better.

Source: Hofmann, Whiteson and de Rijke (2011), A probabilistic method for inferring preferences from clicks, sections 4.1 and 4.2;
Zheng et al. (2018), DRN, section 4.5.
"""

import numpy as np
from numpy.typing import NDArray


def rank_chances(
    values: NDArray[np.floating], mask: NDArray[np.integer], steepness: float = 3.0
) -> NDArray[np.float64]:
    """[N, C] chances with which a ranking puts each candidate into its first slot: in proportion to rank ** -steepness.

    Args:
        values: [N, C] by which the candidates are ranked, the largest first; the earlier of equals.
        mask: [N, C] 1 where a candidate may be shown; others have the chance 0.
        steepness: 0 draws all alike, a large one the best alone.
    """
    order = np.argsort(np.where(mask == 1, -values, np.inf), axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, values.shape[1] + 1)[None, :], axis=1)
    weights = np.where(mask == 1, ranks.astype(np.float64) ** -steepness, 0.0)
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)


def interleaved(
    own: NDArray[np.float64], rival: NDArray[np.float64], slots: int, draws: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Slates of two rankings: each slot is filled by either, as a coin says, with one of the candidates that are left.

    Where none is left, spare slots take a candidate that may not be shown.

    Args:
        own: [N, C] chances of the first ranking, see `rank_chances`.
        rival: [N, C] of the second.
        slots: K, at most C.
        draws: [N, K, 2] uniform draws in [0, 1): the coin (below a half for the first ranking) and the candidate.

    Returns:
        (slates [N, K], credits [N, K]): the credit of a slot is the chance that the rival filled it less the chance that it was the
        first ranking, given what is in it and above it, in [-1, 1]. The coins themselves would tell the same with more noise.
    """
    count = len(own)
    left = np.stack([own, rival])
    rows = np.arange(count)
    spare = ((own > 0) | (rival > 0)).argmin(axis=1)
    slates, credits = np.zeros((count, slots), np.int64), np.zeros((count, slots), np.float32)
    for slot in range(slots):
        total = left.sum(axis=2)
        coin = (draws[:, slot, 0] >= 0.5).astype(np.int64)
        running = left[coin, rows].cumsum(axis=1)
        target = draws[:, slot, 1].astype(np.float64) * running[:, -1]
        chosen = (running <= target[:, None]).sum(axis=1)
        filled = running[:, -1] > 0
        chosen = np.where(filled, np.minimum(chosen, own.shape[1] - 1), spare)
        chances = left[:, rows, chosen] / np.maximum(total, 1e-300)
        both = chances.sum(axis=0)
        slates[:, slot] = chosen
        credits[:, slot] = np.where(both > 0, (chances[1] - chances[0]) / np.maximum(both, 1e-300), 0)
        left[:, rows, chosen] = 0
    return slates, credits
