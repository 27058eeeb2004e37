"""What `benchmarks.recbole_export` wrote, joined with our log: its order of rows, and its ranks or scores user by user.

RecBole scales timestamps into [0, 1] and keeps them as 32-bit floats, so that some rows of neighbouring seconds swap places, and
with them a few users' last items. Differences are paired only if both sides foretell the same items, so our log is put into
RecBole's order.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from envs.artefacts import load_json
from envs.errors import ArtefactError
from envs.logs.schema import InteractionLog
from evaluation.ranking import Split

_CURE = "export anew from the same data set"
_TEXTS = dict.fromkeys(("user_id", "item_id", "valid_item", "test_item"), pl.String)


@dataclass(frozen=True)
class Export:
    """A configuration of a model of RecBole's."""

    account: dict[str, Any]
    """Model, number, configuration, valid (larger is better), passes, parameters, seconds, cpu_seconds."""
    table: pl.DataFrame
    """A row a user: user_id, valid_item, test_item, and rank, or label and score, of both."""
    path: Path
    """Where the table is."""


def read_rows(folder: Path) -> pl.DataFrame:
    """All rows (user_id, item_id, ...) in RecBole's order of time.

    Raises:
        ArtefactError: if the folder has none.
    """
    return _read(folder / "rows.csv")


def read_exports(folder: Path, model: str) -> list[Export]:
    """The configurations of a model that are in the folder, by their number; none where it has none."""
    paths = sorted(folder.glob(f"{model}-*.json"))
    return [Export(load_json(path), _read(path.with_suffix(".csv")), path.with_suffix(".csv")) for path in paths]


def chosen(exports: list[Export]) -> Export:
    """The configuration that is best on RecBole's validation."""
    return max(exports, key=lambda export: export.account["valid"])


def in_recbole_order(log: InteractionLog, rows: pl.DataFrame) -> InteractionLog:
    """The log with each user's rows in the order of `rows`; a user's seconds keep their order, and so go to other rows.

    Args:
        log: without exposures or repeats, rows in any order that the seconds allow.
        rows: (user_id, item_id), the same rows, sorted by RecBole's time.

    Raises:
        ArtefactError: if the rows are others than the log's.
    """
    user, item = _places(log.users.user_ids, rows["user_id"]), _places(log.catalogue.item_ids, rows["item_id"])
    theirs, ours = (who * np.int64(len(log.catalogue)) + what for who, what in ((user, item), (log.user, log.item)))
    if (user < 0).any() or (item < 0).any() or not np.array_equal(np.sort(theirs), np.sort(ours)):
        raise ArtefactError(f"the exported rows are not those of log '{log.name}'; {_CURE}.")
    order = np.argsort(user, kind="stable")
    by_key = np.argsort(ours)
    row = by_key[np.searchsorted(ours[by_key], theirs[order])]
    return replace(log, item=log.item[row], rating=log.rating[row])


def joined(export: Export, split: Split, labels: NDArray[np.bool_] | None = None) -> pl.DataFrame:
    """The export's rows in the order of the split's rows to predict.

    Args:
        export: of one configuration.
        split: leaves each user's last row out.
        labels: [R] of the rows of the split's log, which the export's must equal; None for ranks.

    Raises:
        ArtefactError: if users, items held out or labels are others than the split's.
    """
    log, table = split.log, export.table
    place = _places(log.users.user_ids, table["user_id"])
    if not np.array_equal(np.sort(place), log.user[split.test_rows]):
        raise ArtefactError(f"'{export.path}' has not the users of log '{log.name}' once each; {_CURE}.")
    table = table[np.argsort(place)]
    for part, rows in (("valid", np.flatnonzero(split.validation)), ("test", split.test_rows)):
        other = _places(log.catalogue.item_ids, table[f"{part}_item"]) != log.item[rows]
        if labels is not None:
            other |= table[f"{part}_label"].to_numpy() != labels[rows]
        if other.any():
            raise ArtefactError(
                f"'{export.path}': for {int(other.sum())} users, the first of them '{table['user_id'][int(np.argmax(other))]}', "
                f"{part}_item or its label is not the one of log '{log.name}' in RecBole's order; {_CURE}."
            )
    return table


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise ArtefactError(f"'{path}' is missing; run benchmarks/recbole_export.py with RecBole's python first.")
    try:
        return pl.read_csv(path, schema_overrides=_TEXTS)
    except pl.exceptions.PolarsError as error:
        raise ArtefactError(f"'{path}' is no table; delete it and export anew.") from error


def _places(names: NDArray[np.str_], asked: pl.Series) -> NDArray[np.int64]:
    """[R] place of each of `asked` among `names`, -1 for none."""
    order = np.argsort(names)
    wanted = np.asarray(asked.to_list(), np.str_)
    place = order[np.minimum(np.searchsorted(names[order], wanted), len(names) - 1)]
    return np.where(names[place] == wanted, place, -1)
