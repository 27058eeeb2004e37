"""The models that serve a day: embeddings and their index, a ranker, item counts, with snapshot and rollback."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from agents.rankers.base import Ranker
from agents.rankers.loading import resolve_ranker
from agents.rankers.ranking_input import RankingInput
from agents.updates.costs import Cost, measured
from envs.artefacts import content_hash, load_arrays, save_arrays
from envs.catalogue import SECONDS_PER_DAY
from envs.errors import ArtefactError, ConfigurationError
from envs.logs.schema import InteractionLog
from envs.observation import Observation
from envs.settings import with_settings
from recall.embedding import EmbeddingConfig, EmbeddingRecall

Part = Literal["recall", "ranker"]
PARTS: tuple[Part, ...] = ("recall", "ranker")
"""What can be refreshed by itself."""
RANKER_SETTINGS: dict[str, dict[str, Any]] = {
    "logistic": {
        "samples": {"label": "consumed", "negatives": 2, "negatives_shown": True},
        "validation_share": 0.0,
        "iterations": 100,
        "update_strength": 0.001,
    },
}
"""Settings of rankers where none are given: small, so that an episode may retrain often. An update moves as little as makes daily
ones as good as weekly ones: each is a sum of few clicks."""
OTHER_SETTINGS: dict[str, Any] = {"samples": {"label": "consumed", "negatives_shown": True}}
"""Those of all other rankers. What was consumed, against what else was shown, or items drawn at random where no slate is known, can
be learnt from logs with slates and without. Against random items alone a ranker would learn to like what it shows."""
_RECALL_FILE, _RANKER_FILE, _REST_FILE = "recall.mapped", "ranker.safetensors", "models.npz"


@dataclass(frozen=True)
class Window:
    """The events that a model has learnt from: when the first and the last happened (seconds since 1970), and how many."""

    first: int = 0
    last: int = 0
    rows: int = 0
    """Consumed ones. 0: none; then `first` and `last` say nothing."""

    @classmethod
    def of(cls, log: InteractionLog) -> "Window":
        """The window of a log, whose consumed rows count."""
        clicks = int(log.clicked.sum())
        return cls(int(log.timestamp.min()), int(log.timestamp.max()), clicks) if clicks else cls()

    def __or__(self, other: "Window") -> "Window":
        """The window of both; rows are counted twice where both have them."""
        if not self.rows or not other.rows:
            return self if self.rows else other
        return Window(min(self.first, other.first), max(self.last, other.last), self.rows + other.rows)


@dataclass(frozen=True)
class Snapshot:
    """The models at one moment; opaque, to be handed to `ServedModels.rollback` or `ServedModels.of`."""

    recall: EmbeddingRecall
    ranker: Ranker | None
    counts: NDArray[np.int64]
    version: str
    windows: Mapping[Part, Window]
    ranker_name: str | None
    most_rows: int

    def copy(self) -> "Snapshot":
        """One that shares nothing with this."""
        return replace(
            self,
            recall=deepcopy(self.recall),
            ranker=deepcopy(self.ranker),
            counts=self.counts.copy(),
            windows=dict(self.windows),
        )


class ServedModels:
    """What the pipeline serves with: recall embeddings and their index, a ranker, and how often each item was consumed.

    Every method that learns returns its `Cost`: samples trained on, and those times the numbers that the model learns, both
    counted; measured seconds stand beside them. Recall counts an interaction once per half-pass, a ranker a pair (request, item)
    once per pass; a logistic regression counts as one pass whatever steps its solver takes, since their number hangs on rounding.

    Args:
        config: of the embeddings.
        seed: of the factorisation's start, and of the ranker.
        ranker: name of the ranker, or "file.py:Class"; None serves by the MF score, the inner product of an item's embedding with
            the user's, folded in from the observed history. Then one factorisation gives both recall and scores.
        settings: of the ranker, by field; by default `RANKER_SETTINGS`.
        most_rows: newest rows that the ranker learns from when it is fitted or refitted; of older ones it makes histories and
            counts.

    Raises:
        ConfigurationError: if there is no such ranker or setting.
    """

    def __init__(
        self,
        config: EmbeddingConfig | None = None,
        seed: int = 0,
        *,
        ranker: str | None = "logistic",
        settings: Mapping[str, Any] | None = None,
        most_rows: int = 10_000,
    ) -> None:
        if most_rows < 1:
            raise ConfigurationError(f"most_rows is {most_rows}; a ranker needs at least one row to learn from.")
        self.recall = EmbeddingRecall(config or EmbeddingConfig(), seed)
        self.ranker: Ranker | None = None
        if ranker is not None:
            kind = resolve_ranker(ranker)
            given = RANKER_SETTINGS.get(ranker, OTHER_SETTINGS) if settings is None else settings
            self.ranker = kind(with_settings(kind.config_class(), given, f"ranker '{ranker}'"), seed)
        self.ranker_name, self.most_rows = ranker, most_rows
        self.version = ""
        """Names the state of the models in the event log: number of full refits, dot, updates since."""
        self.windows: dict[Part, Window] = {}
        """What each part has learnt from."""
        self.cost = Cost()
        """Of the last call that learnt."""

    # ------------------------------------------------------------------ learning
    def fit(self, log: InteractionLog) -> Self:
        """Learns everything anew from `log`, cold: `refit` of all parts."""
        self.refit(log)
        return self

    def refit(self, log: InteractionLog, parts: Sequence[Part] = PARTS, *, warm: bool = False) -> Cost:
        """Learns some parts anew from the rows of `log`, for example those of a window of days.

        Args:
            log: what is learnt from; what lies outside is forgotten by these parts. Counts are made anew with recall.
            parts: which.
            warm: whether the ranker's weights start from those it has; embeddings always start anew.

        Raises:
            ConfigurationError: if the log has no consumed rows, or there is no such part.
        """
        self._check_parts(parts)
        cost = Cost()
        if "recall" in parts:
            with measured() as watch:
                self.recall.fit(log)
            self.counts_ = log.item_counts()
            cost += self._recall_cost(watch.seconds)
        if "ranker" in parts and self.ranker is not None:
            usable = self._for_ranker(log)
            with measured() as watch:
                self.ranker.fit(usable, rows=self._taught(usable), warm=warm)
            cost += self._ranker_cost(watch.seconds)
        for part in parts:
            self.windows[part] = Window.of(log)
        generation = int(self.version.split(".")[0]) + 1 if self.version else 0
        self.version = f"{generation}.0"
        self.cost = cost
        return cost

    def update(self, events: InteractionLog) -> Cost:
        """Takes in events that no part has learnt from yet: `update_recall` and `update_ranker` in one."""
        return self._updated(events, PARTS)

    def update_recall(self, events: InteractionLog, *, only_new: bool = False) -> Cost:
        """Incremental steps of the embeddings: solves the users and items that `events` touch. Item counts follow.

        Args:
            events: rows of the fitted log's users and items that recall has not learnt from yet.
            only_new: whether only users and items without rows before are folded in.
        """
        return self._updated(events, ("recall",), only_new)

    def update_ranker(self, events: InteractionLog) -> Cost:
        """Small steps of the ranker on `events` that it has not learnt from yet; nothing where there is no ranker."""
        return self._updated(events, ("ranker",))

    def _updated(self, events: InteractionLog, parts: Sequence[Part], only_new: bool = False) -> Cost:
        if not self.version:
            raise ConfigurationError("models that were never fitted cannot be updated; call fit first.")
        cost = Cost()
        if not events.clicked.any():
            # nothing to learn: neither a cost nor a new version
            self.cost = cost
            return cost
        if "recall" in parts:
            with measured() as watch:
                self.recall.update(events, only_new=only_new)
            self.counts_ = self.counts_ + events.item_counts()
            cost += self._recall_cost(watch.seconds)
        if "ranker" in parts and self.ranker is not None:
            with measured() as watch:
                self.ranker.update(self._for_ranker(events))
            cost += self._ranker_cost(watch.seconds)
        for part in parts:
            self.windows[part] = self.windows.get(part, Window()) | Window.of(events)
        generation, number = self.version.split(".")
        self.version = f"{generation}.{int(number) + 1}"
        self.cost = cost
        return cost

    # ------------------------------------------------------------------ serving
    def rank(self, observation: Observation) -> NDArray[np.float32]:
        """[V, C] scores of the candidates, larger is better, -inf where there is none: the ranker's logits, or the MF scores."""
        if self.ranker is None:
            candidates = observation.candidates
            return np.where(candidates.items >= 0, candidates.score, -np.inf).astype(np.float32)
        return self.ranker.score(RankingInput.of(observation))

    def score(self, batch: RankingInput) -> NDArray[np.float32]:
        """[N, C] as `rank`, for requests that recall has not seen."""
        if self.ranker is not None:
            return self.ranker.score(batch)
        users = self.recall.user_vectors(np.ascontiguousarray(batch.history))
        scores = np.einsum("nd,ncd->nc", users, self.recall.item_vectors_[np.maximum(batch.items, 0)])
        return np.where(batch.items >= 0, scores, -np.inf).astype(np.float32)

    # ------------------------------------------------------------------ about the models
    @property
    def trained_samples(self) -> int:
        """Samples that the last `fit`, `refit` or update went through, see `Cost.samples`."""
        return self.cost.samples

    @property
    def known(self) -> NDArray[np.bool_]:
        """[I] items that had rows when the models were last fitted or updated."""
        return self.counts_ > 0

    @property
    def popularity(self) -> NDArray[np.float32]:
        """[I] log(1 + times consumed)."""
        return np.log1p(self.counts_).astype(np.float32)

    @property
    def window(self) -> Window:
        """What some part has learnt from, newest and oldest event of all."""
        together = [self.windows[part] for part in PARTS if part in self.windows]
        if not any(each.rows for each in together):
            return Window()
        return Window(
            min(each.first for each in together if each.rows),
            max(each.last for each in together if each.rows),
            max(each.rows for each in together),
        )

    @property
    def configuration(self) -> str:
        """Hash of all settings."""
        ranker = None if self.ranker is None else asdict(self.ranker.config)
        settings = {
            "embedding": asdict(self.recall.config),
            "seed": self.recall.seed,
            "ranker": self.ranker_name,
            "settings": ranker,
            "most_rows": self.most_rows,
        }
        return content_hash({}, settings)

    # ------------------------------------------------------------------ copies
    def snapshot(self) -> Snapshot:
        """A copy that later updates do not touch."""
        return self._now().copy()

    def rollback(self, snapshot: Snapshot) -> None:
        """Serves `snapshot` again, to the bit; the snapshot can be used again."""
        copied = snapshot.copy()
        self.recall, self.ranker, self.counts_ = copied.recall, copied.ranker, copied.counts
        self.version, self.windows = copied.version, dict(copied.windows)
        self.ranker_name, self.most_rows = copied.ranker_name, copied.most_rows

    @classmethod
    def of(cls, snapshot: Snapshot) -> Self:
        """Models of their own that serve as `snapshot` does."""
        models = cls.__new__(cls)
        models.cost = Cost()
        models.rollback(snapshot)
        return models

    def save(self, folder: Path) -> None:
        """Writes the models to files of an existing folder.

        Raises:
            ConfigurationError: if the folder cannot be written.
        """
        self.recall.save(folder / _RECALL_FILE)
        if self.ranker is not None:
            self.ranker.save(folder / _RANKER_FILE)
        settings = {
            "version": self.version,
            "windows": {part: asdict(window) for part, window in self.windows.items()},
            "ranker": self.ranker_name,
            "most_rows": self.most_rows,
        }
        save_arrays(folder / _REST_FILE, "ServedModels", {"counts": self.counts_}, settings)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what `save` wrote; the models serve and learn the same, to the bit.

        Raises:
            ArtefactError: if a file is missing or damaged.
        """
        arrays, settings = load_arrays(folder / _REST_FILE, "ServedModels")
        try:
            name, most_rows = settings["ranker"], settings["most_rows"]
            windows = {part: Window(**settings["windows"][part]) for part in PARTS if part in settings["windows"]}
            counts, version = arrays["counts"], settings["version"]
        except (KeyError, TypeError) as error:
            raise ArtefactError(f"'{folder / _REST_FILE}' lacks {error}; make it again.") from error
        recall = EmbeddingRecall.load(folder / _RECALL_FILE)
        ranker = None if name is None else resolve_ranker(name).load(folder / _RANKER_FILE)
        models = cls.__new__(cls)
        models.cost = Cost()
        models.recall, models.ranker, models.counts_ = recall, ranker, counts
        models.version, models.windows, models.ranker_name, models.most_rows = version, windows, name, most_rows
        return models

    def _now(self) -> Snapshot:
        return Snapshot(
            self.recall, self.ranker, self.counts_, self.version, self.windows, self.ranker_name, self.most_rows
        )

    # ------------------------------------------------------------------ parts
    def _recall_cost(self, seconds: float) -> Cost:
        samples = self.recall.trained_samples_
        return Cost(samples, samples * (self.recall.item_vectors_.size + self.recall.user_vectors_.size), seconds)

    def _ranker_cost(self, seconds: float) -> Cost:
        assert self.ranker is not None
        samples = self.ranker.trained_samples_
        return Cost(samples, samples * self.ranker.num_parameters, seconds)

    def _for_ranker(self, log: InteractionLog) -> InteractionLog:
        """The rows that the ranker can make use of together: what was consumed, where this is its label; where clicks are, only
        rows of slates once there are any, since rows of a log without exposures would all count as liked."""
        assert self.ranker is not None
        label, shown = self.ranker.config.samples.label, log.request >= 0
        if label == "consumed":
            if not self.ranker.config.samples.negatives_shown:
                return log.consumed()
            # slates only of the clicks that are learnt from
            return log.where(log.clicked | self._taught(log))
        return log.where(shown) if label in ("auto", "click") and shown.any() else log

    def _taught(self, log: InteractionLog) -> NDArray[np.bool_]:
        """[R] the `most_rows` newest rows, of those of the same second the later ones. Where consumed rows are what is learnt,
        these are counted, and what else was shown with them belongs to them."""
        assert self.ranker is not None
        samples = self.ranker.config.samples
        counted = log.clicked if samples.label == "consumed" else np.ones(len(log), bool)
        places = np.flatnonzero(counted)
        rows = np.zeros(len(log), bool)
        rows[places[np.argsort(log.timestamp[places], kind="stable")[-self.most_rows :]]] = True
        if samples.label == "consumed" and samples.negatives_shown:
            rows |= np.isin(log.request, log.request[rows & (log.request >= 0)])
        return rows

    def _check_parts(self, parts: Sequence[Part]) -> None:
        unknown = [part for part in parts if part not in PARTS]
        if unknown or not parts:
            raise ConfigurationError(
                f"there is no part {', '.join(map(repr, unknown)) or 'named'}; choose from {PARTS}."
            )
        if not self.version and set(parts) != set(PARTS):
            raise ConfigurationError("models that were never fitted cannot be refitted in part; call fit first.")


def joined(logs: list[InteractionLog]) -> InteractionLog:
    """Several logs of the same users and catalogue, as one log under the name of the first; requests keep apart."""
    firsts = np.cumsum([0, *(int(log.request.max(initial=-1)) + 1 for log in logs[:-1])])
    numbered = list(zip(logs, firsts, strict=True))
    return InteractionLog.from_rows(
        name=logs[0].name,
        users=logs[0].users,
        catalogue=logs[0].catalogue,
        user=np.concatenate([log.user for log in logs]),
        item=np.concatenate([log.item for log in logs]),
        timestamp=np.concatenate([log.timestamp for log in logs]),
        clicked=np.concatenate([log.clicked for log in logs]),
        rating=np.concatenate([log.rating for log in logs]),
        request=np.concatenate([np.where(log.request >= 0, log.request + first, -1) for log, first in numbered]),
        position=np.concatenate([log.position for log in logs]),
    )


def last_days(log: InteractionLog, days: float, now: int) -> InteractionLog:
    """The rows of the `days` days before `now` (seconds since 1970): a window to refit on."""
    return log.where(log.timestamp >= now - round(days * SECONDS_PER_DAY))
