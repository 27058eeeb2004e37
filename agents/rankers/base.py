"""The contract of a ranker, and what all of them share: counts of the log, known items, blocks, checkpoints."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from agents.rankers.checkpoints import Header, load_checkpoint, save_checkpoint
from agents.rankers.log_history import LogHistory, relative
from agents.rankers.ranking_input import RankingInput
from agents.rankers.samples import SampleConfig, Samples, held_out, joined
from envs.catalogue import Catalogue
from envs.errors import ArtefactError, ConfigurationError
from envs.logs.schema import InteractionLog
from envs.settings import with_settings
from envs.users.threads import in_two_threads
from recall.threads import one_thread

Progress = Callable[[int, int, float], None]
"""Called after each pass with (its number from 1, passes at most, validation objective so far, smaller is better)."""


@dataclass(frozen=True, kw_only=True)
class RankerConfig:
    """What every ranker can be told; rankers add fields of their own."""

    samples: SampleConfig = field(default_factory=SampleConfig)
    """What is learnt from a log."""
    validation_share: float = 0.1
    """Share of each user's rows, the last ones, that is held out for early stopping where `fit` is given no validation."""

    def __post_init__(self) -> None:
        if not 0 <= self.validation_share < 1:
            raise ConfigurationError(f"validation_share is {self.validation_share}; it must lie in [0, 1).")


