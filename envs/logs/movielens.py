"""Readers of MovieLens files: `ratings.csv` + `movies.csv`, GroupLens' ml-100k, and RecBole's copy of ml-100k.

The two forms of ml-100k give the same log: their rows stand in the same order, and births are taken from the release
year that both know. Rows of a user with the same second keep the order of the file.
"""

import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from envs.catalogue import Catalogue
from envs.errors import LogError
from envs.logs.schema import InteractionLog, Users
from envs.logs.tables import Table, read_quoted_table, read_table

RATINGS = (0.5, 5.0)
"""Lowest and highest rating, in stars."""
LATEST_SECOND = 4_102_444_800
"""The year 2100: a larger timestamp is in milliseconds or corrupt."""
LARGEST_ID = 2**40
YEARS = (1800, 2100)
"""Release years outside are taken as unknown."""
ML_100K_GENRES = (
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
    "unknown",
)
U_ITEM_GENRES = (ML_100K_GENRES[-1], *ML_100K_GENRES[:-1])
"""Order of the flags in u.item."""
NO_GENRES = "(no genres listed)"
_YEAR_AT_END = re.compile(r"\s*\((\d{4})(?:[-–]\s*\d{0,4})?\)\s*(?:\(V\)\s*)?$")


@dataclass(frozen=True)
class _Items:
    """Items of a data set in order of their numbers."""

    numbers: NDArray[np.int64]
    titles: list[str]
    years: NDArray[np.int64]
    """Release year, 0 where unknown."""
    genres: list[list[str]]
    names: Sequence[str]
    skipped: int


@dataclass(frozen=True)
class _Layout:
    """Files that make up one form of a data set."""

    files: tuple[str, ...]
    """Their names; the first holds the interactions and tells the form."""
    read: Callable[[Traversable, bool], InteractionLog]


def read_movielens(path: Path, *, skip_bad_rows: bool = False) -> InteractionLog:
    """Reads the MovieLens files in a folder or a zip archive (the files may lie in a folder inside it).

    Raises:
        LogError: if files are missing, or have a fault.
    """
    folder, layout = _find_layout(path)
    for file in layout.files[1:]:
        if not folder.joinpath(file).is_file():
            raise LogError(f"'{path}' has {layout.files[0]} but no {file}; put {', '.join(layout.files)} together.")
    return layout.read(folder, skip_bad_rows)


def _find_layout(path: Path) -> tuple[Traversable, _Layout]:
    if path.is_dir():
        folders: list[Traversable] = [path]
    elif zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        inside = {name.rpartition("/")[0] for name in archive.namelist()}
        folders = [zipfile.Path(archive, f"{name}/" if name else "") for name in sorted(inside)]
    else:
        raise LogError(f"'{path}' is neither a folder nor a zip archive; give the folder that holds the files.")
    for folder in folders:
        for layout in LAYOUTS:
            if folder.joinpath(layout.files[0]).is_file():
                return folder, layout
    known = "; or ".join(", ".join(layout.files) for layout in LAYOUTS)
    raise LogError(f"'{path}' holds no log that driftrec can read; it looks for {known}.")


def _read_latest(folder: Traversable, skip: bool) -> InteractionLog:
    """`ratings.csv` and `movies.csv`, as in ml-latest-small and ml-25m; their users have no attributes."""
    movies = read_quoted_table(folder.joinpath("movies.csv"), ("movieId", "title", "genres"))
    genres = [[] if text == NO_GENRES else [g for g in text.split("|") if g] for text in movies.text("genres").tolist()]
    items = _items(movies, "movieId", movies.text("title").tolist(), None, genres, None, skip)
    ratings = read_table(
        folder.joinpath("ratings.csv"), ("userId", "movieId", "rating", "timestamp"), separator=",", header=True
    )
    return _log(_name(folder), ratings, ("userId", "movieId", "rating", "timestamp"), "movies.csv", items, None, skip)


