"""Interaction logs: the one typed log object (`schema`), and the loaders and the generator that make it.

`load_log` is the way in: it takes a name ("ml-100k", "synthetic"), the path of a folder or archive with a known layout, or
any table with the columns named. Loaders read typed columns as streams (`scans`), and name a fault by file, line and column.
"""

import zipfile
from importlib.resources.abc import Traversable
from pathlib import Path

from envs.errors import ConfigurationError, LogError
from envs.logs.columns import PARQUET_ENDS, TEXT_ENDS, parse_columns, read_columns
from envs.logs.kuairand import LOGS, VIDEOS, is_kuairand, read_kuairand
from envs.logs.movielens import LAYOUTS, read_movielens
from envs.logs.schema import InteractionLog, Users
from envs.logs.sources import fetch_ml_100k

__all__ = ["DATASETS", "InteractionLog", "Users", "load_log"]

DATASETS = ("ml-100k", "synthetic")
"""Names that `load_log` knows; anything else is a path."""


def load_log(
    dataset: str,
    *,
    skip_bad_rows: bool = False,
    seed: int = 0,
    progress: bool = True,
    columns: str | None = None,
) -> InteractionLog:
    """Loads an interaction log by name or by path.

    Args:
        dataset: "ml-100k" (fetched on first use, then from the cache; see docs/data.md), "synthetic" (generated with
            known parameters), the path of a folder or zip archive that holds the files of MovieLens or KuaiRand, or, with
            `columns`, of a CSV, TSV or Parquet file or a folder of such files.
        skip_bad_rows: leaves corrupt rows out and counts them in `InteractionLog.skipped_rows`; else they are refused.
        seed: of the generated log; loaders ignore it.
        progress: shows the progress of downloads where the terminal can show it.
        columns: which column is what, as in "user=userId,item=movieId,time=timestamp"; see docs/data.md for the keys.

    Raises:
        ConfigurationError: if `columns` cannot be understood, or the data set has columns of its own.
        LogError: if the data set is neither a known name nor a readable path, cannot be fetched, or has a fault; the
            sentence names the file, line and column, and the cure.
    """
    named = parse_columns(columns) if columns is not None else None
    if named is not None and dataset in DATASETS:
        raise ConfigurationError(f"--columns is for a table of your own; '{dataset}' has columns that are known.")
    if dataset == "synthetic":
        # imported here because the generator uses the engine, which itself needs this package
        from envs.logs.synthetic import SyntheticConfig, generate_log

        return generate_log(SyntheticConfig(), seed)[0]
    path = fetch_ml_100k(progress=progress) if dataset == "ml-100k" else Path(dataset).expanduser()
    if not path.exists():
        raise LogError(
            f"'{dataset}' is neither a data set that driftrec knows ({', '.join(DATASETS)}) nor a path that exists; "
            "give one of these names, or the path of a folder with the files of MovieLens or KuaiRand, or of a table."
        )
    if named is not None:
        return read_columns(path, named, skip_bad_rows=skip_bad_rows)
    for folder in _folders(path):
        for layout in LAYOUTS:
            if folder.joinpath(layout.files[0]).is_file():
                return read_movielens(folder, layout, skip_bad_rows=skip_bad_rows)
        if is_kuairand(folder):
            return read_kuairand(folder, skip_bad_rows=skip_bad_rows)
    known = "; or ".join(", ".join(layout.files) for layout in LAYOUTS)
    raise LogError(
        f"'{path}' holds no log that driftrec can read; it looks for {known}; or {LOGS[0]}*.csv, {VIDEOS}*.csv. "
        "For another table give its path and --columns user=...,item=...,time=..."
    )


def _folders(path: Path) -> list[Traversable]:
    """Where the files may lie: in a folder or its folder `data`, or in any folder of a zip archive."""
    if path.is_dir():
        return [path, path / "data"] if (path / "data").is_dir() else [path]
    if zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        inside = {name.rpartition("/")[0] for name in archive.namelist()}
        return [zipfile.Path(archive, f"{name}/" if name else "") for name in sorted(inside)]
    if path.suffix.lower() in (*TEXT_ENDS, *PARQUET_ENDS):
        raise LogError(
            f"'{path}' is a table: tell what its columns are with --columns user=...,item=...,time=..., "
            "or give the folder that holds a known data set."
        )
    raise LogError(f"'{path}' is neither a folder nor a zip archive; give the folder that holds the files.")
