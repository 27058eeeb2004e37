"""Run folders: what a command leaves behind, written whole or not at all, read again with clear errors.

    <run>/config.json            subcommand, options and seeds that made the run
    <run>/versions.json          Python, packages, platform and, in a checkout, the commit
    <run>/<subcommand>.json      flat figures, written last: a run that has them is finished
    <run>/tables/*.parquet       per-user results, summaries, learning curves, ...
    <run>/*.csv                  some of them again, for spreadsheets
    <run>/events/*.parquet       event logs
    <run>/agents/*               fitted agents
    <run>/plots/*.png            plots

What is finished is told by the files: each is renamed into place once it is whole, so a run cut short at any moment
goes on from the last complete one.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl
from packaging.requirements import Requirement

from envs.artefacts import load_json, save_json, written_whole
from envs.errors import ArtefactError, ConfigurationError

RUN_VERSION = 1
DEFAULT_PARENT = Path("results")
_KIND = "driftrec run"


@dataclass(frozen=True)
class Run:
    """A run folder on disk."""

    folder: Path
    subcommand: str
    config: Mapping[str, Any]
    """Options and seeds, JSON-able."""

    @classmethod
    def create(cls, folder: Path | None, subcommand: str, config: Mapping[str, Any]) -> "Run":
        """Makes a new run folder; None names it results/<subcommand>-<date>-<time>.

        Raises:
            ConfigurationError: if the folder cannot be written, or holds something already.
        """
        if folder is None:
            folder = _fresh_folder(DEFAULT_PARENT / f"{subcommand}-{datetime.now():%Y%m%d-%H%M%S}")
        if folder.exists() and not folder.is_dir():
            raise ConfigurationError(f"--out '{folder}' is a file; name a folder that is new or empty.")
        try:
            holds_something = folder.is_dir() and any(folder.iterdir())
        except OSError as error:
            raise ConfigurationError(f"--out '{folder}' cannot be read ({error.strerror}); choose another.") from error
        if holds_something:
            cure = f"go on with it by --resume {folder}, or " if (folder / "config.json").exists() else ""
            raise ConfigurationError(f"--out '{folder}' is not empty; {cure}name a folder that is new or empty.")
        run = cls(folder, subcommand, dict(config))
        save_json(folder / "versions.json", versions())
        header = {"kind": _KIND, "run_version": RUN_VERSION, "subcommand": subcommand, "config": run.config}
        save_json(folder / "config.json", header)
        return run

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Opens a run that `create` made.

        Raises:
            ArtefactError: if the folder is not there, is not a run, is damaged or of another version.
        """
        if not folder.is_dir():
            raise ArtefactError(f"run '{folder}' does not exist; name a folder that a run has made.")
        path = folder / "config.json"
        if not path.exists():
            raise ArtefactError(f"'{folder}' is not a run: it has no config.json; name a folder that a run has made.")
        header = load_json(path)
        if not isinstance(header, dict) or header.get("kind") != _KIND:
            raise ArtefactError(f"'{path}' is not a run's configuration; name a folder that a run has made.")
        if header.get("run_version") != RUN_VERSION:
            raise ArtefactError(
                f"'{path}' has run version {header.get('run_version')}, this is {RUN_VERSION}; make the run again."
            )
        if not isinstance(header.get("config"), dict) or not isinstance(header.get("subcommand"), str):
            raise ArtefactError(f"'{path}' is damaged: 'config' or 'subcommand' is missing; make the run again.")
        return cls(folder, header["subcommand"], header["config"])

    @classmethod
    def resume(cls, folder: Path, subcommand: str, config: Mapping[str, Any]) -> "Run":
        """Opens a run to go on with it under the same command.

        Raises:
            ArtefactError: as `open`.
            ConfigurationError: if the command is not the one that began the run; names the option that differs.
        """
        run = cls.open(folder)
        if run.subcommand != subcommand:
            raise ConfigurationError(f"--resume '{folder}' is a run of '{run.subcommand}', not of '{subcommand}'.")
        for option in {**run.config, **config}:
            before, now = run.config.get(option), config.get(option)
            if before != now:
                raise ConfigurationError(
                    f"--resume '{folder}' was begun with {option} = {before!r}, not {now!r}; "
                    "give the same options, or begin a new run."
                )
        return run

    @property
    def is_finished(self) -> bool:
        """Whether the run has its flat figures, which are written last."""
        return (self.folder / f"{self.subcommand}.json").exists()

    def write_table(self, name: str, table: pl.DataFrame) -> Path:
        """Writes tables/<name>.parquet."""
        path = self.table_path(name)
        with written_whole(path) as temporary:
            table.write_parquet(temporary)
        return path

    def write_csv(self, name: str, table: pl.DataFrame) -> Path:
        """Writes <name>.csv, for spreadsheets."""
        path = self.folder / f"{name}.csv"
        with written_whole(path) as temporary:
            table.write_csv(temporary)
        return path

    def table(self, name: str) -> pl.DataFrame:
        """Reads tables/<name>.parquet.

        Raises:
            ArtefactError: if it is missing or damaged.
        """
        path = self.table_path(name)
        if not path.exists():
            raise ArtefactError(f"run '{self.folder}' has no table '{name}'; finish it with --resume {self.folder}.")
        try:
            return pl.read_parquet(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise ArtefactError(
                f"'{path}' is damaged; delete it and go on with the run by --resume {self.folder}."
            ) from error

    def has_table(self, name: str) -> bool:
        """Whether tables/<name>.parquet has been written."""
        return self.table_path(name).exists()

    def table_path(self, name: str) -> Path:
        """tables/<name>.parquet."""
        return self.folder / "tables" / f"{name}.parquet"

    def write_figures(self, figures: Mapping[str, float | int | str | None]) -> Path:
        """Writes the flat figures, <subcommand>.json; the run is finished then. NaN becomes null."""
        flat = {name: None if isinstance(value, float) and value != value else value for name, value in figures.items()}
        path = self.folder / f"{self.subcommand}.json"
        save_json(path, flat)
        return path

    def figures(self) -> dict[str, Any]:
        """The flat figures.

        Raises:
            ArtefactError: if the run is unfinished or they are damaged.
        """
        if not self.is_finished:
            raise ArtefactError(f"run '{self.folder}' is not finished; go on with it by --resume {self.folder}.")
        return dict(load_json(self.folder / f"{self.subcommand}.json"))

    def events_path(self, name: str) -> Path:
        """events/<name>.parquet."""
        return self.folder / "events" / f"{name}.parquet"

    def agent_path(self, name: str) -> Path:
        """agents/<name>."""
        return self.folder / "agents" / name

    def curves_path(self, name: str) -> Path:
        """tensorboard/<name>, a folder for the curves of a fit."""
        return self.folder / "tensorboard" / name

    def plot_path(self, name: str) -> Path:
        """plots/<name>.png."""
        return self.folder / "plots" / f"{name}.png"


def _fresh_folder(wanted: Path) -> Path:
    """`wanted`, or with a number behind it where a run of the same second has taken the name."""
    folder, number = wanted, 2
    while folder.exists():
        folder, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    return folder


def versions() -> dict[str, Any]:
    """Python, platform, cores, driftrec and the packages that it requires, and the commit in a checkout."""
    packages = {}
    try:
        packages["driftrec"] = metadata.version("driftrec")
        required = [Requirement(text) for text in metadata.requires("driftrec") or []]
        for requirement in required:
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                packages[requirement.name] = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        pass  # run from a checkout that is not installed
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "commit": _commit(),
        "packages": packages,
    }


def _commit() -> str | None:
    """Commit of the checkout that this file lies in, with '+changes' where it was modified; None outside of one."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+changes", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip()