class Ranker(ABC):
    """Scores C items for each of N requests. A ranker of one's own needs `_fit`, `_update`, `_score` and, to be saved, `_arrays`
    and `_restore`.

    The base keeps what is public of the catalogue and counted in the log: `categories_`, `counts_`, `known_items_`, `known_users_`,
    and the last items of each user, so that `update` can tell the history of new events.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[RankerConfig]] = RankerConfig
    block_pairs: ClassVar[int | None] = 1_600
    """Pairs scored at once, about: blocks have a fixed number of rows, so that a request's scores do not hang on its
    neighbours in the batch. None for a ranker of which they never do, whatever the batch."""

    categories_: NDArray[np.float32]
    """[I, G] categories of the catalogue."""
    counts_: NDArray[np.float64]
    """[I] times consumed in the logs of fit and updates."""
    known_items_: NDArray[np.bool_]
    """[I] items with rows, clicked or not, in what was learnt from; the others are scored by their features."""
    known_users_: NDArray[np.bool_]
    """[U] users with rows in what was learnt from; the others are strangers."""
    trained_samples_: int
    """Pairs (request, item) that the last `fit` or `update` learnt from, each counted once a pass: its cost."""
    _is_warm: bool = False
    """Whether the fit under way starts from what was learnt before."""

    def __init__(self, config: RankerConfig | None = None, seed: int = 0) -> None:
        self.config: Any = config or self.config_class()
        self.seed = seed

    # ------------------------------------------------------------------ the contract
    def fit(
        self,
        log: InteractionLog,
        validation: InteractionLog | None = None,
        *,
        progress: Progress | None = None,
        folder: Path | None = None,
        rows: NDArray[np.bool_] | None = None,
        warm: bool = False,
    ) -> Self:
        """Learns from a log, anew.

        Args:
            log: rows to learn from.
            validation: later rows of the same users for early stopping; by default the last of each user's own, see
                `validation_share`.
            progress: called after each pass.
            folder: where TensorBoard curves are written; None for nowhere.
            rows: [R] rows of `log` that are learnt from, by default all; of the others only histories and counts are made.
            warm: whether the weights start from those that were learnt before, where there are such, and the ranker's kind has
                use for them; counts and rates are always made anew.

        Raises:
            ConfigurationError: if the log has nothing of what `label` asks for, `validation` has other users or items, or a
                warm start was learnt on other ones.
        """
        self._is_warm = warm and hasattr(self, "known_users_")
        if self._is_warm:
            self._check_log(log)
        self.fingerprint_ = log.catalogue.fingerprint
        self.categories_ = log.catalogue.categories.astype(np.float32)
        self.num_user_features_ = 1 + log.users.features.shape[1]
        self.counts_ = log.item_counts().astype(np.float64)
        self._past = _Past.of(log, self.config.samples.history_size)
        if validation is None:
            together, late = log, held_out(log, self.config.validation_share, self.seed)
            learnt = np.ones(len(log), bool) if rows is None else rows
            early, late = learnt & ~late, learnt & late
        else:
            together, late = joined(log, validation)
            early = ~late
            if rows is not None:
                early[early] = rows  # the rows of either log keep their order
        settings, taught = self.config.samples, together.where(early)
        history = LogHistory(together, settings.history_size, delay=settings.event_delay)
        self.known_items_ = np.bincount(taught.item, minlength=len(log.catalogue)) > 0
        self.known_users_ = np.bincount(taught.user, minlength=len(log.users)) > 0
        training = self._samples(history, early)
        self._fit(training, self._samples(history, late), progress, folder)
        self.trained_samples_ = training.num_pairs * self._passes_of_fit
        return self

    def update(self, events: InteractionLog, *, remember: bool = True) -> None:
        """Learns from new events (rows with exposures, or without) of the same users and catalogue, in small steps.

        Args:
            events: what is learnt from; the history of its rows goes on from what users had consumed before.
            remember: whether the histories of later updates go on from these events too. False for lives that users live
                beside others from the same start, as simulated ones do.

        Raises:
            ConfigurationError: if the events have other users or items.
        """
        self._check_log(events)
        self.trained_samples_ = 0
        if not len(events):
            return
        together, new = joined(self._past.as_log(events), events)
        history = LogHistory(
            together,
            self.config.samples.history_size,
            self.counts_,
            new,
            self._past.left_out(len(events.users)),
            delay=self.config.samples.event_delay,
        )
        self.counts_ = self.counts_ + events.item_counts()
        self.known_items_ = self.known_items_ | (np.bincount(events.item, minlength=self.num_items) > 0)
        self.known_users_ = self.known_users_ | (np.bincount(events.user, minlength=len(events.users)) > 0)
        if remember:
            self._past = self._past.followed_by(together, self.config.samples.history_size)
        samples = self._samples(history, new)
        self._update(samples)
        self.trained_samples_ = samples.num_pairs * self._passes_of_update

    def score(self, batch: RankingInput) -> NDArray[np.float32]:
        """[N, C] logits, larger is better, -inf where there is no item; those of a pointwise ranker become probabilities by a
        sigmoid.

        Raises:
            ConfigurationError: if shapes disagree or an item is not in the catalogue of the fit.
        """
        batch = batch.checked(len(self.categories_), self.num_user_features_)
        rows, columns = batch.items.shape
        if not rows or not columns:
            return np.zeros((rows, columns), np.float32)
        step = rows if self.block_pairs is None else max(self.block_pairs // columns, 1)
        counts = relative(self.counts_, self.counts_.sum(), len(self.counts_)).astype(np.float32)

        def block(first: int) -> NDArray[np.float32]:
            return self._score(batch.take(slice(first, first + step)).padded(step).with_counts(counts))

        with _one_thread():
            firsts = range(0, rows, step)
            blocks = in_two_threads(block, firsts) if len(firsts) > 1 else [block(0)]
        scores = np.concatenate(blocks)[:rows]
        return np.where(batch.items >= 0, scores, -np.inf).astype(np.float32)

    def save(self, path: Path) -> None:
        """Writes the ranker to one safetensors file, whole or not at all."""
        kept: dict[str, NDArray[Any]] = {
            "categories": self.categories_,
            "counts": self.counts_,
            "known_items": self.known_items_,
            "known_users": self.known_users_,
        }
        arrays = {f"base.{name}": array for name, array in (kept | vars(self._past)).items()}
        content = {
            "config": asdict(self.config),
            "seed": self.seed,
            "num_user_features": self.num_user_features_,
            "trained_samples": self.trained_samples_,
        }
        save_checkpoint(
            path, Header(kind=self._kind, catalogue=self.fingerprint_, content=content), arrays | self._arrays()
        )

    @classmethod
    def load(cls, path: Path, catalogue: Catalogue | None = None) -> Self:
        """Reads what `save` wrote.

        Args:
            path: the file.
            catalogue: the catalogue that is to be served; one that the ranker was not fitted on is refused.

        Raises:
            ArtefactError: if the file is damaged, holds another ranker, or one of another catalogue.
        """
        header, arrays = load_checkpoint(path, f"ranker {cls.__name__}")
        try:
            ranker = cls(
                with_settings(cls.config_class(), header.content["config"], f"ranker '{cls.name}'"),
                header.content["seed"],
            )
            ranker.fingerprint_ = header.catalogue
            ranker.num_user_features_ = header.content["num_user_features"]
            ranker.trained_samples_ = header.content.get("trained_samples", 0)
            base = {name[5:]: arrays.pop(name) for name in list(arrays) if name.startswith("base.")}
            ranker.categories_ = base.pop("categories")
            ranker.counts_ = base.pop("counts")
            ranker.known_items_, ranker.known_users_ = base.pop("known_items"), base.pop("known_users")
            ranker._past = _Past(**base)
            ranker._restore(arrays)
        except (KeyError, TypeError, ValueError, RuntimeError, ConfigurationError) as error:
            raise ArtefactError(
                f"'{path}' was written by another version of '{cls.name}'; fit and save it again."
            ) from error
        if catalogue is not None:
            ranker.check_catalogue(catalogue, "what is to be served", path)
        return ranker

    def check_catalogue(self, catalogue: Catalogue, whose: str, path: Path | None = None) -> None:
        """Refuses a catalogue that the ranker was not fitted on.

        Raises:
            ArtefactError: for a ranker loaded from `path`.
            ConfigurationError: for one fitted in this process.
        """
        if catalogue.fingerprint != self.fingerprint_:
            which = f"the ranker in '{path}'" if path else f"ranker '{self.name}'"
            sentence = (
                f"{which} was fitted on another catalogue ({len(self.categories_)} items) than that of {whose} "
                f"({len(catalogue)} items); fit it to a log of this catalogue."
            )
            raise ArtefactError(sentence) if path else ConfigurationError(sentence)

    # ------------------------------------------------------------------ what a ranker adds
    @abstractmethod
    def _fit(self, training: Samples, validation: Samples, progress: Progress | None, folder: Path | None) -> None:
        """Learns from `training`, anew, and may stop by `validation`, which can be empty."""

    @abstractmethod
    def _update(self, samples: Samples) -> None:
        """Learns from new samples in small steps; `counts_` and `known_users_` have them in already."""

    @abstractmethod
    def _score(self, batch: RankingInput) -> NDArray[np.float32]:
        """[N, C] logits of one block, whose `counts` are filled in; what stands where there is no item does not matter. Two threads
        call it at once."""

    def _arrays(self) -> dict[str, NDArray[Any]]:
        """What was learnt, by name."""
        raise NotImplementedError(f"ranker '{self.name}' cannot be saved: it lacks _arrays and _restore.")

    def _restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Takes back what `_arrays` gave."""
        raise NotImplementedError(f"ranker '{self.name}' cannot be loaded: it lacks _arrays and _restore.")

    # ------------------------------------------------------------------ for rankers
    @property
    def num_items(self) -> int:
        """I."""
        return len(self.categories_)

    @property
    def num_parameters(self) -> int:
        """Numbers learnt."""
        return sum(array.size for array in self._arrays().values())

    @property
    def _passes_of_fit(self) -> int:
        """Times that the last fit met each sample."""
        return 1

    @property
    def _passes_of_update(self) -> int:
        """Times that an update meets each sample."""
        return 1

    def _check_log(self, log: InteractionLog) -> None:
        """Refuses a log of other users or items than those of the fit."""
        self.check_catalogue(log.catalogue, f"log '{log.name}'")
        if len(log.users) != len(self.known_users_):
            raise ConfigurationError(
                f"log '{log.name}' has {len(log.users)} users, ranker '{self.name}' was fitted to "
                f"{len(self.known_users_)}; fit it anew."
            )

    @property
    def _kind(self) -> str:
        return f"ranker {type(self).__name__}"

    def _samples(self, history: LogHistory, rows: NDArray[np.bool_]) -> Samples:
        pool = np.flatnonzero(self.known_items_ & (self.counts_ > 0)).astype(np.int32)
        return Samples(history, rows, self.config.samples, self.seed, pool)


