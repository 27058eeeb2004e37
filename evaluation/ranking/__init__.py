"""Offline evaluation of rankers: splits of a log, measures of rankings and of probabilities, intervals over users.

`splits` says which rows are learnt from and which are predicted, `outcomes` lets a ranker predict them, `measures` says how
well it did, and `bootstrap` how sure that is, paired between rankers.
"""

from evaluation.ranking.bootstrap import Resampled, UserBootstrap
from evaluation.ranking.outcomes import FullRanking, Pointwise, liked
from evaluation.ranking.splits import Split, global_cut, last_share, leave_last_out

__all__ = [
    "FullRanking",
    "Pointwise",
    "Resampled",
    "Split",
    "UserBootstrap",
    "global_cut",
    "last_share",
    "leave_last_out",
    "liked",
]
