"""What a pipeline is made of, as a table that a file can hold."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from agents.rankers.base import Ranker
from agents.rankers.loading import resolve_ranker
from agents.rerankers import Reranker
from agents.rerankers.loading import resolve_reranker
from envs.errors import ConfigurationError
from envs.settings import check_types, with_settings
from recall import MergedRecall, RecallConfig


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Recall, ranker and re-ranker by name, with the settings that differ from their defaults."""

    recall: Mapping[str, float] = field(
        default_factory=lambda: {"als": 0.7, "popular": 0.1, "fresh": 0.1, "category": 0.1}
    )
    """Recall channel -> share of the candidates; the shares sum to 1. By default a re-ranker finds popular, new and unlike items
    among the candidates, too, which costs a little of the recall of ALS alone; docs/recall.md tells how much."""
    recall_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Channel -> its settings."""
    ranker: str = "mf_bpr"
    """A known ranker, or "file.py:Class"."""
    ranker_settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the ranker's configuration; those of a part of it, as `training`, are a table."""
    reranker: str = "greedy"
    """A known re-ranker, or "file.py:Class"."""
    reranker_settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the re-ranker's configuration."""
    candidates: int = 100
    """C: candidates that recall hands to the ranker."""
    history_size: int = 50
    """H: items of a user's history that ranker and recall see."""
    seed: int = 0
    """Seed of everything random in all three."""

    def __post_init__(self) -> None:
        check_types(self, "the pipeline")
        for name in ("candidates", "history_size"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        resolve_reranker(self.reranker)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a TOML file whose keys are the fields.

        Raises:
            ConfigurationError: if it cannot be read, has a key that is no field, or a value of another type.
        """
        try:
            given = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError(f"'{path}' cannot be read as TOML: {error}.") from error
        known = [each.name for each in fields(cls)]
        for name in given:
            if name not in known:
                raise ConfigurationError(f"'{path}' has the key '{name}'; a pipeline has {', '.join(known)}.")
        return cls(**given)

    def as_dict(self) -> dict[str, Any]:
        """All fields, as JSON can hold them."""
        return asdict(self)

    def make_recall(self) -> MergedRecall:
        """Recall, not yet fitted."""
        return MergedRecall.of(RecallConfig(quotas=self.recall, settings=self.recall_settings, seed=self.seed))

    def make_ranker(self) -> Ranker:
        """The ranker, not yet fitted.

        Raises:
            ConfigurationError: if there is no such ranker, or a setting that it does not have or that is of another type.
        """
        kind = resolve_ranker(self.ranker)
        return kind(with_settings(kind.config_class(), self.ranker_settings, f"ranker '{self.ranker}'"), self.seed)

    def make_reranker(self) -> Reranker:
        """The re-ranker, not yet fitted.

        Raises:
            ConfigurationError: if it has no such setting, or one is of another type.
        """
        kind = resolve_reranker(self.reranker)
        return kind(with_settings(kind.config_type(), self.reranker_settings, f"re-ranker '{self.reranker}'"))
