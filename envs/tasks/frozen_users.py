"""Fitted users as files: a fit's last bits hang on the machine, so a task that others shall meet has its users in the repository.

A file holds the parametric user model. Of a log that may not be passed on it holds nothing else: the log is fetched, and the items'
categories are taken from it. A generated log is in the file too, as its consumed rows, and how much its items tire users.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.artefacts import load_arrays, save_arrays
from envs.catalogue import Catalogue
from envs.errors import ArtefactError
from envs.logs import load_log
from envs.logs.schema import InteractionLog, Users
from envs.users.interest import InterestModel

FOLDER = Path(__file__).parent / "frozen"
_KIND = "frozen users"
_ROWS = ("user", "item", "timestamp", "rating")
_OF_LOG = "log_"


@dataclass(frozen=True, kw_only=True)
class FrozenUsers:
    """A log and its user model, from a file in this package; called without arguments, as `envs.worlds.LogWorld` does."""

    file: str
    """Name of the file."""
    dataset: str | None = None
    """Log that the users were fitted to, as `envs.logs.load_log` names it; None where the file holds it."""

    def __call__(self) -> tuple[InteractionLog, InterestModel]:
        """(the log, the users).

        Raises:
            ArtefactError: if the file is damaged, or of other users or items than the log's.
            LogError: if the log can neither be found nor fetched.
        """
        log = None if self.dataset is None else load_log(self.dataset)
        return load_users(FOLDER / self.file, log)


def save_users(path: Path, model: InterestModel, log: InteractionLog | None = None) -> None:
    """Writes fitted users, and the consumed rows of `log` where it may be passed on, whole or not at all."""
    arrays, told = model.stored()
    configuration: dict[str, Any] = {name: told[name] for name in ("params", "visits", "choice")}
    if log is None or np.array_equal(arrays["categories"], log.catalogue.categories):
        del arrays["categories"]
    if log is not None:
        arrays |= {_OF_LOG + name: array for name, array in _log_arrays(log).items()}
        configuration["log"] = {
            "name": log.name,
            "feature_names": list(log.users.feature_names),
            "category_names": list(log.catalogue.category_names),
        }
    save_arrays(path, _KIND, arrays, configuration, compressed=True)


def load_users(path: Path, log: InteractionLog | None = None) -> tuple[InteractionLog, InterestModel]:
    """What `save_users` wrote.

    Args:
        path: the file.
        log: the log that the users were fitted to, where the file does not hold it.

    Raises:
        ArtefactError: if the file is damaged, holds no log where none is given, or has other users or items than the log.
    """
    arrays, configuration = load_arrays(path, _KIND)
    own = {name[len(_OF_LOG) :]: arrays.pop(name) for name in list(arrays) if name.startswith(_OF_LOG)}
    if log is None:
        if not own:
            raise ArtefactError(f"'{path}' holds no log; give the one that its users were fitted to.")
        log = _log_of(own, configuration["log"])
    arrays.setdefault("categories", log.catalogue.categories)
    model = InterestModel.restored(arrays, {"table": [], "fit_report": {}, **configuration})
    known, there = (len(model.user_embedding), len(model.item_bias)), (len(log.users), len(log.catalogue))
    if known != there:
        raise ArtefactError(
            f"'{path}' has {known[0]} users and {known[1]} items, log '{log.name}' has {there[0]} and {there[1]}; "
            "give the log that the users were fitted to."
        )
    return log, model


def _log_arrays(log: InteractionLog) -> dict[str, NDArray[Any]]:
    consumed, catalogue = log.consumed(), log.catalogue
    return {name: getattr(consumed, name) for name in _ROWS} | {
        "user_ids": log.users.user_ids,
        "features": log.users.features,
        "item_ids": catalogue.item_ids,
        "titles": catalogue.titles,
        "categories": catalogue.categories,
        "birth": catalogue.birth,
    }


def _log_of(arrays: dict[str, NDArray[Any]], told: dict[str, Any]) -> InteractionLog:
    return InteractionLog.from_rows(
        name=told["name"],
        users=Users(
            user_ids=arrays["user_ids"], feature_names=tuple(told["feature_names"]), features=arrays["features"]
        ),
        catalogue=Catalogue(
            item_ids=arrays["item_ids"],
            titles=arrays["titles"],
            category_names=tuple(told["category_names"]),
            categories=arrays["categories"],
            birth=arrays["birth"],
        ),
        user=arrays["user"],
        item=arrays["item"],
        timestamp=arrays["timestamp"],
        rating=arrays["rating"],
    )
