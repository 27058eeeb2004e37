"""Figures that training watches."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


def auc(label: NDArray[np.floating], score: NDArray[np.floating]) -> float:
    """Share of (positive, negative) pairs in which the positive scores higher, ties counting half; NaN without both labels.

    Args:
        label: [R] 1 or 0.
        score: [R].

    Source: Hanley and McNeil (1982), by the rank sum.
    """
    positives = float(label.sum())
    negatives = len(label) - positives
    if not positives or not negatives:
        return float("nan")
    above = rankdata(score)[label > 0.5].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))
