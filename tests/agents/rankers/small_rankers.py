"""Rankers small enough to be fitted in a test."""

from dataclasses import replace

from agents.rankers.dien import DIEN
from agents.rankers.din import DIN
from agents.rankers.gbdt import GBDT
from agents.rankers.gru4rec import GRU4Rec
from agents.rankers.logistic import Logistic
from agents.rankers.mf_bpr import MFBPR
from agents.rankers.mf_pointwise import MFPointwise
from agents.rankers.neumf import NeuMF
from agents.rankers.sasrec import SASRec
from agents.rankers.training import TrainingConfig

CROSSED = [Logistic, GBDT]
POINTWISE = [MFPointwise, DIN, DIEN, *CROSSED]
SEQUENCES = [GRU4Rec, SASRec]
CATALOGUE = [MFBPR, NeuMF, *SEQUENCES]


def made(kind, seed=0, samples=None, epochs=2, training=(), **settings):
    """A ranker of `kind` that reads eight items of history and trains briefly, and otherwise as told."""
    config = kind.config_class()
    samples = replace(samples or config.samples, history_size=8)
    if kind not in CROSSED:
        own = {"epochs": epochs, "batch_size": 512, "learning_rate": 0.01} | dict(training)
        settings = {"training": TrainingConfig(**own)} | settings
    if kind in SEQUENCES:
        settings = {"windows": 16, "width": 16} | settings
    return kind(replace(config, samples=samples, **settings), seed)
