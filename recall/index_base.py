"""What every index over item vectors can do, and the file it is kept in."""

import json
import mmap
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from envs.artefacts import written_whole
from envs.errors import ArtefactError, ConfigurationError

MAGIC = b"driftrec index\n\0"
FORMAT_VERSION = 2
ALIGNMENT = 64
"""Arrays begin at multiples of so many bytes, so that they can be used where they lie."""


class VectorIndex(ABC):
    """Finds the items of largest inner product with a query."""

    kind: ClassVar[str]
    """Name of the kind of index."""
    dimension: int
    """d: numbers of a vector."""

    @abstractmethod
    def __len__(self) -> int:
        """Items that were ever added, retired ones among them."""

    @abstractmethod
    def add(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """Takes in new items [M, d] behind those that are there, without a rebuild; returns their numbers [M]."""

    @abstractmethod
    def retire(self, items: NDArray[np.int32]) -> None:
        """Finds `items` no more, without a rebuild."""

    @abstractmethod
    def search(
        self, queries: NDArray[np.float32], excluded: NDArray[np.uint8], count: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The `count` items of largest inner product that are not excluded.

        Args:
            queries: [N, d].
            excluded: [N, ceil(I / 8)] little-endian bits of the items to leave out.
            count: items wanted.

        Returns:
            (items [N, count], scores [N, count]), best first, -1 and 0 where there are fewer.

        Raises:
            ConfigurationError: if the queries are of another dimension, or the bits are of another number of items.
        """

    @abstractmethod
    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """(arrays, settings that JSON can hold): all that `from_state` needs."""

    @classmethod
    @abstractmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> Self:
        """The index whose `state` this was; the arrays may be read-only."""

    def check_dimension(self, dimension: int) -> None:
        """Refuses vectors of another dimension.

        Raises:
            ConfigurationError: if `dimension` is not the index's.
        """
        if dimension != self.dimension:
            raise ConfigurationError(
                f"vectors of dimension {dimension} do not fit an index of dimension {self.dimension}; build the index anew."
            )

    def check_request(self, queries: NDArray[np.float32], excluded: NDArray[np.uint8]) -> None:
        """Refuses queries or excluded items that do not fit.

        Raises:
            ConfigurationError: if they do not.
        """
        self.check_dimension(queries.shape[1])
        width = (len(self) + 7) // 8
        if excluded.shape[0] != len(queries) or excluded.shape[1] < width:
            raise ConfigurationError(
                f"excluded items of shape {excluded.shape} do not fit {len(queries)} queries to an index of {len(self)} items; "
                f"give bits of shape ({len(queries)}, {width})."
            )


def write_index(path: Path, index: VectorIndex) -> None:
    """Writes an index to one file, whole or not at all, in a form that `read_index` maps into memory."""
    arrays, settings = index.state()
    entries: list[dict[str, Any]] = []
    offset = 0
    for name, array in arrays.items():
        offset += -offset % ALIGNMENT
        data = np.ascontiguousarray(array)
        entries.append(
            {
                "name": name,
                "type": data.dtype.str,
                "shape": data.shape,
                "offset": offset,
                "check": zlib.crc32(data.reshape(-1).view(np.uint8)),
            }
        )
        offset += data.nbytes
    header = {"kind": index.kind, "version": FORMAT_VERSION, "settings": settings, "arrays": entries, "bytes": offset}
    text = json.dumps(header).encode()
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        stream.write(MAGIC + len(text).to_bytes(8, "little") + zlib.crc32(text).to_bytes(8, "little") + text)
        begin = stream.tell() + -stream.tell() % ALIGNMENT
        for entry, array in zip(entries, arrays.values(), strict=True):
            stream.write(b"\0" * (begin + entry["offset"] - stream.tell()))
            stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def map_index(path: Path, check: bool = True) -> tuple[str, dict[str, NDArray[Any]], dict[str, Any]]:
    """(kind, arrays, settings) of a file, the arrays read-only where the file lies in memory.

    Args:
        path: of the file.
        check: whether the arrays are read through once, to compare their checksums; else only the file's length is looked at.

    Raises:
        ArtefactError: if the file is missing, truncated, damaged, foreign or of another version.
    """
    prefix = len(MAGIC) + 16
    try:
        with path.open("rb") as stream:
            start = stream.read(prefix)
            if len(start) < prefix or start[: len(MAGIC)] != MAGIC:
                raise ArtefactError(f"'{path}' is not an index file, or is cut off at its beginning; make it again.")
            length, expected = (int.from_bytes(start[at : at + 8], "little") for at in (len(MAGIC), len(MAGIC) + 8))
            text = stream.read(length)
            if len(text) < length or zlib.crc32(text) != expected:
                raise ArtefactError(f"'{path}' is truncated or damaged in its header; make it again.")
            header = json.loads(text)
            if header["version"] != FORMAT_VERSION:
                raise ArtefactError(
                    f"'{path}' has index version {header['version']}, this is {FORMAT_VERSION}; make it again."
                )
            begin = prefix + length + -(prefix + length) % ALIGNMENT
            found = path.stat().st_size
            if found != begin + header["bytes"]:
                raise ArtefactError(
                    f"'{path}' is truncated: it has {found} bytes where its header promises {begin + header['bytes']}; "
                    "make it again."
                )
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise ArtefactError(f"'{path}' does not exist.") from error
    except OSError as error:
        raise ArtefactError(f"'{path}' cannot be read ({error.strerror}).") from error
    arrays = {}
    for entry in header["arrays"]:
        number = int(np.prod(entry["shape"], dtype=np.int64))
        array = np.frombuffer(mapped, np.dtype(entry["type"]), number, begin + entry["offset"])
        if check and zlib.crc32(array.view(np.uint8)) != entry["check"]:
            raise ArtefactError(f"'{path}' is damaged in its part '{entry['name']}'; make it again.")
        arrays[entry["name"]] = array.reshape(entry["shape"])
    return header["kind"], arrays, header["settings"]
