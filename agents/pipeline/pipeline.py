"""Recall, ranking and re-ranking as one object: what a service would call."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rich.tree import Tree

from agents.pipeline.config import PipelineConfig
from agents.pipeline.served_users import ServedUsers, UserStates
from agents.rankers.base import Progress, Ranker
from agents.rankers.loading import resolve_ranker
from agents.rankers.ranking_input import RankingInput
from agents.rerankers import Reranker
from agents.rerankers.loading import resolve_reranker
from envs.artefacts import load_json, save_json
from envs.candidate_source import RecallRequest
from envs.catalogue import SECONDS_PER_DAY, weekday_of
from envs.errors import ArtefactError, ConfigurationError
from envs.logs.schema import InteractionLog
from envs.observation import Candidates, Observation
from recall import MergedRecall

_FILES = ("recall.mapped", "ranker.safetensors", "reranker.npz")
_FORMAT_VERSION = 2


@dataclass(frozen=True)
class Recommendations:
    """What was recommended to N users."""

    items: NDArray[np.int32]
    """[N, k] indices into the catalogue, the top slot first; -1 where there were too few candidates."""
    item_ids: NDArray[Any]
    """[N, k] as the log names them, '' where there is none."""
    scores: NDArray[np.float32]
    """[N, k] the ranker's logits, -inf where there is no item."""
    channels: NDArray[np.int32]
    """[N, k] bit j is set where recall channel j found the item; see `Pipeline.recall.names`."""

    def provenance(self, names: Sequence[str]) -> list[list[tuple[str, ...]]]:
        """Of each user and slot the names of the channels that found the item."""
        return [
            [tuple(name for bit, name in enumerate(names) if slot >> bit & 1) for slot in row]
            for row in self.channels.tolist()
        ]


