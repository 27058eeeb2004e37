"""Measures of rankings and of probabilities, as arrays over cases or users; nothing here loops over users."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

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
    """Chance that a positive row has a larger score than a negative one, ties counting half; NaN where one kind is missing."""
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

    Source: Naeini, Cooper and Hauskrecht (2015), Obtaining well calibrated probabilities, with equal-frequency bins.
    """
    told, happened, rows = reliability(labels, probabilities, bins)
    return float(np.average(np.abs(told - happened), weights=rows)) if len(rows) else float("nan")