def _read_grouplens_100k(folder: Traversable, skip: bool) -> InteractionLog:
    columns = ("item_id", "movie_title", "release_date", "video_release_date", "imdb_url", *U_ITEM_GENRES)
    table = read_table(folder.joinpath("u.item"), columns, separator="|", header=False, encoding="latin-1")
    flags = np.column_stack([table.whole_number(genre, 0, 1) for genre in U_ITEM_GENRES]) == 1
    genres = [[U_ITEM_GENRES[place] for place in np.flatnonzero(row)] for row in flags]
    items = _items(table, "item_id", table.text("movie_title").tolist(), None, genres, ML_100K_GENRES, skip)
    user_columns = ("user_id", "age", "gender", "occupation", "zip_code")
    people = read_table(folder.joinpath("u.user"), user_columns, separator="|", header=False)
    users = _users(people, user_columns, skip)
    event_columns = ("user_id", "item_id", "rating", "timestamp")
    events = read_table(folder.joinpath("u.data"), event_columns, separator="\t", header=False)
    return _log("ml-100k", events, event_columns, "u.item", items, users, skip, people)


def _read_recbole_100k(folder: Traversable, skip: bool) -> InteractionLog:
    columns = ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq")
    table = read_table(folder.joinpath("ml-100k.item"), columns, separator="\t", header=True)
    genres = [text.split() for text in table.text(columns[3]).tolist()]
    table.reject_values(np.array([not set(g) <= set(ML_100K_GENRES) for g in genres], bool), columns[3], "not genres")
    items = _items(
        table,
        columns[0],
        table.text(columns[1]).tolist(),
        table.text(columns[2]).tolist(),
        genres,
        ML_100K_GENRES,
        skip,
    )
    user_columns = ("user_id:token", "age:token", "gender:token", "occupation:token", "zip_code:token")
    people = read_table(folder.joinpath("ml-100k.user"), user_columns, separator="\t", header=True)
    users = _users(people, user_columns, skip)
    event_columns = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
    events = read_table(folder.joinpath("ml-100k.inter"), event_columns, separator="\t", header=True)
    return _log("ml-100k", events, event_columns, "ml-100k.item", items, users, skip, people)


def _name(folder: Traversable) -> str:
    return (folder.resolve().name if isinstance(folder, Path) else folder.name) or "movielens"


def title_and_year(text: str) -> tuple[str, int]:
    """Splits "Toy Story (1995)" into its title and year; 0 where it names no plausible year."""
    found = _YEAR_AT_END.search(text)
    if not found:
        return " ".join(text.split()), 0
    year = int(found[1])
    return " ".join(text[: found.start()].split()), year if YEARS[0] <= year <= YEARS[1] else 0


def _items(
    table: Table,
    id_column: str,
    texts: list[str],
    years: list[str] | None,
    genres: list[list[str]],
    names: Sequence[str] | None,
    skip: bool,
) -> _Items:
    numbers = table.whole_number(id_column, 0, LARGEST_ID)
    table.reject_repeats(numbers, "item")
    rows = table.keep(skip)
    rows = rows[np.argsort(numbers[rows], kind="stable")]
    titled = [title_and_year(texts[row]) for row in rows]
    # a year of its own column counts; one entry of RecBole's has its year in the title alone
    given = [years[row] if years is not None else "" for row in rows]
    known = [int(own) if re.fullmatch(r"\d{4}", own) else year for own, (_, year) in zip(given, titled, strict=True)]
    return _Items(
        numbers=numbers[rows],
        # ml-100k calls one film "unknown" (RecBole's copy "unkonwn")
        titles=["" if title in ("unknown", "unkonwn") else title for title, _ in titled],
        years=np.array(known, np.int64),
        genres=[genres[row] for row in rows],
        names=names or sorted({name for row in rows for name in genres[row]}),
        skipped=table.skipped,
    )