@dataclass(frozen=True, kw_only=True)
class _Past:
    """The last items that each user consumed, and how many there were in all: the history of events still to come."""

    past_user: NDArray[np.int32]
    past_item: NDArray[np.int32]
    past_time: NDArray[np.int64]
    past_number: NDArray[np.int64]
    """[U] items consumed in all."""

    @classmethod
    def of(cls, log: InteractionLog, size: int, before: NDArray[np.int64] | None = None) -> "_Past":
        """The last `size` items of each user of the log, which consumed `before` [U] items before it."""
        consumed = log.consumed()
        number = np.diff(consumed.user_starts)
        late = consumed.place >= number[consumed.user] - size
        return cls(
            past_user=consumed.user[late],
            past_item=consumed.item[late],
            past_time=consumed.timestamp[late],
            past_number=number if before is None else number + before,
        )

    def left_out(self, num_users: int) -> NDArray[np.int64]:
        """[U] items consumed before those that are kept."""
        return self.past_number - np.bincount(self.past_user, minlength=num_users)

    def as_log(self, events: InteractionLog) -> InteractionLog:
        """The kept items as a log of the users and the catalogue of `events`."""
        return InteractionLog.from_rows(
            name=events.name,
            users=events.users,
            catalogue=events.catalogue,
            user=self.past_user,
            item=self.past_item,
            timestamp=self.past_time,
        )

    def followed_by(self, together: InteractionLog, size: int) -> "_Past":
        """The past once the events in `together`, which begins with the kept items, are past too."""
        return _Past.of(together, size, self.left_out(len(together.users)))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Inside the block torch, BLAS and OpenMP work in the thread that calls them, so that the bits do not hang on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with one_thread():
            yield
    finally:
        torch.set_num_threads(threads)
