"""What became of a split under a ranker: ranks of what was consumed, or probabilities of what was liked, case by case."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from agents.rankers.log_history import LogHistory
from agents.rankers.ranking_input import RankingInput
from agents.updates import metrics as measures
from agents.updates.bootstrap import Resampled, UserBootstrap
from envs.errors import LogError
from envs.logs.schema import InteractionLog
from evaluation.ranking.splits import Split

HISTORY_SIZE = 20
"""Items of a history that rankers are shown, by default."""
_PAIRS_AT_ONCE = 400_000
"""Requests times items that are asked for at a time; bounds memory and changes nothing else."""


class Scorer(Protocol):
    """What is evaluated: an `agents.rankers.base.Ranker`, or anything else that scores."""

    def score(self, batch: RankingInput) -> NDArray[np.float32]:
        """[N, C] larger is better; logits where probabilities are asked for."""
        ...


@dataclass(frozen=True)
class FullRanking:
    """The rank of each case's item in the whole catalogue, less the items that its user had consumed before."""

    user: NDArray[np.int64]
    """[M] number of the case's user among the U users of the split's test, 0 to U - 1."""
    rank: NDArray[np.float64]
    """[M] 0 for the best; see `measures.ranks_of_targets`."""

    @classmethod
    def of(cls, scorer: Scorer, split: Split, history_size: int = HISTORY_SIZE) -> Self:
        """Lets `scorer` rank the catalogue for each row to predict, from what the service knows of the time before that row.

        Items that the user consumed before are left out, unless the log has repeats.

        Raises:
            LogError: if a row to predict is not a consumed item.
        """
        log, rows = split.log, split.test_rows
        if not log.clicked[rows].all():
            raise LogError(f"log '{log.name}': only consumed items have a rank; '{split.name}' asks for others too.")
        history = LogHistory(log, history_size, delay=split.delay, known=split.known)
        catalogue = np.arange(len(log.catalogue), dtype=np.int32)
        rank = np.empty(len(rows))
        for part in _parts(len(rows), len(catalogue)):
            items = np.ascontiguousarray(np.broadcast_to(catalogue, (len(rows[part]), len(catalogue))))
            consumed = history.consumed_by(rows[part], items)
            seen = np.zeros_like(consumed) if log.has_repeats else consumed
            scores = scorer.score(history.inputs(rows[part], items))
            rank[part] = measures.ranks_of_targets(scores, log.item[rows[part]], seen)
        return cls(np.unique(log.user[rows], return_inverse=True)[1], rank)

    def figures(self, bootstrap: UserBootstrap, top: int = measures.TOP) -> dict[str, Resampled]:
        """Recall, NDCG and MRR at `top`: means over users of each user's mean over cases."""
        of_rank = {"recall": measures.recall_at, "ndcg": measures.ndcg_at, "mrr": measures.mrr_at}
        cases = np.bincount(self.user, minlength=bootstrap.num_users)
        figures = {}
        for name, measure in of_rank.items():
            total = np.bincount(self.user, measure(self.rank, top), bootstrap.num_users)
            with np.errstate(invalid="ignore"):
                figures[f"{name}{top}"] = bootstrap.mean(total / cases)
        return figures

    def among(self, cases: NDArray[np.bool_]) -> "FullRanking":
        """The ranks of some of the cases [M], such as those of cold users; users keep their numbers."""
        return FullRanking(self.user[cases], self.rank[cases])


@dataclass(frozen=True)
class Pointwise:
    """Labels of rows and the logits that a ranker gave them."""

    user: NDArray[np.int64]
    """[M] number of the row's user among the U users of the split's test, 0 to U - 1."""
    label: NDArray[np.bool_]
    """[M] whether the row is positive."""
    logit: NDArray[np.float64]
    """[M] of being positive."""

    @classmethod
    def of(cls, scorer: Scorer, split: Split, labels: NDArray[np.bool_], history_size: int = HISTORY_SIZE) -> Self:
        """Lets `scorer` score each row to predict.

        Args:
            scorer: gives logits.
            split: says which rows.
            labels: [R] of all rows of the split's log, see `liked`.
            history_size: items of a history.
        """
        log, rows = split.log, split.test_rows
        history, logit = LogHistory(log, history_size, delay=split.delay, known=split.known), np.empty(len(rows))
        for part in _parts(len(rows), 1):
            logit[part] = scorer.score(history.inputs(rows[part], log.item[rows[part], None]))[:, 0]
        return cls(np.unique(log.user[rows], return_inverse=True)[1], labels[rows], logit)

    def figures(self, bootstrap: UserBootstrap) -> dict[str, Resampled]:
        """AUC over all rows, GAUC (mean of users' AUC by rows), log-loss, calibration (told over true share of positives), and
        the expected calibration error, see `measures.calibration_error`."""
        users = bootstrap.num_users
        by_user = measures.auc_by_user(self.label, self.logit, self.user, users)
        rows = np.bincount(self.user, minlength=users)
        told, liked, loss = (
            np.bincount(self.user, values, users)
            for values in (expit(self.logit), self.label, measures.log_losses(self.label, self.logit))
        )
        has_both = np.isfinite(by_user)
        return {
            "auc": bootstrap.pooled_auc(self.label, self.logit, self.user),
            "gauc": bootstrap.ratio(np.where(has_both, by_user, 0) * rows, has_both * rows),
            "log_loss": bootstrap.ratio(loss, rows),
            "calibration": bootstrap.ratio(told, liked),
            "calibration_error": measures.calibration_error_by_user(
                self.label, expit(self.logit), self.user, bootstrap
            ),
        }


def liked(log: InteractionLog, rating_threshold: float = 4.0) -> NDArray[np.bool_]:
    """[R] labels of rows: clicked where the log has exposures, else rated at least `rating_threshold`.

    Raises:
        LogError: if the log has neither exposures nor ratings, so that nothing tells rows apart.
    """
    if log.has_exposures:
        return log.clicked
    if not np.isfinite(log.rating).any():
        raise LogError(
            f"log '{log.name}' has neither exposures nor ratings, so there are no clicks to predict; rank instead."
        )
    return log.rating >= rating_threshold


def _parts(rows: int, width: int) -> Iterator[slice]:
    """Slices of `rows` rows of `width` pairs each."""
    step = max(_PAIRS_AT_ONCE // max(width, 1), 1)
    return (slice(first, min(first + step, rows)) for first in range(0, rows, step))
