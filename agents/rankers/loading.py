"""Finds a ranker's class by a known name, or in a user's file as "file.py:Class"."""

from agents.rankers.base import Ranker
from envs.errors import ConfigurationError
from envs.loading import Kind

RANKER = Kind(
    name="ranker",
    wanted="a subclass of agents.rankers.Ranker",
    error=ConfigurationError,
    known={
        "logistic": "agents.rankers.logistic:Logistic",
        "gbdt": "agents.rankers.gbdt:GBDT",
        "mf_pointwise": "agents.rankers.mf_pointwise:MFPointwise",
        "mf_bpr": "agents.rankers.mf_bpr:MFBPR",
        "neumf": "agents.rankers.neumf:NeuMF",
        "din": "agents.rankers.din:DIN",
        "dien": "agents.rankers.dien:DIEN",
        "gru4rec": "agents.rankers.gru4rec:GRU4Rec",
        "sasrec": "agents.rankers.sasrec:SASRec",
    },
)
"""Where each ranker lives; it is imported when it is asked for."""


def ranker_names() -> tuple[str, ...]:
    """Names of the rankers that come with driftrec."""
    return tuple(RANKER.known)


def resolve_ranker(spec: str) -> type[Ranker]:
    """The class of a ranker.

    Args:
        spec: one of `ranker_names()`, or "path/to/file.py:Class".

    Raises:
        ConfigurationError: if there is no such name, file or class, the file fails when it is imported, or the class is not
            a ranker.
    """
    return RANKER.find_derived(spec, Ranker)


def shown_name(spec: str) -> str:
    """What a ranker is called in tables: its name, or its class where it comes from a file."""
    return spec.rpartition(":")[2]
