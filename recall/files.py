"""Files of recall: arrays that are used where they lie, so that processes share them and nothing is read before it is asked for."""

import json
import mmap
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.artefacts import written_whole
from envs.catalogue import Catalogue
from envs.errors import ArtefactError

MAGIC = b"driftrec index\n\0"
FORMAT_VERSION = 2
ALIGNMENT = 64
"""Arrays begin at multiples of so many bytes, so that they can be used where they lie."""
INDEX_PART = "served_index/"
"""Before the names of arrays that are searched where they lie; all others are copied into memory."""


def write_mapped(path: Path, kind: str, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> None:
    """Writes arrays and settings to one file, whole or not at all, in a form that `map_file` maps into memory."""
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
    header = {"kind": kind, "version": FORMAT_VERSION, "settings": settings, "arrays": entries, "bytes": offset}
    text = json.dumps(header).encode()
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        stream.write(MAGIC + len(text).to_bytes(8, "little") + zlib.crc32(text).to_bytes(8, "little") + text)
        begin = stream.tell() + -stream.tell() % ALIGNMENT
        for entry, array in zip(entries, arrays.values(), strict=True):
            stream.write(b"\0" * (begin + entry["offset"] - stream.tell()))
            stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def map_file(path: Path, what: str, check: bool = True) -> tuple[str, dict[str, NDArray[Any]], dict[str, Any]]:
    """(kind, arrays, settings) of a file, the arrays read-only where the file lies in memory.

    Args:
        path: of the file.
        what: it should hold, for sentences: "an index".
        check: whether the arrays are read through once, to compare their checksums; else only the file's length is looked at.

    Raises:
        ArtefactError: if the file is missing, truncated, damaged, foreign or of another version.
    """
    prefix = len(MAGIC) + 16
    try:
        with path.open("rb") as stream:
            start = stream.read(prefix)
            if len(start) < prefix or start[: len(MAGIC)] != MAGIC:
                raise ArtefactError(f"'{path}' is not {what} file, or is cut off at its beginning; make it again.")
            length, expected = (int.from_bytes(start[at : at + 8], "little") for at in (len(MAGIC), len(MAGIC) + 8))
            text = stream.read(length)
            if len(text) < length or zlib.crc32(text) != expected:
                raise ArtefactError(f"'{path}' is truncated or damaged in its header; make it again.")
            header = json.loads(text)
            if header["version"] != FORMAT_VERSION:
                raise ArtefactError(
                    f"'{path}' has format version {header['version']}, this is {FORMAT_VERSION}; make it again."
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


def load_recall(path: Path, kind: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """(arrays, settings) that `save_recall` wrote; the parts of an index lie in the file, the others in memory, to be changed.

    Raises:
        ArtefactError: if the file is missing, truncated, damaged, foreign, or of another kind or version.
    """
    found, arrays, settings = map_file(path, "a recall")
    if found != kind:
        raise ArtefactError(f"'{path}' holds a {found!r}, not a {kind!r}.")
    return {name: array if INDEX_PART in name else np.array(array) for name, array in arrays.items()}, settings


def check_catalogue(path: Path, fitted: str, num_items: int, catalogue: Catalogue | None) -> None:
    """Refuses a `catalogue` to be served that is not the one with fingerprint `fitted`, of `num_items`; None is any.

    Raises:
        ArtefactError: if it is another.
    """
    if catalogue is not None and catalogue.fingerprint != fitted:
        raise ArtefactError(
            f"the recall in '{path}' was fitted on another catalogue ({num_items} items) than what is to be served "
            f"({len(catalogue)} items); fit it to a log of this catalogue."
        )
