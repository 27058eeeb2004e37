"""The event log: what simulated traffic leaves behind, in the shape of an interaction log and more."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from envs.artefacts import written_whole
from envs.errors import ArtefactError
from envs.logs.schema import InteractionLog


class EventLog:
    """Collects requests in order of time; `write` keeps them as Parquet, `to_log` gives rows for `Agent.update`.

    One row is one request: simulated user and log user, visit, request, clock in seconds, policy version, candidates,
    slate and propensities (lists; -1 marks an empty slot, NaN an unknown propensity), slot clicked and item (-1 for none),
    rating, whether the user left.
    """

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []

    def __len__(self) -> int:
        return sum(len(table) for table in self._tables)

    def append(
        self,
        *,
        user: NDArray[np.int64],
        log_user: NDArray[np.int64],
        visit: NDArray[np.int64],
        request: NDArray[np.int64],
        clock: NDArray[np.float64],
        policy_version: str,
        candidates: NDArray[np.int32],
        slate: NDArray[np.int32],
        propensity: NDArray[np.float32],
        slot: NDArray[np.int64],
        item: NDArray[np.int32],
        rating: NDArray[np.float32],
        left: NDArray[np.bool_],
    ) -> None:
        """Adds N requests; the arrays are kept, so they must not be changed afterwards."""
        count = len(user)

        def lists(values: NDArray) -> pa.Array:
            return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])

        self._tables.append(
            pa.table(
                {
                    "user": pa.array(user),
                    "log_user": pa.array(log_user.astype(np.int32)),
                    "visit": pa.array(visit.astype(np.int32)),
                    "request": pa.array(request.astype(np.int32)),
                    "clock": pa.array(clock),
                    "policy_version": pa.array([policy_version] * count, pa.string()).dictionary_encode(),
                    "candidates": lists(candidates),
                    "slate": lists(slate),
                    "propensity": lists(propensity.astype(np.float32)),
                    "slot": pa.array(slot.astype(np.int16)),
                    "item": pa.array(item),
                    "rating": pa.array(rating),
                    "left": pa.array(left),
                }
            )
        )

    @property
    def table(self) -> pa.Table:
        """All requests so far."""
        return pa.concat_tables(self._tables).unify_dictionaries() if self._tables else pa.table({})

    def write(self, path: Path) -> None:
        """Writes all requests to one Parquet file, whole or not at all."""
        with written_whole(path) as temporary:
            pq.write_table(self.table, temporary, compression="zstd")

    @classmethod
    def read(cls, path: Path) -> "EventLog":
        """Reads what `write` wrote.

        Raises:
            ArtefactError: if the file is missing, damaged or not an event log.
        """
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise ArtefactError(f"'{path}' is not a readable Parquet file ({error}); run the command again.") from error
        if "policy_version" not in table.column_names:
            raise ArtefactError(f"'{path}' has no column 'policy_version', so it is not an event log.")
        return cls.of(table)

    @classmethod
    def of(cls, table: pa.Table) -> "EventLog":
        """The requests of a table with the columns of an event log, such as one read from elsewhere; it is kept, not copied."""
        events = cls()
        if len(table):
            events._tables.append(table)
        return events

    @classmethod
    def merged(cls, parts: Sequence["EventLog"]) -> "EventLog":
        """The events of all `parts` (other users each, as shards have them), in the order in which one log would have them."""
        events = cls()
        tables = [part.table for part in parts if len(part)]
        if tables:
            table = pa.concat_tables(tables).unify_dictionaries()
            events._tables.append(table.take(np.argsort(table["request"].to_numpy(), kind="stable")))
        return events

    @classmethod
    def joined(cls, parts: Sequence["EventLog"]) -> "EventLog":
        """The events of all `parts`, which follow one another."""
        events = cls()
        events._tables = [table for part in parts for table in part._tables]
        return events

    def during(self, begin: float, end: float) -> "EventLog":
        """The requests whose clock lies in [begin, end)."""
        events = EventLog()
        for table in self._tables:
            clock = table["clock"].to_numpy()
            inside = (clock >= begin) & (clock < end)
            if inside.any():
                events._tables.append(table if inside.all() else table.filter(pa.array(inside)))
        return events

    @property
    def clicks(self) -> int:
        """Requests that ended in a click."""
        return sum(int((table["item"].to_numpy() >= 0).sum()) for table in self._tables)

    def clicked(self) -> "EventLog":
        """Those requests."""
        events = EventLog()
        for table in self._tables:
            chosen = table["item"].to_numpy() >= 0
            if chosen.any():
                events._tables.append(table.filter(pa.array(chosen)))
        return events

    def clear(self) -> None:
        """Forgets all requests."""
        self._tables.clear()

    def to_log(self, policy_log: InteractionLog, reference_time: int) -> InteractionLog:
        """The requests as an interaction log with exposures, users and items indexed as in `policy_log`.

        Several lives of one log user become a single history here: let each go into an event log of its own.

        Args:
            policy_log: names the users and the catalogue.
            reference_time: seconds since 1970 of the run's clock 0.
        """
        table = self.table
        if not len(table):
            return policy_log.where(np.zeros(len(policy_log), bool))
        slate = matrix(table, "slate")
        size = slate.shape[1]
        slot = np.tile(np.arange(size, dtype=np.int16), len(table))
        shown = slate.reshape(-1) >= 0

        def spread(name: str) -> NDArray:
            return np.repeat(table[name].to_numpy(), size)[shown]

        clicked = spread("slot") == slot[shown]
        return InteractionLog.from_rows(
            name=f"{policy_log.name}, simulated",
            users=policy_log.users,
            catalogue=policy_log.catalogue,
            user=spread("log_user"),
            item=slate.reshape(-1)[shown],
            timestamp=(reference_time + spread("clock")).astype(np.int64),
            clicked=clicked,
            rating=np.where(clicked, spread("rating"), np.nan).astype(np.float32),
            request=np.repeat(np.arange(len(table)), size)[shown],
            position=slot[shown],
            propensity=matrix(table, "propensity").reshape(-1)[shown],
        )


def matrix(table: pa.Table, name: str) -> NDArray[Any]:
    """[R, n] a column of lists of an event log's table: slate, candidates or propensity."""
    return table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)


def slate_places(slates: NDArray[np.int32], candidates: NDArray[np.int32], mask: NDArray[np.int8]) -> NDArray[np.int64]:
    """[N, K] places of the slates' items among the candidates [N, C]; of an empty slot that of the first masked candidate."""
    found = (candidates[:, None, :] == slates[:, :, None]) & (mask == 1)[:, None, :]
    return np.where(slates >= 0, found.argmax(axis=2), mask.argmin(axis=1)[:, None])
