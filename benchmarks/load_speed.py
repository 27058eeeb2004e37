"""How long a large log takes to load, and how much memory: generated MovieLens-like files of 1, 5 and 25 million ratings.

Run: python -m benchmarks.load_speed          (about three minutes; the first run writes 0.8 GB to the cache folder)

Every size is loaded in a process of its own. `load_<size>_s` are seconds of `load_log`, `load_<size>_peak_gb` is the
largest resident memory of the process, imports and all, in 10^9 bytes. Prints the figures last, and writes them to
results/load_speed.json.
"""

import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl

from envs.artefacts import cache_folder, save_json
from envs.errors import ConfigurationError
from envs.logs import load_log

SIZES = {"1m": 1_000_000, "5m": 5_000_000, "25m": 25_000_000}
NUM_ITEMS = 59_047
MEAN_EVENTS = 154
"""Ratings of a user, on average, as in ml-25m."""
USERS_AT_ONCE = 10_000
"""Users whose ratings are drawn together."""
BYTES_PER_ROW = 26
GENRES = ("Action", "Comedy", "Crime", "Documentary", "Drama", "Horror", "Musical", "Sci-Fi", "Thriller", "Western")
FIRST_SECOND, SECONDS = 789_652_009, 784_551_000
"""When the first rating was made, and the time that the log covers."""


def large_log(rows: int) -> Path:
    """Folder with `ratings.csv` and `movies.csv` of that many ratings, written if the cache has none.

    Raises:
        ConfigurationError: if the disk is too full.
    """
    folder = cache_folder() / "benchmarks" / f"ratings-{rows}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    needed = 2 * rows * BYTES_PER_ROW
    if shutil.disk_usage(folder.parent).free < needed:
        raise ConfigurationError(f"'{folder.parent}' has less than {needed} bytes free; set DRIFTREC_CACHE elsewhere.")
    writing = folder.with_name(f"{folder.name}-unfinished")
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir()
    rng = np.random.default_rng(0)
    numbers = np.sort(rng.choice(4 * NUM_ITEMS, NUM_ITEMS, replace=False)) + 1
    _movies(rng, numbers).write_csv(writing / "movies.csv")
    with (writing / "ratings.csv").open("wb") as out:
        out.write(b"userId,movieId,rating,timestamp\n")
        first_user, missing = 1, rows
        while missing:
            ratings = _ratings(rng, numbers, first_user).head(missing)
            ratings.write_csv(out, include_header=False)
            first_user, missing = first_user + USERS_AT_ONCE, missing - len(ratings)
    writing.rename(folder)
    return folder


def _movies(rng: np.random.Generator, numbers: np.ndarray) -> pl.DataFrame:
    years = rng.integers(1920, 2019, len(numbers))
    picks = rng.integers(0, len(GENRES), (len(numbers), 2))
    genres = ["|".join(sorted({GENRES[place] for place in pick})) for pick in picks.tolist()]
    titles = [f"Film of {number}, The ({year})" for number, year in zip(numbers.tolist(), years.tolist(), strict=True)]
    return pl.DataFrame({"movieId": numbers, "title": titles, "genres": genres})


def _ratings(rng: np.random.Generator, numbers: np.ndarray, first_user: int) -> pl.DataFrame:
    """Ratings of some users, by user and item, none twice; popular items (the first ones) more often."""
    events = 20 + rng.exponential(MEAN_EVENTS - 20, USERS_AT_ONCE).astype(np.int64)
    user = np.repeat(np.arange(USERS_AT_ONCE), events)
    item = (NUM_ITEMS * rng.random(len(user)) ** 4).astype(np.int64)
    pair = np.unique(user * NUM_ITEMS + item)
    user, item = pair // NUM_ITEMS, pair % NUM_ITEMS
    began = FIRST_SECOND + rng.integers(0, SECONDS, USERS_AT_ONCE)
    return pl.DataFrame(
        {
            "userId": user + first_user,
            "movieId": numbers[item],
            "rating": rng.integers(1, 11, len(user)) / 2,
            "timestamp": began[user] + rng.integers(0, 7_200, len(user)),
        }
    )


def load_once(folder: str) -> None:
    """Loads a log and prints seconds, peak gigabytes and rows: what a process of its own does."""
    begin = time.perf_counter()
    log = load_log(folder)
    seconds = time.perf_counter() - begin
    scale = 1 if sys.platform == "darwin" else 1_024
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9, len(log))


def main() -> None:
    """Loads every size in a process of its own and prints the figures."""
    figures: dict[str, float] = {}
    for size, rows in SIZES.items():
        folder = large_log(rows)
        command = [sys.executable, "-m", "benchmarks.load_speed", str(folder)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        seconds, peak, loaded = (float(word) for word in output)
        assert loaded == rows
        figures |= {f"load_{size}_s": seconds, f"load_{size}_peak_gb": peak}
        print(
            f"{rows:,} rows: {seconds:.1f} s, {1e6 * seconds / rows:.2f} s per million, {peak:.2f} GB", file=sys.stderr
        )
    save_json(Path("results/load_speed.json"), figures)
    for name, value in figures.items():
        print(f"{name}: {value:.2f}")


if __name__ == "__main__":
    load_once(sys.argv[1]) if len(sys.argv) > 1 else main()
