"""Offline evaluation of rankers: splits of a log, measures of rankings and of probabilities, intervals over users.

`splits` says which rows are learnt from and which are predicted, `outcomes` lets a ranker predict them, `measures` (those of
`agents.updates.metrics`) says how well it did, and a bootstrap over users how sure that is, paired between rankers.
"""

from agents.updates import metrics as measures
from agents.updates.bootstrap import Resampled, UserBootstrap
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
    "measures",
]
