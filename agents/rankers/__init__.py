"""Supervised rankers: score C items for each of N requests, learnt from logs and events.

`base` has the contract, `ranking_input` what a ranker is asked, `log_history` and `samples` what it learns from, `training` and
`network_ranker` the loop and the base that network rankers share; then one ranker a file. docs/rankers.md tells how to write one.
"""

from agents.rankers.base import Ranker, RankerConfig
from agents.rankers.ranking_input import RankingInput
from agents.rankers.samples import SampleConfig

__all__ = ["Ranker", "RankerConfig", "RankingInput", "SampleConfig"]