class Pipeline:
    """Recall finds candidates, the ranker scores them, the re-ranker makes the slate."""

    def __init__(self, config: PipelineConfig | None = None) -> None:
        self.config = config or PipelineConfig()
        self.recall: MergedRecall = self.config.make_recall()
        self.ranker: Ranker = self.config.make_ranker()
        self.reranker: Reranker = self.config.make_reranker()

    # ------------------------------------------------------------------ learning
    def fit(self, log: InteractionLog, *, progress: Progress | None = None, folder: Path | None = None) -> Self:
        """Fits all three to a log; `progress` and `folder` are those of `Ranker.fit`."""
        self.recall.fit(log)
        self.ranker.fit(log, progress=progress, folder=folder)
        self.reranker.fit(log)
        self.served = ServedUsers.of(log)
        return self

    def update(self, events: InteractionLog) -> None:
        """Takes in new events of the same users and catalogue: histories at once, recall and ranker in small steps."""
        served = self.served.followed_by(events)
        self.recall.update(events)
        self.ranker.update(events)
        self.served = served

    # ------------------------------------------------------------------ serving
    def recommend(
        self,
        user: str | int | Sequence[str | int],
        *,
        now: int | Sequence[int] | None = None,
        k: int = 10,
        histories: Mapping[str, Sequence[tuple[str, int]]] | None = None,
    ) -> Recommendations:
        """Recommends k items to one user or many.

        Args:
            user: id or ids, as the log names them; ids that it does not know are strangers.
            now: seconds since 1970, one for all or one for each; by default a second after the last event known.
            k: items for each user.
            histories: what strangers have consumed: id of the stranger -> (id of the item, seconds since 1970) of each
                consumption. A stranger who is not among them is served without a history. Nothing is kept of them.

        Raises:
            ConfigurationError: if k is less than 1 or more than the candidates that recall is asked for, there are other moments
                than users, or a history is of a known user or names an unknown item.
        """
        self._check_k(k)
        ids = [str(name) for name in ([user] if isinstance(user, str | int) else user)]
        number, latest = self.served.numbers(ids), self.served.last_second
        guests = self.served.guests(histories) if histories else None
        if guests is not None:
            latest = max(latest, guests.last_second)
        moment = self._moments(latest + 1 if now is None else now, len(number))
        states = self.served.states(number, moment, self.config.history_size)
        if guests is not None:
            guest = guests.numbers(ids)
            rows = np.flatnonzero(guest >= 0)
            states = states.replaced(rows, guests.states(guest[rows], moment[rows], self.config.history_size))
        observation, channels = self.observe(number, moment, states)
        scores, slots = self.choose(observation, k)
        rows = np.arange(len(number))[:, None]
        shown = observation.candidates.mask[rows, slots] == 1
        items = np.where(shown, observation.candidates.items[rows, slots], -1).astype(np.int32)
        return Recommendations(
            items=items,
            item_ids=np.where(shown, self.served.item_names[np.maximum(items, 0)], ""),
            scores=np.where(shown, scores[rows, slots], -np.inf).astype(np.float32),
            channels=np.where(shown, channels[rows, slots], 0),
        )

    def observe(
        self, user: NDArray[np.int64], now: NDArray[np.int64], states: UserStates | None = None
    ) -> tuple[Observation, NDArray[np.int32]]:
        """(requests of users [N] at `now` [N] with their candidates, [N, C] bits of the channels that found each).

        Args:
            user: indices, -1 for strangers.
            now: seconds since 1970.
            states: what is known of them; by default what the pipeline keeps.
        """
        states = self.served.states(user, now, self.config.history_size) if states is None else states
        # strangers are told apart by where they stand in the batch; recall's cache must not mix them up
        key = np.where(user >= 0, user, -1 - np.arange(len(user)))
        request = RecallRequest(
            user, states.history, states.excluded, np.column_stack([key, np.zeros(len(user), np.int64)])
        )
        found = self.recall.recall(request, self.config.candidates)
        catalogue, items = self.served.catalogue, np.maximum(found.items, 0)
        age = (now[:, None] - catalogue.birth[items]) / SECONDS_PER_DAY
        features = np.concatenate(
            [found.scores[:, :, None], age[:, :, None].astype(np.float32), catalogue.categories[items]], axis=2
        )
        mask = found.items >= 0
        context = (
            now % SECONDS_PER_DAY / 3600,
            weekday_of(now),
            states.place_in_visit,
            np.maximum(now - self.served.last_second, 0) // SECONDS_PER_DAY,
        )
        observation = Observation(
            user=user,
            user_features=states.features,
            history=states.history,
            history_days=states.history_days,
            context=np.column_stack(context).astype(np.float32),
            candidates=Candidates(found.items, mask.astype(np.int8), np.where(mask[:, :, None], features, 0)),
        )
        return observation, found.brought

    def choose(self, observation: Observation, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """([N, C] the ranker's scores, [N, k] the slots that the re-ranker chose)."""
        scores = self.ranker.score(RankingInput.of(observation))
        return scores, self.reranker.rerank(observation, scores, k)

    def _moments(self, now: int | Sequence[int], number: int) -> NDArray[np.int64]:
        """[N] seconds since 1970 for each of `number` users."""
        moments = np.asarray(now)
        if moments.shape not in ((), (number,)) or not (moments.dtype.kind in "iuf" or not moments.size):
            raise ConfigurationError(
                f"now is of shape {moments.shape} and type {moments.dtype} for {number} users; give seconds since 1970, one number "
                "for all or one for each."
            )
        return np.broadcast_to(moments.astype(np.int64), (number,))

    def _check_k(self, k: int) -> None:
        if not 1 <= k <= self.config.candidates:
            raise ConfigurationError(
                f"k is {k}; it must lie in 1 to {self.config.candidates}, the candidates that recall is asked for."
            )

    # ------------------------------------------------------------------ looking at it
    def tree(self) -> Tree:
        """The stages as a tree that rich can print."""
        tree = Tree(f"pipeline, {self.config.candidates} candidates, histories of {self.config.history_size}")
        recall = tree.add("recall")
        for name, share in self.recall.quotas.items():
            recall.add(f"{name}: {share:.0%} of the candidates")
        tree.add(f"rank: {self.ranker.name}")
        tree.add(f"re-rank: {self.reranker!r}")
        return tree

    # ------------------------------------------------------------------ keeping it
    def save(self, folder: Path) -> None:
        """Writes the pipeline to a new folder, whole or not at all.

        Raises:
            ConfigurationError: if the folder exists.
        """
        if folder.exists():
            raise ConfigurationError(f"'{folder}' exists; give a folder that does not, or delete it.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for save, name in zip((self.recall.save, self.ranker.save, self.reranker.save), _FILES, strict=True):
                save(temporary / name)
            save_json(
                temporary / "pipeline.json",
                {"format_version": _FORMAT_VERSION, "users": self.served.fingerprint, "config": self.config.as_dict()},
            )
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    @classmethod
    def load(cls, folder: Path, log: InteractionLog) -> Self:
        """Reads what `save` wrote, to serve the users of `log` with what they have consumed there.

        Raises:
            ArtefactError: if a file is missing or damaged, or the log has other users or another catalogue.
        """
        about = load_json(folder / "pipeline.json")
        try:
            if about["format_version"] != _FORMAT_VERSION:
                raise ArtefactError(
                    f"'{folder}' has format version {about['format_version']}, this is {_FORMAT_VERSION}; fit and save it again."
                )
            config, users = PipelineConfig(**about["config"]), about["users"]
        except (KeyError, TypeError) as error:
            raise ArtefactError(
                f"'{folder / 'pipeline.json'}' lacks a part ({error}); fit and save it again."
            ) from error
        pipeline = cls(config)
        pipeline.recall = MergedRecall.load(folder / _FILES[0], log.catalogue)
        pipeline.ranker = resolve_ranker(config.ranker).load(folder / _FILES[1], log.catalogue)
        pipeline.reranker = resolve_reranker(config.reranker).load(folder / _FILES[2])
        pipeline.served = ServedUsers.of(log)
        if pipeline.served.fingerprint != users:
            raise ArtefactError(
                f"'{folder}' was fitted to other users than those of log '{log.name}'; fit it to this log."
            )
        return pipeline
