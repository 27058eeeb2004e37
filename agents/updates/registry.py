"""The model registry: every version of the served models with what it came from, and which of them serves.

In a folder each version has one of its own, which appears whole or not at all, and `serving.json` says which versions have
served; it is replaced in one step. So whatever happens in the middle of a write (a kill, a full disk), what served before
serves on. One process writes at a time; any number may read.
"""

import errno
import json
import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
from rich.tree import Tree
from safetensors import SafetensorError

from agents.updates.costs import Cost
from agents.updates.models import ServedModels, Snapshot, Window
from envs.errors import ArtefactError, ConfigurationError

_VERSIONS, _RECORD, _SERVING = "versions", "version.json", "serving.json"
_FORMAT_VERSION = 1
_STALE_SECONDS = 86_400
"""Age from which on what a killed write left behind is removed."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """What is known of one version of the models."""

    number: int
    """Its name in the registry, from 1 on in order of making."""
    models: str
    """What the models call themselves in the event log, see `ServedModels.version`."""
    made_by: str
    """What made it: "fit", "update ranker", ..."""
    window: Window
    """The events that it has learnt from."""
    parents: tuple[int, ...]
    """Versions that it was made from."""
    metrics: Mapping[str, float]
    """What was measured of it."""
    cost: Cost
    """Of making it from its parents."""
    configuration: str
    """Hash of all settings of the models."""
    is_kept: bool = True
    """Whether its models are still there; of one that was removed the record stays."""


@dataclass(frozen=True)
class Serving:
    """What serves."""

    version: Version
    models: ServedModels
    refused: tuple[str, ...] = ()
    """Why versions that were to serve do not, in words that name them."""


class ModelRegistry:
    """Versions of the served models, and which of them serves.

    Args:
        folder: where versions are kept; None keeps them in memory, for training episodes.
        keep: newest versions whose models are kept, besides the one that serves, its parents, and those that served before it, back
            to the last that is whole, or to the second where what serves is damaged (so that there is one to roll back to). None
            keeps all. Records of versions always stay.

    Raises:
        ConfigurationError: if the folder cannot be written, or `keep` is less than 1.
        ArtefactError: if `serving.json` of the folder is damaged.
    """

    def __init__(self, folder: Path | None = None, *, keep: int | None = None) -> None:
        if keep is not None and keep < 1:
            raise ConfigurationError(f"keep is {keep}; a registry keeps at least one version.")
        self.keep = keep
        self._shelf: _Shelf = _Memory() if folder is None else _Folder(folder)

    # ------------------------------------------------------------------ writing
    def add(
        self,
        models: ServedModels,
        *,
        made_by: str = "",
        parents: Sequence[int] | None = None,
        metrics: Mapping[str, float] | None = None,
        cost: Cost | None = None,
        is_kept: bool = True,
    ) -> Version:
        """Keeps the models as they are now as a new version, which does not serve yet.

        Args:
            models: later changes to them do not touch the version.
            made_by: see `Version`.
            parents: by default the version that serves, if one does: right for what was made from it by an update. What learnt from
                data alone, as in a full retrain, has none, so give (); what was made from another, as where `load_serving` refused
                some, has that one.
            metrics: see `Version`.
            cost: by default that of the models' last fit, refit or update.
            is_kept: whether the models are; else there is a record of them alone, as of a challenger that was refused.

        Raises:
            ConfigurationError: if a parent is unknown, or the version cannot be written; then it does not exist, and what serves is
                what served before. Also if it was written, but old versions could not be removed; the message says so, and the
                version can be used.
        """
        known = {version.number for version in self.versions()}
        served = self._shelf.served()
        parents = tuple(known.intersection(served[-1:]) if parents is None else parents)
        for parent in parents:
            if parent not in known:
                raise ConfigurationError(f"version {parent} is no parent: {self._shelf.place} has none of this number.")
        version = Version(
            number=max([*known, *self.damaged(), *served], default=0) + 1,
            models=models.version,
            made_by=made_by,
            window=models.window,
            parents=parents,
            metrics=dict(metrics or {}),
            cost=models.cost if cost is None else cost,
            configuration=models.configuration,
            is_kept=is_kept,
        )
        self._shelf.write(version, models)
        if is_kept:
            self._prune(f"version {version.number} is kept and whole")
        return version

    def promote(self, number: int) -> Version:
        """Lets a version serve from now on; until the switch is done the old one does.

        Raises:
            ArtefactError: if there is no whole version of this number.
            ConfigurationError: if the switch cannot be written; or if it was, but old versions could not be removed, as the message
                says.
        """
        version = self._shelf.checked(number)
        self._shelf.switch([*self._shelf.served(), number])
        self._prune(f"version {number} serves")
        return version

    def roll_back(self, to: int | None = None) -> Version:
        """Lets an earlier version serve again.

        Args:
            to: its number; by default the last one that served before the present one and is whole. Where what should serve is
                damaged, the present one is what `load_serving` has in its place, and stays where none served before it.

        Raises:
            ConfigurationError: if none served before.
            ArtefactError: if `to` is not whole.
        """
        served = self._shelf.served()
        if to is not None:
            self._shelf.checked(to)
            # what served since is undone: rolling back once more goes to what served before that
            at = max((place for place, number in enumerate(served) if number == to), default=None)
            self._shelf.switch([*served, to] if at is None else served[: at + 1])
            return self._shelf.record(to)
        whole = [place for place, is_whole in self._served_backwards() if is_whole]
        if not whole or whole == [len(served) - 1]:
            raise ConfigurationError("no other version served before, so there is none to roll back to.")
        self._shelf.switch(served[: whole[-1] + 1])
        return self._shelf.record(served[whole[-1]])

    # ------------------------------------------------------------------ reading
    def load(self, number: int) -> ServedModels:
        """The models of a version: they serve and learn as those that were added, to the bit, and belong to the caller.

        Raises:
            ArtefactError: if there is no such version, or a file of it is missing or damaged; names the file.
        """
        return self._shelf.load(number)

    def load_serving(self) -> Serving:
        """The models that serve. Where they are damaged, the last version that served before them and is whole serves instead;
        nothing is written, so a reader can neither fail on a full disk nor undo what was promoted meanwhile.

        Raises:
            ConfigurationError: if no version was ever promoted.
            ArtefactError: if none of those that served is whole.
        """
        served, refused = self._shelf.served(), []
        if not served:
            raise ConfigurationError(f"no version of {self._shelf.place} serves; promote one first.")
        tried: set[int] = set()
        for place in range(len(served) - 1, -1, -1):
            if served[place] in tried:
                continue
            tried.add(served[place])
            try:
                models = self._shelf.load(served[place])
            except ArtefactError as error:
                refused.append(f"version {served[place]} is refused: {error}")
                continue
            return Serving(self._shelf.record(served[place]), models, tuple(refused))
        raise ArtefactError(f"none of the versions that served is whole: {' '.join(refused)}")

    @property
    def serving(self) -> Version | None:
        """The version that serves, None before one was promoted; `load_serving` tells whether it is whole."""
        served = self._shelf.served()
        return self._shelf.record(served[-1]) if served else None

    @property
    def served(self) -> tuple[int, ...]:
        """Numbers of the versions that served, the present one last; those that were rolled back are not among them."""
        return tuple(self._shelf.served())

    def versions(self) -> list[Version]:
        """All versions whose record is whole, in order of making."""
        return [self._shelf.record(number) for number in self._shelf.numbers() if number not in self._shelf.damaged()]

    def damaged(self) -> dict[int, str]:
        """Versions whose record cannot be read, and why."""
        return self._shelf.damaged()

    def history(self) -> pl.DataFrame:
        """One row a version: version, models, made_by, parents, first and last event (UTC), rows, samples, work, seconds, is_kept,
        is_serving, configuration, and each metric."""
        versions, serving = self.versions(), self._shelf.served()[-1:]
        rows = [
            {
                "version": version.number,
                "models": version.models,
                "made_by": version.made_by,
                "parents": list(version.parents),
                "first_event": version.window.first if version.window.rows else None,
                "last_event": version.window.last if version.window.rows else None,
                "rows": version.window.rows,
                "samples": version.cost.samples,
                "work": version.cost.work,
                "seconds": version.cost.seconds,
                "is_kept": version.is_kept,
                "is_serving": [version.number] == serving,
                "configuration": version.configuration,
            }
            for version in versions
        ]
        table = pl.DataFrame(rows, schema=_HISTORY).with_columns(
            pl.from_epoch(pl.col("first_event", "last_event"), time_unit="s")
        )
        names = dict.fromkeys(name for version in versions for name in version.metrics)
        columns = [pl.Series(name, [v.metrics.get(name) for v in versions], pl.Float64) for name in names]
        return table.with_columns(columns)

    def tree(self) -> Tree:
        """Which version was made from which, to be printed by rich; each stands under its first parent."""
        serving, tree = self._shelf.served()[-1:], Tree("models")
        branches: dict[int, Tree] = {}
        for version in self.versions():
            mark = " [bold]serves[/bold]" if [version.number] == serving else "" if version.is_kept else " (removed)"
            measured = "".join(f", {name} {value:.4g}" for name, value in version.metrics.items())
            parent = branches.get(version.parents[0], tree) if version.parents else tree
            text = f"{version.number}: models {version.models}, {version.made_by or 'added'}{measured}{mark}"
            branches[version.number] = parent.add(text)
        return tree

    def _served_backwards(self) -> Iterator[tuple[int, bool]]:
        """Yields (place among those that served, whether its models are there and undamaged) of what serves and of each that served
        before it, at its last place, until two are whole."""
        served, whole = self._shelf.served(), 0
        last = {number: place for place, number in enumerate(served)}
        for place in sorted(last.values(), reverse=True):
            try:
                self._shelf.checked(served[place])
                is_whole = True
            except ArtefactError:
                is_whole = False
            yield place, is_whole
            whole += is_whole
            if whole == 2:
                return

    def _prune(self, done: str) -> None:
        """Removes the models of versions that are not to be kept; `done` tells in an error what is true whatever comes of that."""
        if self.keep is None:
            return
        versions = [version for version in self.versions() if version.is_kept]
        served = self._shelf.served()
        kept = {version.number for version in versions[-self.keep :]}
        kept.update(served[place] for place, _ in self._served_backwards())
        for version in versions:
            if served and version.number == served[-1]:
                kept.update(version.parents)
        for version in versions:
            if version.number not in kept:
                try:
                    self._shelf.remove(version.number)
                except ConfigurationError as error:
                    raise ConfigurationError(f"{done}, but {error}") from error


_HISTORY: dict[str, Any] = {
    "version": pl.Int64,
    "models": pl.String,
    "made_by": pl.String,
    "parents": pl.List(pl.Int64),
    "first_event": pl.Int64,
    "last_event": pl.Int64,
    "rows": pl.Int64,
    "samples": pl.Int64,
    "work": pl.Int64,
    "seconds": pl.Float64,
    "is_kept": pl.Boolean,
    "is_serving": pl.Boolean,
    "configuration": pl.String,
}


class _Shelf(ABC):
    """Where versions are kept."""

    place: str

    @abstractmethod
    def write(self, version: Version, models: ServedModels) -> None:
        """Keeps a version, whole or not at all; of one whose models are not kept the record."""

    @abstractmethod
    def numbers(self) -> list[int]:
        """Numbers of all versions, ascending."""

    @abstractmethod
    def damaged(self) -> dict[int, str]:
        """Versions whose record cannot be read."""

    @abstractmethod
    def record(self, number: int) -> Version:
        """The record of a version; ArtefactError where it has none."""

    @abstractmethod
    def load(self, number: int) -> ServedModels:
        """The models of a version; ArtefactError where they are not whole."""

    @abstractmethod
    def checked(self, number: int) -> Version:
        """The record of a version whose models are whole; else ArtefactError."""

    @abstractmethod
    def remove(self, number: int) -> None:
        """Removes the models of a version and keeps its record."""

    @abstractmethod
    def served(self) -> list[int]:
        """Versions that served, the present one last."""

    @abstractmethod
    def switch(self, served: list[int]) -> None:
        """Replaces that list in one step."""

    def missing(self, number: int) -> ArtefactError:
        """The error of a version that is not there."""
        kept = ", ".join(map(str, self.numbers())) or "none"
        return ArtefactError(f"{self.place} has no models of version {number}; it has versions {kept}.")


class _Memory(_Shelf):
    place = "the registry in memory"

    def __init__(self) -> None:
        self._records: dict[int, Version] = {}
        self._models: dict[int, Snapshot] = {}
        self._served: list[int] = []

    def write(self, version: Version, models: ServedModels) -> None:
        if version.is_kept:
            self._models[version.number] = models.snapshot()
        self._records[version.number] = version

    def numbers(self) -> list[int]:
        return list(self._records)

    def damaged(self) -> dict[int, str]:
        return {}

    def record(self, number: int) -> Version:
        if number not in self._records:
            raise self.missing(number)
        return self._records[number]

    def load(self, number: int) -> ServedModels:
        if number not in self._models:
            raise self.missing(number)
        return ServedModels.of(self._models[number])

    def checked(self, number: int) -> Version:
        if number not in self._models:
            raise self.missing(number)
        return self._records[number]

    def remove(self, number: int) -> None:
        del self._models[number]
        self._records[number] = replace(self._records[number], is_kept=False)

    def served(self) -> list[int]:
        return list(self._served)

    def switch(self, served: list[int]) -> None:
        self._served = served


@dataclass
class _Folder(_Shelf):
    """Versions in a folder. A record holds a checksum of itself and of each file of models."""

    folder: Path
    _known: dict[int, Version] = field(default_factory=dict)
    """Records read so far; a record changes only when its models are removed, which this process does."""
    _faults: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.place = f"the registry '{self.folder}'"
        try:
            (self.folder / _VERSIONS).mkdir(parents=True, exist_ok=True)
            for left in (self.folder / _VERSIONS).glob(".v*"):
                if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                    shutil.rmtree(left)
        except OSError as error:
            raise self._unwritable(error, "it") from error
        self.served()

    # ------------------------------------------------------------------ writing
    def write(self, version: Version, models: ServedModels) -> None:
        target = self._path(version.number)
        try:
            temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            try:
                if version.is_kept:
                    models.save(temporary)
                files = {path.name: _digest(path) for path in sorted(temporary.iterdir())}
                _write_record(temporary / _RECORD, version, files)
                for path in temporary.iterdir():
                    _sync(path)
                _sync(temporary)
                temporary.chmod(0o755)
                # a version of this number that another process made is not replaced: the rename fails
                os.rename(temporary, target)
                _sync(target.parent)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        except (OSError, SafetensorError) as error:
            raise self._unwritable(error, f"version {version.number}") from error
        self._known[version.number] = version

    def switch(self, served: list[int]) -> None:
        path = self.folder / _SERVING
        try:
            _replace(path, json.dumps({"format_version": _FORMAT_VERSION, "served": served}) + "\n")
        except OSError as error:
            raise self._unwritable(error, f"that version {served[-1]} serves") from error

    def remove(self, number: int) -> None:
        version, path = replace(self.record(number), is_kept=False), self._path(number)
        try:
            # the record first: a kill in between leaves files that nobody asks for
            _write_record(path / _RECORD, version, {})
            for file in path.iterdir():
                if file.name != _RECORD:
                    file.unlink()
        except OSError as error:
            reason, cure = _told(error)
            raise ConfigurationError(
                f"{self.place} could not remove the models of version {number}, which need not be kept ({reason}); {cure}, and the "
                "next add or promote of this registry tries again."
            ) from error
        self._known[number] = version

    # ------------------------------------------------------------------ reading
    def numbers(self) -> list[int]:
        names = (path.name for path in (self.folder / _VERSIONS).iterdir())
        return sorted(int(name[1:]) for name in names if name[:1] == "v" and name[1:].isdigit())

    def damaged(self) -> dict[int, str]:
        for number in self.numbers():
            if number not in self._known and number not in self._faults:
                try:
                    self.record(number)
                except ArtefactError as error:
                    self._faults[number] = str(error)
        return dict(self._faults)

    def record(self, number: int) -> Version:
        if number not in self._known:
            self._known[number] = self._read(number)[0]
        return self._known[number]

    def checked(self, number: int) -> Version:
        version, files = self._read(number)
        if not version.is_kept:
            raise self.missing(number)
        for name, digest in files.items():
            path = self._path(number) / name
            try:
                found = _digest(path)
            except OSError as error:
                raise ArtefactError(f"'{path}' cannot be read ({error.strerror}); use another version.") from error
            if found != digest:
                raise ArtefactError(
                    f"'{path}' is damaged: its checksum is not that of the version; use another version."
                )
        return version

    def load(self, number: int) -> ServedModels:
        self.checked(number)
        return ServedModels.load(self._path(number))

    def served(self) -> list[int]:
        path = self.folder / _SERVING
        try:
            content = json.loads(path.read_text())
            served = [int(number) for number in content["served"]]
            if content["format_version"] != _FORMAT_VERSION:
                raise ValueError(f"format version {content['format_version']}")
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtefactError(f"'{path}' is damaged ({error}); delete it and promote a version.") from error
        return served

    def _read(self, number: int) -> tuple[Version, dict[str, str]]:
        """(record, checksums of the models' files)."""
        path = self._path(number) / _RECORD
        try:
            content = json.loads(path.read_text())
            body = content["body"]
            if content["checksum"] != _checksum(body):
                raise ValueError("its checksum is another")
            version = _from_body(body["version"])
            if version.number != number:
                raise ValueError(f"it is that of version {version.number}")
            return version, dict(body["files"])
        except FileNotFoundError as error:
            if self._path(number).is_dir():
                raise ArtefactError(f"'{path}' does not exist; use another version.") from error
            raise self.missing(number) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtefactError(f"'{path}' is damaged ({error}); use another version.") from error

    def _path(self, number: int) -> Path:
        return self.folder / _VERSIONS / f"v{number:06d}"

    def _unwritable(self, error: OSError | SafetensorError, what: str) -> ConfigurationError:
        reason, cure = _told(error)
        return ConfigurationError(
            f"{self.place} cannot be written ({reason}), so {what} is not kept and what served serves on; {cure}."
        )


def _told(error: OSError | SafetensorError) -> tuple[str, str]:
    """(reason, cure)."""
    reason = getattr(error, "strerror", None) or str(error)
    is_full = getattr(error, "errno", None) == errno.ENOSPC or "No space" in reason
    return reason, "free some space" if is_full else "mend its permissions or choose another folder"


def _write_record(path: Path, version: Version, files: Mapping[str, str]) -> None:
    body = {"format_version": _FORMAT_VERSION, "version": asdict(version), "files": dict(files)}
    # through text once, so that the checksum is that of what will be read
    body = json.loads(json.dumps(body))
    _replace(path, json.dumps({"checksum": _checksum(body), "body": body}, indent=1) + "\n")


def _from_body(body: dict[str, Any]) -> Version:
    window, cost = Window(**body["window"]), Cost(**body["cost"])
    return Version(**(body | {"window": window, "cost": cost, "parents": tuple(body["parents"])}))


def _checksum(body: Any) -> str:
    return sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _replace(path: Path, text: str) -> None:
    """Replaces a file in one step that survives a loss of power."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
        _sync(path.parent)
    finally:
        Path(name).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        digest = sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
