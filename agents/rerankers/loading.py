"""Finds a re-ranker's class by a known name, or in a user's file as "file.py:Class"."""

from agents.rerankers import RERANKERS, Reranker
from envs.errors import ConfigurationError
from envs.loading import Kind

RERANKER = Kind(
    name="re-ranker",
    wanted="a subclass of agents.rerankers.Reranker",
    error=ConfigurationError,
    known={name: f"{kind.__module__}:{kind.__qualname__}" for name, kind in RERANKERS.items()},
)
"""Where each re-ranker lives."""


def resolve_reranker(spec: str) -> type[Reranker]:
    """The class of a re-ranker.

    Args:
        spec: a known name, or "path/to/file.py:Class".

    Raises:
        ConfigurationError: if there is no such name, file or class, the file fails when it is imported, or the class is not
            a re-ranker.
    """
    return RERANKER.find_derived(spec, Reranker)
