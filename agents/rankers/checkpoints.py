"""Checkpoints of rankers: arrays as safetensors with a JSON header, written whole or not at all."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from envs.artefacts import written_whole
from envs.errors import ArtefactError

FORMAT_VERSION = 1
_HEADER = "driftrec"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a checkpoint says of itself."""

    kind: str
    """Name of the class that wrote it."""
    catalogue: str
    """Fingerprint of the catalogue that it was fitted on."""
    content: dict[str, Any]
    """Configuration and sizes, JSON-able."""


def save_checkpoint(path: Path, header: Header, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes arrays and header to one file, whole or not at all."""
    about = {"format_version": FORMAT_VERSION, "kind": header.kind, "catalogue": header.catalogue}
    text = json.dumps({**about, "content": header.content}, sort_keys=True)
    with written_whole(path) as temporary:
        save_file(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary, metadata={_HEADER: text}
        )


def load_checkpoint(path: Path, kind: str) -> tuple[Header, dict[str, NDArray[Any]]]:
    """(header, arrays) that `save_checkpoint` wrote.

    Raises:
        ArtefactError: if the file is missing, damaged, of another kind or of another format version.
    """
    if not path.is_file():
        raise ArtefactError(f"'{path}' does not exist.")
    try:
        with safe_open(path, framework="numpy") as stream:
            about = json.loads((stream.metadata() or {})[_HEADER])
            arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (it has no __iter__)
        found, version = about["kind"], about["format_version"]
        header = Header(kind=found, catalogue=about["catalogue"], content=about["content"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"'{path}' is damaged or not a driftrec checkpoint; delete it and make it again."
        ) from error
    if found != kind:
        raise ArtefactError(f"'{path}' holds a {found!r}, not a {kind!r}.")
    if version != FORMAT_VERSION:
        raise ArtefactError(f"'{path}' has format version {version}, this is {FORMAT_VERSION}; make it again.")
    return header, arrays
