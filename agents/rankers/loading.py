"""Finds a ranker's class by a known name, or in a user's file as "file.py:Class"."""

from pathlib import Path

from agents.rankers.base import Ranker
from envs.errors import ConfigurationError
from envs.loading import Kind
from envs.logs.schema import InteractionLog

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


def fitted_ranker(
    spec: str, log: InteractionLog, seed: int, *, curves: Path | None = None, shared: Path | None = None
) -> Ranker:
    """A ranker of its own defaults, fitted to a log.

    Args:
        spec: as in `resolve_ranker`.
        log: the policy's log.
        seed: of the fit.
        curves: folder for TensorBoard curves of the fit; None for nowhere.
        shared: folder of rankers of this log, as "<name>-seed<seed>". One that lies there is taken as it is, another is fitted and
            left there.

    Raises:
        ArtefactError: if what lies there is damaged, another ranker, or was fitted on another catalogue.
        ConfigurationError: if there is no such ranker.
    """
    kind = resolve_ranker(spec)
    if shared is None:
        return kind(seed=seed).fit(log, folder=curves)
    path = shared / f"{shown_name(spec)}-seed{seed}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        kind(seed=seed).fit(log, folder=curves).save(path)
    # what was saved is used, also by who saved it: whoever comes first, the bits are the same
    return kind.load(path, log.catalogue)


def shown_name(spec: str) -> str:
    """What a ranker is called in tables: its name, or its class where it comes from a file."""
    return spec.rpartition(":")[2]
