"""Where MovieLens 100K comes from: the cache, else GroupLens' archive, else the copy inside a wheel on PyPI.

Its licence allows research and forbids passing it on without permission, so it is fetched on first use and never
shipped. What was fetched stays as it came, one archive in the cache folder, and is checked by its hash every time it is opened.
"""

import hashlib
import http.client
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from envs.artefacts import cache_folder, written_whole
from envs.errors import LogError

CONNECT_SECONDS = 5
"""Time-out of connecting and of each read."""
DOWNLOAD_SECONDS = 120
"""Time-out of a whole download."""
BLOCK_BYTES = 1 << 16
RECBOLE = "recbole==1.2.1"


@dataclass(frozen=True)
class Source:
    """One place that MovieLens 100K can be fetched from."""

    title: str
    """What messages call it."""
    file: str
    """Name of the archive in the cache."""
    algorithm: str
    """Name of the hash, as `hashlib.new` takes it."""
    digest: str
    """Hex digest that the archive must have."""
    fetch: Callable[[Path, Progress], None]
    """Writes the archive to a path."""

    def check(self, archive: Path) -> None:
        """Raises LogError if the archive is not the one that is known."""
        digest = hashlib.new(self.algorithm, archive.read_bytes()).hexdigest()
        if digest != self.digest:
            raise LogError(f"its {self.algorithm} is {digest}, not {self.digest}")


def fetch_ml_100k(*, progress: bool = True) -> Path:
    """Path of an archive that holds MovieLens 100K, fetched if the cache has none.

    Raises:
        LogError: if the cache has none and no source can be reached; tells what was tried and what else there is.
    """
    folder = cache_folder() / "logs"
    tried = []
    for source in SOURCES:
        archive = folder / source.file
        if archive.exists():
            try:
                source.check(archive)
                return archive
            except (LogError, OSError) as error:
                tried.append(f"the cached '{archive}' ({error})")
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True, disable=not (progress and console.is_terminal)) as bar:
        for source in SOURCES:
            try:
                with written_whole(folder / source.file) as archive:
                    source.fetch(archive, bar)
                    source.check(archive)
                return folder / source.file
            except (LogError, OSError, http.client.HTTPException, subprocess.SubprocessError) as error:
                tried.append(f"{source.title} ({error})")
    raise LogError(
        f"MovieLens 100K is neither in the cache folder '{folder}' nor can it be fetched; tried {'; '.join(tried)}. "
        "Connect to the network, give a folder that holds it with --dataset PATH, or use --dataset synthetic."
    )


def _from_grouplens(archive: Path, bar: Progress) -> None:
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    with urllib.request.urlopen(GROUPLENS_URL, timeout=CONNECT_SECONDS) as response, archive.open("wb") as out:
        size = int(response.headers.get("Content-Length") or 0) or None
        task = bar.add_task("MovieLens 100K from GroupLens", total=size)
        while block := response.read(BLOCK_BYTES):
            out.write(block)
            bar.advance(task, len(block))
            if time.monotonic() > deadline:
                raise TimeoutError(f"not done after {DOWNLOAD_SECONDS} s")


def _from_recbole_wheel(archive: Path, bar: Progress) -> None:
    bar.add_task(f"MovieLens 100K from {RECBOLE}", total=None)
    with tempfile.TemporaryDirectory() as folder:
        _pip_download(RECBOLE, Path(folder))
        wheels = list(Path(folder).glob("*.whl"))
        if not wheels:
            raise LogError("pip fetched no wheel")
        archive.write_bytes(wheels[0].read_bytes())


def _pip_download(requirement: str, folder: Path) -> None:
    """Lets pip, with whatever index it is set up for, put the requirement's own wheel into a folder."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--timeout", str(CONNECT_SECONDS), "--retries", "1"]
    command += ["--dest", str(folder), requirement]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise LogError(f"pip download ended with code {done.returncode}: {lines[-1] if lines else 'no message'}")


GROUPLENS_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
SOURCES = (
    Source(GROUPLENS_URL, "ml-100k.zip", "md5", "0e33842e24a9c977be4e0107933c0723", _from_grouplens),
    Source(
        f"pip download {RECBOLE}",
        "recbole-1.2.1-py3-none-any.whl",
        "sha256",
        "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        _from_recbole_wheel,
    ),
)
