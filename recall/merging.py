"""Several channels as one candidate source: quotas, no item twice, and where each candidate came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from envs.candidate_source import CatalogueListener, RecallRequest
from envs.catalogue import Catalogue
from envs.compiled import over_rows
from envs.errors import ArtefactError, ConfigurationError
from envs.logs.schema import InteractionLog
from envs.settings import check_types, with_settings
from recall import kernels
from recall.cache import RowCache
from recall.channels.base import RecallChannel
from recall.channels.loading import CHANNEL, resolve_channel
from recall.files import check_catalogue, load_recall, write_mapped

TOLERANCE = 1e-6
"""By how much the sum of quotas may differ from 1."""
MOST_CHANNELS = 31
"""Channels whose bits fit into a number of 32."""


@dataclass(frozen=True, kw_only=True)
class RecallConfig:
    """Which channels recall is made of, and what share of the candidates each brings."""

    quotas: Mapping[str, float]
    """Channel (a known name, or "file.py:Class") -> share of the candidates; the shares sum to 1."""
    settings: Mapping[str, Mapping[str, Any]] | None = None
    """Channel -> fields of its configuration that differ from the default."""
    seed: int = 0
    """Seed of the channels."""

    def __post_init__(self) -> None:
        check_types(self, "recall")
        check_quotas(self.quotas)
        for spec in self.settings or {}:
            if spec not in self.quotas:
                raise ConfigurationError(
                    f"settings are given for channel '{spec}', which has no quota; there are {', '.join(self.quotas)}."
                )

    @classmethod
    def parse(cls, text: str, seed: int = 0) -> Self:
        """Reads "als=0.6,popular=0.4"; channels without shares, "als,popular", get equal ones.

        Raises:
            ConfigurationError: if the text is of another form, or the shares do not sum to 1.
        """
        parts = [part.strip() for part in text.split(",") if part.strip()]
        shares = ["=" in part for part in parts]
        if not parts or any(shares) != all(shares):
            raise ConfigurationError(
                f"recall is '{text}'; give channels with shares, 'als=0.6,popular=0.4', or without any, 'als,popular'."
            )
        quotas: dict[str, float] = {}
        for part in parts:
            spec, _, share = part.rpartition("=") if shares[0] else (part, "", str(1 / len(parts)))
            if spec in quotas:
                raise ConfigurationError(f"recall is '{text}', which names channel '{spec}' twice; name it once.")
            try:
                quotas[spec] = float(share)
            except ValueError as error:
                raise ConfigurationError(
                    f"recall is '{text}': the share '{share}' of channel '{spec}' is not a number."
                ) from error
        return cls(quotas=quotas, seed=seed)

    def channels(self) -> list[RecallChannel]:
        """The channels, not yet fitted.

        Raises:
            ConfigurationError: if there is no such channel, or a setting that it does not have or that is of another type.
        """
        made = []
        for spec in self.quotas:
            kind = resolve_channel(spec)
            given = (self.settings or {}).get(spec, {})
            channel = kind(seed=self.seed)
            if given and channel.config is None:
                raise ConfigurationError(f"settings are given for channel '{spec}', which has none; leave them out.")
            if given:
                channel = kind(with_settings(channel.config, given, f"channel '{spec}'"), self.seed)
            made.append(channel)
        return made


def check_quotas(quotas: Mapping[str, float]) -> None:
    """Refuses quotas that are no shares of one whole.

    Raises:
        ConfigurationError: if there is none, one is negative or not finite, or they do not sum to 1.
    """
    if not quotas or len(quotas) > MOST_CHANNELS:
        raise ConfigurationError(f"there are {len(quotas)} recall channels; give 1 to {MOST_CHANNELS}.")
    wrong = {name: share for name, share in quotas.items() if not (np.isfinite(share) and share >= 0)}
    if wrong:
        name, share = next(iter(wrong.items()))
        raise ConfigurationError(f"the quota of channel '{name}' is {share}; it must be a share from 0 to 1.")
    total = sum(quotas.values())
    if abs(total - 1) > TOLERANCE:
        listed = ", ".join(f"{name} {share:g}" for name, share in quotas.items())
        raise ConfigurationError(f"the quotas of the recall channels sum to {total:g}, not to 1: {listed}.")


def places_of(shares: Sequence[float], count: int) -> NDArray[np.int64]:
    """[J] places of `count` that channels of these shares get, by largest remainders; they sum to `count`."""
    exact = np.asarray(shares, np.float64) * count / sum(shares)
    places = np.floor(exact + TOLERANCE).astype(np.int64)
    order = np.argsort(-(exact - places), kind="stable")
    places[order[: count - places.sum()]] += 1
    return places


@dataclass(frozen=True)
class MergedCandidates:
    """Candidates of N requests with their provenance; channels are numbered in the order of the quotas."""

    items: NDArray[np.int32]
    """[N, C] best first, -1 where there are fewer."""
    scores: NDArray[np.float32]
    """[N, C] 0 where there is no item."""
    first: NDArray[np.int32]
    """[N, C] channel whose quota the item fills, -1 where there is no item."""
    brought: NDArray[np.int32]
    """[N, C] bit j is set where channel j found the item among its best C, 0 where there is no item."""


def merge_found(
    found: Sequence[NDArray[np.int32]], shares: Sequence[float], count: int, num_items: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """(items, first, brought), each [N, C] in the order of the places: the union of what channels found.

    Channel after channel fills its places with its best items that none before it has placed; places that are left over, because a
    channel found too few, go to the other channels in turn.

    Args:
        found: [N, D] items of each channel, best first, -1 where there are fewer.
        shares: of the places, one for each channel.
        count: C.
        num_items: I.
    """
    rows = len(found[0])
    items, first, brought = (np.empty((rows, count), np.int32) for _ in range(3))
    together = np.ascontiguousarray(np.concatenate(found, axis=1))
    over_rows(kernels.merge, rows, num_items, together, places_of(shares, count), items, first, brought)
    return items, first, brought


class MergedRecall(CatalogueListener):
    """A candidate source of several channels; fulfils `CandidateSource`.

    Scores are those of the first channel that can score any item (embeddings can), so that they mean the same for all candidates,
    whoever brought them. Where no channel can, an item scores 1 / its place.
    """

    def __init__(self, channels: Sequence[RecallChannel], quotas: Mapping[str, float]) -> None:
        """Joins `channels`, fitted or not, by `quotas`: name -> share of the candidates.

        Raises:
            ConfigurationError: if the quotas do not sum to 1, or names and channels do not match.
        """
        check_quotas(quotas)
        names = [channel.name for channel in channels]
        if sorted(names) != sorted(quotas) or len(set(names)) != len(names):
            raise ConfigurationError(
                f"quotas are given for {', '.join(quotas)}, but the channels are {', '.join(names)}; give each one its own."
            )
        self.channels = list(channels)
        self.quotas = {name: float(quotas[name]) for name in names}
        self._specs = names
        self._cache, self._cached_count = RowCache(), 0

    @classmethod
    def of(cls, config: RecallConfig) -> Self:
        """The channels and quotas of a configuration, not yet fitted."""
        channels = config.channels()
        shares = dict(zip((channel.name for channel in channels), config.quotas.values(), strict=True))
        merged = cls(channels, shares)
        merged._specs = [CHANNEL.absolute(spec) for spec in config.quotas]
        return merged

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the channels, in the order of their numbers."""
        return tuple(self.quotas)

    def fit(self, log: InteractionLog) -> Self:
        """Fits every channel."""
        self._num_items, self._catalogue = len(log.catalogue), log.catalogue.fingerprint
        for channel in self.channels:
            channel.fit(log)
        self._cache.clear()
        return self

    def update(self, events: InteractionLog) -> None:
        """Hands new rows to every channel."""
        for channel in self.channels:
            channel.update(events)
        self._cache.clear()

    def items_changed(self, born: NDArray[np.int32], retired: NDArray[np.int32]) -> None:
        """Tells every channel."""
        if self.offered is not None:
            for channel in self.channels:
                channel.hear(self.offered)
        self._cache.clear()

    def candidates(self, request: RecallRequest, count: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(items [N, count], scores [N, count]), best first, -1 and 0 where there are fewer; see `CandidateSource`."""
        merged = self.recall(request, count)
        return merged.items, merged.scores

    def recall(self, request: RecallRequest, count: int) -> MergedCandidates:
        """Candidates with provenance.

        A request that equals the last one of its simulated user gets the same answer without a search.
        """
        if count != self._cached_count:
            self._cache, self._cached_count = RowCache(), count
        inputs: list[NDArray[Any]] = [request.user[:, None], request.history, request.excluded]
        users = request.key[:, 0]
        found, known = self._cache.look_up(users, inputs)
        if found.all() and len(found):
            return MergedCandidates(*known)
        rows = np.flatnonzero(~found)
        part = RecallRequest(*(getattr(request, name)[rows] for name in ("user", "history", "excluded", "key")))
        fresh = self._recall(part, count)
        outputs: list[NDArray[Any]] = [fresh.items, fresh.scores, fresh.first, fresh.brought]
        self._cache.keep(users[rows], [array[rows] for array in inputs], outputs)
        if len(rows) == len(request):
            return fresh
        together = [np.empty((len(request), count), array.dtype) for array in outputs]
        for whole, old, new in zip(together, known, outputs, strict=True):
            whole[found], whole[rows] = old, new
        return MergedCandidates(*together)

    def _recall(self, request: RecallRequest, count: int) -> MergedCandidates:
        found = [
            self._checked(channel.name, channel.recall(request, count)[0], request, count) for channel in self.channels
        ]
        items, first, brought = merge_found(found, list(self.quotas.values()), count, self._num_items)
        scores = self._scores(request, items)
        empty = items < 0
        order = np.argsort(np.where(empty, np.inf, -scores), axis=1, kind="stable")
        scores[empty] = 0

        def ordered(array: NDArray[Any]) -> NDArray[Any]:
            return np.take_along_axis(array, order, axis=1)

        return MergedCandidates(ordered(items), ordered(scores), ordered(first), ordered(brought))

    def _checked(self, name: str, items: NDArray[np.int32], request: RecallRequest, count: int) -> NDArray[np.int32]:
        """What a channel found, if it is of the right shape and kind.

        Raises:
            ConfigurationError: if it is not.
        """
        items = np.asarray(items)
        if items.shape != (len(request), count) or not np.issubdtype(items.dtype, np.integer):
            raise ConfigurationError(
                f"channel '{name}' returned items of shape {items.shape} and type {items.dtype}; recall must return integers of "
                f"shape {(len(request), count)} (users, items), -1 where there are fewer."
            )
        if items.size and (items.min() < -1 or items.max() >= self._num_items):
            raise ConfigurationError(
                f"channel '{name}' returned item {items.min() if items.min() < -1 else items.max()}, but items are numbered 0 to "
                f"{self._num_items - 1}, and -1 stands for none."
            )
        return items.astype(np.int32, copy=False)

    def _scores(self, request: RecallRequest, items: NDArray[np.int32]) -> NDArray[np.float32]:
        for channel in self.channels:
            scores = channel.score(request, items)
            if scores is not None:
                return scores
        place = np.arange(1, items.shape[1] + 1, dtype=np.float32)
        return np.tile(np.float32(1) / place, (len(items), 1))

    def save(self, path: Path) -> None:
        """Writes all channels to one file with their indices, whole or not at all.

        Raises:
            ConfigurationError: if a channel cannot be found again: one of your own that was not named as "file.py:Class".
        """
        arrays: dict[str, NDArray[Any]] = {}
        settings = []
        for spec, channel in zip(self._specs, self.channels, strict=True):
            if type(channel) is not resolve_channel(spec) and ":" not in spec:
                raise ConfigurationError(
                    f"channel '{channel.name}' is a class of your own that a loaded recall could not find again; "
                    "name it as 'file.py:Class' in a RecallConfig."
                )
            learnt, setting = channel.state()
            arrays |= {f"{channel.name}/{name}": array for name, array in learnt.items()}
            settings.append({"spec": spec, "name": channel.name, "quota": self.quotas[channel.name], "state": setting})
        write_mapped(
            path,
            "MergedRecall",
            arrays,
            {"channels": settings, "num_items": self._num_items, "catalogue": self._catalogue},
        )

    @classmethod
    def load(cls, path: Path, catalogue: Catalogue | None = None) -> Self:
        """Reads what `save` wrote; indices are searched where they lie in the file.

        Args:
            path: the file.
            catalogue: the catalogue that is to be served; one that recall was not fitted on is refused.

        Raises:
            ArtefactError: if the file is missing, damaged, or holds something else or recall of another catalogue.
            ConfigurationError: if the file of a channel of your own is not where it was.
        """
        arrays, settings = load_recall(path, "MergedRecall")
        channels, quotas, specs = [], {}, []
        try:
            for entry in settings["channels"]:
                prefix = f"{entry['name']}/"
                own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
                channels.append(resolve_channel(entry["spec"]).from_state(own, entry["state"], path))
                quotas[entry["name"]] = entry["quota"]
                specs.append(entry["spec"])
            merged = cls(channels, quotas)
            merged._num_items, merged._catalogue = settings["num_items"], settings["catalogue"]
        except (KeyError, TypeError) as error:
            raise ArtefactError(f"'{path}' lacks a part of a MergedRecall ({error}); make it again.") from error
        merged._specs = specs
        check_catalogue(path, merged._catalogue, merged._num_items, catalogue)
        return merged
