"""Readers of MovieLens files: `ratings.csv` + `movies.csv`, `.dat` files, GroupLens' ml-100k, and RecBole's copy of it.

The two forms of ml-100k give the same log: their rows stand in the same order, and births are taken from the release
year that both know. Rows of a user with the same second keep the order of the file.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from envs.catalogue import Catalogue
from envs.errors import LogError
from envs.logs.fields import Field, Kind
from envs.logs.indexing import bare_users, births, distinct, places, shares
from envs.logs.scans import read_carefully, read_rows
from envs.logs.schema import InteractionLog, Users
from envs.logs.tables import Table, read_quoted_table, read_table
from envs.logs.text_scans import TextForm
from envs.logs.times import YEARS, seconds_of

RATINGS = (0.5, 5.0)
"""Lowest and highest rating, in stars."""
LARGEST_ID = 2**40
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

    file: str
    numbers: NDArray[np.int64]
    titles: list[str]
    years: NDArray[np.int64]
    """Release year, 0 where unknown."""
    genres: list[list[str]]
    names: Sequence[str]
    skipped: int


@dataclass(frozen=True)
class _People:
    """Users of a data set in order of their numbers."""

    file: str
    numbers: NDArray[np.int64]
    users: Users
    skipped: int


@dataclass(frozen=True)
class _Events:
    """Where the interactions are."""

    file: Traversable
    columns: tuple[str, str, str, str]
    """Columns of user, item, rating and timestamp."""
    form: TextForm


@dataclass(frozen=True)
class Layout:
    """Files that make up one form of a data set."""

    files: tuple[str, ...]
    """Their names; the first holds the interactions and tells the form."""
    read: Callable[[Traversable, bool], InteractionLog]
    """Reads those in a folder; the second argument tells whether to leave corrupt rows out."""


def read_movielens(folder: Traversable, layout: Layout, *, skip_bad_rows: bool = False) -> InteractionLog:
    """Reads the MovieLens files in a folder, which may lie in an archive.

    Raises:
        LogError: if files are missing, or have a fault.
    """
    for file in layout.files[1:]:
        if not folder.joinpath(file).is_file():
            raise LogError(f"'{folder}' has {layout.files[0]} but no {file}; put {', '.join(layout.files)} together.")
    return layout.read(folder, skip_bad_rows)


def _read_latest(folder: Traversable, skip: bool) -> InteractionLog:
    """`ratings.csv` and `movies.csv`, as in ml-latest-small and ml-25m; their users have no attributes."""
    movies = read_quoted_table(folder.joinpath("movies.csv"), ("movieId", "title", "genres"))
    items = _items(movies, "movieId", "title", _split_genres(movies.text("genres")), None, skip)
    events = _Events(folder.joinpath("ratings.csv"), ("userId", "movieId", "rating", "timestamp"), TextForm())
    return _log(_name(folder), events, items, None, skip)


def _read_dat(folder: Traversable, skip: bool) -> InteractionLog:
    """`ratings.dat` and `movies.dat`, as in ml-1m and ml-10m, and `users.dat` where there is one (ml-1m)."""
    columns = ("MovieID", "Title", "Genres")
    movies = read_table(folder.joinpath("movies.dat"), columns, separator="::", header=False, encoding="latin-1")
    items = _items(movies, "MovieID", "Title", _split_genres(movies.text("Genres")), None, skip)
    people = None
    if folder.joinpath("users.dat").is_file():
        in_file = ("UserID", "Gender", "Age", "Occupation", "Zip-code")
        table = read_table(folder.joinpath("users.dat"), in_file, separator="::", header=False, encoding="latin-1")
        people = _people(table, ("UserID", "Age", "Gender", "Occupation"), skip)
    event_columns = ("UserID", "MovieID", "Rating", "Timestamp")
    events = _Events(folder.joinpath("ratings.dat"), event_columns, TextForm(separator="::", header=event_columns))
    return _log(_name(folder), events, items, people, skip)


def _read_grouplens_100k(folder: Traversable, skip: bool) -> InteractionLog:
    columns = ("item_id", "movie_title", "release_date", "video_release_date", "imdb_url", *U_ITEM_GENRES)
    table = read_table(folder.joinpath("u.item"), columns, separator="|", header=False, encoding="latin-1")
    flags = np.column_stack([table.whole_number(genre, 0, 1) for genre in U_ITEM_GENRES]) == 1
    genres = [[U_ITEM_GENRES[place] for place in np.flatnonzero(row)] for row in flags]
    items = _items(table, "item_id", "movie_title", genres, ML_100K_GENRES, skip)
    user_columns = ("user_id", "age", "gender", "occupation", "zip_code")
    people = _people(
        read_table(folder.joinpath("u.user"), user_columns, separator="|", header=False), user_columns, skip
    )
    event_columns = ("user_id", "item_id", "rating", "timestamp")
    events = _Events(folder.joinpath("u.data"), event_columns, TextForm(separator="\t", header=event_columns))
    return _log("ml-100k", events, items, people, skip)


def _read_recbole_100k(folder: Traversable, skip: bool) -> InteractionLog:
    columns = ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq")
    table = read_table(folder.joinpath("ml-100k.item"), columns, separator="\t", header=True)
    genres = [text.split() for text in table.text(columns[3]).tolist()]
    table.reject_values(np.array([not set(g) <= set(ML_100K_GENRES) for g in genres], bool), columns[3], "not genres")
    years = table.text(columns[2]).tolist()
    items = _items(table, columns[0], columns[1], genres, ML_100K_GENRES, skip, years)
    user_columns = ("user_id:token", "age:token", "gender:token", "occupation:token", "zip_code:token")
    people = read_table(folder.joinpath("ml-100k.user"), user_columns, separator="\t", header=True)
    event_columns = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
    events = _Events(folder.joinpath("ml-100k.inter"), event_columns, TextForm(separator="\t"))
    return _log("ml-100k", events, items, _people(people, user_columns, skip), skip)


def _name(folder: Traversable) -> str:
    return (folder.resolve().name if isinstance(folder, Path) else folder.name) or "movielens"


def _split_genres(texts: NDArray[np.str_]) -> list[list[str]]:
    return [[] if text == NO_GENRES else [genre for genre in text.split("|") if genre] for text in texts.tolist()]


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
    title_column: str,
    genres: list[list[str]],
    names: Sequence[str] | None,
    skip: bool,
    years: list[str] | None = None,
) -> _Items:
    numbers = table.whole_number(id_column, 0, LARGEST_ID)
    table.reject_repeats(numbers, "item")
    rows = table.keep(skip)
    rows = rows[np.argsort(numbers[rows], kind="stable")]
    texts = table.text(title_column).tolist()
    titled = [title_and_year(texts[row]) for row in rows]
    # a year of its own column counts; one entry of RecBole's has its year in the title alone
    given = [years[row] if years is not None else "" for row in rows]
    known = [int(own) if re.fullmatch(r"\d{4}", own) else year for own, (_, year) in zip(given, titled, strict=True)]
    return _Items(
        file=table.file,
        numbers=numbers[rows],
        # ml-100k calls one film "unknown" (RecBole's copy "unkonwn")
        titles=["" if title in ("unknown", "unkonwn") else title for title, _ in titled],
        years=np.array(known, np.int64),
        genres=[genres[row] for row in rows],
        names=names or sorted({name for row in rows for name in genres[row]}),
        skipped=table.skipped,
    )


def _people(table: Table, columns: Sequence[str], skip: bool) -> _People:
    """Users with age in centuries, gender and occupation one-hot; `columns`: their id, age, gender and occupation."""
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
    return _People(file=table.file, numbers=numbers[rows], users=users, skipped=table.skipped)


def _log(name: str, events: _Events, items: _Items, people: _People | None, skip: bool) -> InteractionLog:
    """Reads the interactions and puts the parts together."""
    user_column, item_column, rating_column, time_column = events.columns
    fields = (
        Field(column=user_column, kind=Kind.WHOLE, low=0, high=LARGEST_ID),
        Field(column=item_column, kind=Kind.WHOLE, low=0, high=LARGEST_ID),
        Field(column=rating_column, kind=Kind.NUMBER, low=RATINGS[0], high=RATINGS[1]),
        Field(column=time_column, kind=Kind.WHOLE),
    )

    def load(careful: bool) -> InteractionLog:
        rows = read_rows([events.file], fields, form=events.form, careful=careful)
        columns = rows.columns
        timestamp = seconds_of(rows, time_column, columns.pop(time_column), "seconds")
        item = places(items.numbers, columns.pop(item_column))
        rows.reject_values(item < 0, item_column, f"not an item of {items.file}")
        user_numbers = columns.pop(user_column)
        numbers = people.numbers if people is not None else distinct(user_numbers)
        user = places(numbers, user_numbers)
        if people is not None:
            rows.reject_values(user < 0, user_column, f"not a user of {people.file}")
        rows.reject_repeats(user * np.int64(len(items.numbers)) + item, "user and item")
        kept = rows.kept(skip)
        if people is None and rows.skipped:  # some had bad rows only
            present = np.flatnonzero(np.bincount(user[kept], minlength=len(numbers)))
            numbers, user = numbers[present], places(present, user)
        return InteractionLog.from_rows(
            name=name,
            users=people.users if people is not None else bare_users(numbers.astype(np.str_)),
            catalogue=_catalogue(items, item[kept], timestamp[kept]),
            user=user[kept],
            item=item[kept],
            timestamp=timestamp[kept],
            rating=columns.pop(rating_column)[kept].astype(np.float32),
            skipped_rows=rows.skipped + items.skipped + (people.skipped if people is not None else 0),
        )

    return read_carefully(load)


def _catalogue(items: _Items, item: NDArray[np.int32], timestamp: NDArray[np.int64]) -> Catalogue:
    """Births: 1 January of the release year, but not after the item's first event; the log's first event without a year."""
    new_year = (items.years - 1970).astype("datetime64[Y]").astype("datetime64[s]").astype(np.float64)
    return Catalogue(
        item_ids=items.numbers.astype(np.str_),
        titles=np.array(items.titles, np.str_),
        category_names=tuple(items.names),
        categories=shares(items.genres, items.names),
        birth=births(np.where(items.years > 0, new_year, np.nan), item, timestamp),
    )


LAYOUTS = (
    Layout(("ratings.csv", "movies.csv"), _read_latest),
    Layout(("ratings.dat", "movies.dat"), _read_dat),
    Layout(("u.data", "u.item", "u.user"), _read_grouplens_100k),
    Layout(("ml-100k.inter", "ml-100k.item", "ml-100k.user"), _read_recbole_100k),
)
