"""Interaction logs: the one typed log object (`schema`), and the loaders and the generator that make it.

`load_log` is the way in: it takes a name ("ml-100k", "synthetic") or the path of a folder with a known layout.
"""

from pathlib import Path

from envs.errors import LogError
from envs.logs.movielens import read_movielens
from envs.logs.schema import InteractionLog, Users
from envs.logs.sources import fetch_ml_100k

__all__ = ["DATASETS", "InteractionLog", "Users", "load_log"]

DATASETS = ("ml-100k", "synthetic")
"""Names that `load_log` knows; anything else is a path."""


def load_log(dataset: str, *, skip_bad_rows: bool = False, seed: int = 0, progress: bool = True) -> InteractionLog:
    """Loads an interaction log by name or by path.

    Args:
        dataset: "ml-100k" (fetched on first use, then from the cache; see docs/data.md), "synthetic" (generated with
            known parameters), or the path of a folder or zip archive that holds MovieLens files: `ratings.csv` and
            `movies.csv`; `u.data`, `u.item` and `u.user`; or `ml-100k.inter`, `ml-100k.item` and `ml-100k.user`.
        skip_bad_rows: leaves corrupt rows out and counts them in `InteractionLog.skipped_rows`; else they are refused.
        seed: of the generated log; loaders ignore it.
        progress: shows the progress of downloads where the terminal can show it.

    Raises:
        LogError: if the data set is neither a known name nor a readable folder, cannot be fetched, or has a fault; the
            sentence names the file, line and column, and the cure.
    """
    if dataset == "synthetic":
        # imported here because the generator uses the engine, which itself needs this package
        from envs.logs.synthetic import SyntheticConfig, generate_log

        return generate_log(SyntheticConfig(), seed)[0]
    if dataset == "ml-100k":
        return read_movielens(fetch_ml_100k(progress=progress), skip_bad_rows=skip_bad_rows)
    path = Path(dataset).expanduser()
    if not path.exists():
        raise LogError(
            f"'{dataset}' is neither a data set that driftrec knows ({', '.join(DATASETS)}) nor a folder that exists; "
            "give one of these names, or the path of a folder with MovieLens files."
        )
    return read_movielens(path, skip_bad_rows=skip_bad_rows)
