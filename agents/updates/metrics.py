"""Measures of rankings, of probabilities and of their drift, as arrays over cases or users; nothing here loops over users.

The gate, the monitoring and `evaluation/` all take them from here, with the intervals of `agents.updates.intervals` (means,
ratios and their differences, paired by user) and `agents.updates.bootstrap` (all else).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, rankdata

from agents.updates.bootstrap import Resampled, UserBootstrap
from agents.updates.intervals import Measured

TOP = 10
"""k of the measures of a ranking."""


def ranks_of_targets(
    scores: NDArray[np.float32], targets: NDArray[np.int32], seen: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """[M] rank of each target among the items of its row that were not seen, 0 for the best.

    Items of equal score share the mean of their ranks, so that a ranker that tells nothing apart gains nothing by it.

    Args:
        scores: [M, I] of the whole catalogue, -inf for what is not ranked.
        targets: [M] item that was consumed; its own `seen` does not matter.
        seen: [M, I] items left out.
    """
    rows = np.arange(len(targets))
    of_target = scores[rows, targets][:, None]
    ranked = ~seen
    ranked[rows, targets] = False
    better = ((scores > of_target) & ranked).sum(axis=1)
    equal = ((scores == of_target) & ranked).sum(axis=1)
    return better + equal / 2


def recall_at(ranks: NDArray[np.float64], top: int = TOP) -> NDArray[np.float64]:
    """[M] 1 where the target is among the best `top`, else 0 (with one target a case, recall and hit rate are the same)."""
    return (ranks < top).astype(np.float64)


def ndcg_at(ranks: NDArray[np.float64], top: int = TOP) -> NDArray[np.float64]:
    """[M] normalised discounted cumulative gain: 1 / log2(rank + 2) among the best `top`, else 0.

    Source: Järvelin and Kekäläinen (2002), for one relevant item, whose ideal gain is 1.
    """
    return np.where(ranks < top, 1 / np.log2(ranks + 2), 0)


def mrr_at(ranks: NDArray[np.float64], top: int = TOP) -> NDArray[np.float64]:
    """[M] reciprocal rank: 1 / (rank + 1) among the best `top`, else 0."""
    return np.where(ranks < top, 1 / (ranks + 1), 0)


def auc(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Chance that a positive row has a larger score than a negative one, ties counting half; NaN where one kind is missing.

    Source: Hanley and McNeil (1982), by the rank sum.
    """
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return float("nan")
    return float((rankdata(scores)[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auc_by_user(
    labels: NDArray[np.bool_], scores: NDArray[np.float64], user: NDArray[np.int64], num_users: int
) -> NDArray[np.float64]:
    """[U] AUC within each user's rows, NaN where a user has rows of one kind only.

    The mean weighted by each user's number of rows is the GAUC of Zhou et al. (2018), Deep interest network, eq. 7.

    Args:
        labels: [R] whether a row is positive.
        scores: [R] larger is more likely positive.
        user: [R] number of the row's user, 0 to U - 1.
        num_users: U.
    """
    order = np.lexsort((scores, user))
    who, value, positive = user[order], scores[order], labels[order]
    # ranks with ties, all users at once: ranks in the whole order, less the rows of earlier users
    begins = np.ones(len(order), bool)
    begins[1:] = (who[1:] != who[:-1]) | (value[1:] != value[:-1])
    tie = np.cumsum(begins) - 1
    first = np.flatnonzero(begins)
    rank = (first + np.append(first[1:], len(order)) + 1)[tie] / 2  # mean of the ranks, from 1, of rows that tie
    rows = np.bincount(user, minlength=num_users)
    rank -= (np.cumsum(rows) - rows)[who]
    positives = np.bincount(who, positive, num_users)
    total = np.bincount(who, rank * positive, num_users)
    pairs = positives * (rows - positives)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, (total - positives * (positives + 1) / 2) / pairs, np.nan)


def log_losses(labels: NDArray[np.bool_], logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """[R] -log of the probability that the logits gave to what happened; exact where probabilities round to 0 or 1."""
    return np.logaddexp(0, np.where(labels, -logits, logits))


def reliability(
    labels: NDArray[np.bool_], probabilities: NDArray[np.float64], bins: int = 10
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """(mean probability, share of positives, rows), each [bins] or fewer, in bins of equally many rows by probability."""
    if not len(labels):
        return np.zeros(0), np.zeros(0), np.zeros(0, np.int64)
    bin_of = bins_by_score(probabilities, bins)
    rows = np.bincount(bin_of)
    told, happened = (np.bincount(bin_of, values) / rows for values in (probabilities, labels))
    return told, happened, rows


def bins_by_score(scores: NDArray[np.float64], bins: int = 10) -> NDArray[np.int64]:
    """[R] number of each row's bin, where bins hold equally many rows, the lowest scores in the first."""
    place = np.empty(len(scores), np.int64)
    place[np.argsort(scores, kind="stable")] = np.arange(len(scores))
    edges = np.unique(np.linspace(0, len(scores), bins + 1).astype(np.int64))
    return np.searchsorted(edges, place, side="right") - 1


def calibration_error(labels: NDArray[np.bool_], probabilities: NDArray[np.float64], bins: int = 10) -> float:
    """Mean distance between told and true share of positives over `bins` bins of equally many rows (expected calibration error).

    Source: Naeini, Cooper and Hauskrecht (2015), Obtaining well calibrated probabilities; Guo et al. (2017), On calibration of
    modern neural networks, eq. 3, with equal-frequency bins.
    """
    told, happened, rows = reliability(labels, probabilities, bins)
    return float(np.average(np.abs(told - happened), weights=rows)) if len(rows) else float("nan")


def calibration_error_by_user(
    labels: NDArray[np.bool_],
    probabilities: NDArray[np.float64],
    user: NDArray[np.int64],
    bootstrap: UserBootstrap,
    bins: int = 10,
) -> Resampled:
    """`calibration_error` with its draws over users, whose quantiles are its interval. The bins are those of all rows under every
    draw.

    Args:
        labels: [R] whether a row is positive.
        probabilities: [R] told of being positive; those of like order fall into one bin.
        user: [R] number of the row's user among those of `bootstrap`.
        bootstrap: draws users.
        bins: of equally many rows.
    """
    bin_of = bins_by_score(probabilities, bins)
    shape = (bootstrap.num_users, bin_of.max(initial=0) + 1)
    cell = user * shape[1] + bin_of
    told, happened, rows = (
        np.bincount(cell, values, shape[0] * shape[1]).reshape(shape)
        for values in (probabilities, labels, np.ones(len(cell)))
    )
    return bootstrap.distance(told - happened, rows.sum(axis=1))


def mean_by_user(values: NDArray[np.float64], user: NDArray[np.int64]) -> Measured:
    """The mean of `values` [M] over cases, with the influence of each user [M] on it: cases of a user hang together.

    The difference of two such means over the same cases has its interval paired by user (the linearised ratio estimator of
    clusters; Cochran 1977, Sampling techniques, section 6.3). NaN without cases.
    """
    _, number = np.unique(user, return_inverse=True)
    if not len(number):
        return Measured(float("nan"), np.zeros((1, 0)))
    return Measured.ratio(np.bincount(number, values), np.bincount(number))


def population_stability(reference: NDArray[np.floating], current: NDArray[np.floating], bins: int = 10) -> float:
    """Population stability index: how far the distribution of `current` [m] lies from that of `reference` [n].

    sum over bins of (q - p) ln(q / p), with p and q the shares of reference and current in bins that hold equally many of the
    reference; a half is added to every count, so that an empty bin stays finite. By custom below 0.1 is no shift and above 0.25
    a large one; by chance alone it stays below `stability_limit`. NaN where one of them is empty.

    Source: Siddiqi (2006), Credit risk scorecards, chapter 9.
    """
    if not len(reference) or not len(current):
        return float("nan")
    # values that tie stand in one bin, so that equal samples have an index of 0
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1]))
    shares = []
    for values in (reference, current):
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1) + 0.5
        shares.append(counts / counts.sum())
    told, found = shares
    return float(((found - told) * np.log(found / told)).sum())


def stability_limit(reference: int, current: int, bins: int = 10, alpha: float = 0.05) -> float:
    """What `population_stability` of samples of these sizes exceeds with chance `alpha` where nothing has shifted.

    It is then about (1 / n + 1 / m) times chi-squared of bins - 1 degrees of freedom; infinite without samples.

    Source: Yurdakul and Naranjo (2020), Statistical properties of the population stability index.
    """
    if not reference or not current:
        return float("inf")
    return float((1 / reference + 1 / current) * chi2.ppf(1 - alpha, bins - 1))
