"""Artefacts on disk: written whole or not at all, arrays as npz, configuration as JSON, never pickle."""

import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from envs.errors import ArtefactError, ConfigurationError

FORMAT_VERSION = 1


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary name in the folder of `path`; renames it to `path` if the block ends well, else removes it.

    Raises:
        ConfigurationError: if the folder cannot be created or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise ConfigurationError(
            f"'{path.parent}' cannot be written ({error.strerror}); choose another folder or mend its permissions."
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=False) + "\n")


def load_json(path: Path) -> Any:
    """Reads JSON.

    Raises:
        ArtefactError: if the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ArtefactError(f"'{path}' does not exist.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtefactError(f"'{path}' is not valid JSON ({error}); delete it and run the command again.") from error


def save_arrays(
    path: Path,
    kind: str,
    arrays: Mapping[str, NDArray[Any]],
    configuration: Mapping[str, Any],
    *,
    compressed: bool = False,
) -> None:
    """Saves arrays with their kind, format version and configuration in one npz file, whole or not at all."""
    header = json.dumps({"kind": kind, "format_version": FORMAT_VERSION, "configuration": dict(configuration)})
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        save = np.savez_compressed if compressed else np.savez
        save(stream, __header__=np.frombuffer(header.encode(), np.uint8), **arrays)  # type: ignore[arg-type]


def load_arrays(path: Path, kind: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Loads what `save_arrays` wrote: (arrays, configuration).

    Raises:
        ArtefactError: if the file is missing, damaged, of another kind or of another format version.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays.pop("__header__").tobytes())
        found, version, configuration = header["kind"], header["format_version"], header["configuration"]
    except FileNotFoundError as error:
        raise ArtefactError(f"'{path}' does not exist.") from error
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ArtefactError(f"'{path}' is damaged or not a driftrec file; delete it and make it again.") from error
    if found != kind:
        raise ArtefactError(f"'{path}' holds a {found!r}, not a {kind!r}.")
    if version != FORMAT_VERSION:
        raise ArtefactError(f"'{path}' has format version {version}, this is {FORMAT_VERSION}; make it again.")
    return arrays, configuration


def content_hash(arrays: Mapping[str, NDArray[Any]], configuration: Mapping[str, Any]) -> str:
    """Hex digest of arrays (names, types, shapes, bytes) and a JSON-able configuration; names cache files."""
    digest = sha256(json.dumps(configuration, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.astype("U").tobytes() if array.dtype == object else array.tobytes())
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where downloads and fitted models are kept: `$DRIFTREC_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("DRIFTREC_CACHE") or platformdirs.user_cache_dir("driftrec"))