def _users(table: Table, columns: Sequence[str], skip: bool) -> tuple[NDArray[np.int64], Users]:
    """(numbers, attributes) of the users of ml-100k: age in centuries, gender and occupation one-hot."""
    numbers = table.whole_number(columns[0], 0, LARGEST_ID)
    age = table.whole_number(columns[1], 0, 150)
    gender, occupation = table.text(columns[2]), table.text(columns[3])
    table.reject_values((gender != "F") & (gender != "M"), columns[2], "neither F nor M")
    table.reject_repeats(numbers, "user")
    rows = table.keep(skip)
    rows = rows[np.argsort(numbers[rows], kind="stable")]
    jobs = np.unique(occupation[rows])
    features = np.column_stack(
        [age[rows] / 100, gender[rows] == "F", gender[rows] == "M", occupation[rows, None] == jobs[None, :]]
    )
    names = ("age", "gender_F", "gender_M", *(f"occupation_{job}" for job in jobs.tolist()))
    users = Users(user_ids=numbers[rows].astype(np.str_), feature_names=names, features=features.astype(np.float32))
    return numbers[rows], users


def _log(
    name: str,
    table: Table,
    columns: Sequence[str],
    items_file: str,
    items: _Items,
    known_users: tuple[NDArray[np.int64], Users] | None,
    skip: bool,
    people: Table | None = None,
) -> InteractionLog:
    """Puts the parts together; `table` holds the interactions in `columns`: user, item, rating, timestamp."""
    user_numbers = table.whole_number(columns[0], 0, LARGEST_ID)
    item_numbers = table.whole_number(columns[1], 0, LARGEST_ID)
    rating = table.number(columns[2], *RATINGS)
    timestamp = table.whole_number(columns[3], 0, LATEST_SECOND)
    item = _places(items.numbers, item_numbers)
    table.reject_values(item < 0, columns[1], f"not an item of {items_file}")
    if known_users is not None and people is not None:
        user = _places(known_users[0], user_numbers)
        table.reject_values(user < 0, columns[0], f"not a user of {people.file}")
    else:
        user = np.unique(user_numbers, return_inverse=True)[1]
    table.reject_repeats(user * np.int64(len(items.numbers)) + item, "user and item")
    rows = table.keep(skip)
    if known_users is not None:
        users = known_users[1]
    else:
        numbers, user[rows] = np.unique(user_numbers[rows], return_inverse=True)
        users = Users(
            user_ids=numbers.astype(np.str_), feature_names=(), features=np.zeros((len(numbers), 0), np.float32)
        )
    return InteractionLog.from_rows(
        name=name,
        users=users,
        catalogue=_catalogue(items, item[rows], timestamp[rows]),
        user=user[rows].astype(np.int32),
        item=item[rows].astype(np.int32),
        timestamp=timestamp[rows],
        rating=rating[rows].astype(np.float32),
        skipped_rows=table.skipped + items.skipped + (people.skipped if people is not None else 0),
    )


def _places(sorted_numbers: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """[R] place of each number in `sorted_numbers`, -1 where it is not there."""
    places = np.minimum(np.searchsorted(sorted_numbers, numbers), len(sorted_numbers) - 1)
    return np.where(sorted_numbers[places] == numbers, places, -1)


def _catalogue(items: _Items, item: NDArray[np.int64], timestamp: NDArray[np.int64]) -> Catalogue:
    """Births: 1 January of the release year, but not after the item's first event; the log's first event without a year."""
    column = {name: place for place, name in enumerate(items.names)}
    categories = np.zeros((len(items.numbers), len(items.names)), np.float32)
    for row, names in enumerate(items.genres):
        categories[row, [column[name] for name in names]] = 1 / max(len(set(names)), 1)
    new_year = (items.years - 1970).astype("datetime64[Y]").astype("datetime64[s]").astype(np.int64)
    first_event = np.full(len(items.numbers), np.iinfo(np.int64).max)
    np.minimum.at(first_event, item, timestamp)
    return Catalogue(
        item_ids=items.numbers.astype(np.str_),
        titles=np.array(items.titles, np.str_),
        category_names=tuple(items.names),
        categories=categories,
        birth=np.minimum(np.where(items.years > 0, new_year, timestamp.min()), first_event),
    )


LAYOUTS = (
    _Layout(("ratings.csv", "movies.csv"), _read_latest),
    _Layout(("u.data", "u.item", "u.user"), _read_grouplens_100k),
    _Layout(("ml-100k.inter", "ml-100k.item", "ml-100k.user"), _read_recbole_100k),
)
