"""Reader of KuaiRand (Pure, 1K and 27K): short videos shown one at a time, some of them at random.

Every row is an exposure of one video: its own request, slot 0. Those with is_click 0 were passed over. Source: Gao et al.
(2022), KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos, CIKM.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from envs.catalogue import Catalogue
from envs.errors import LogError
from envs.logs.fields import Field, Kind
from envs.logs.indexing import bare_users, births, distinct, places, shares
from envs.logs.scanned_rows import ScannedRows
from envs.logs.scans import read_carefully, read_rows
from envs.logs.schema import InteractionLog, Users
from envs.logs.tables import read_quoted_table
from envs.logs.text_scans import TextForm
from envs.logs.times import birth_seconds_of, seconds_of

LOGS = ("log_standard_", "log_random_")
"""How the names of the files of exposures begin; in this order, and by name, their rows follow each other."""
VIDEOS, PEOPLE = "video_features_basic_", "user_features_"
LARGEST_ID = 2**40
LONGEST_MS = 7 * 86_400_000
"""Longest time in milliseconds that a row may tell of: a week."""
BEIJING_SECONDS = 8 * 3_600
"""Beijing is this far ahead of UTC; days of upload are its days."""
_FLAGS = ("is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view", "is_profile_enter")
LOG_FIELDS = (
    Field(column="user_id", kind=Kind.WHOLE, low=0, high=LARGEST_ID),
    Field(column="video_id", kind=Kind.WHOLE, low=0, high=LARGEST_ID),
    Field(column="date", kind=Kind.WHOLE, low=19_900_101, high=20_991_231, kept=False),
    Field(column="hourmin", kind=Kind.WHOLE, low=0, high=2_359, kept=False),
    Field(column="time_ms", kind=Kind.WHOLE),
    Field(column="is_click", kind=Kind.WHOLE, low=0, high=1),
    Field(column="is_rand", kind=Kind.WHOLE, low=0, high=1),
    *(Field(column=flag, kind=Kind.WHOLE, low=0, high=1, kept=False) for flag in _FLAGS),
    Field(column="play_time_ms", kind=Kind.NUMBER, low=0, high=LONGEST_MS),
    *(
        Field(column=span, kind=Kind.NUMBER, low=0, high=LONGEST_MS, kept=False)
        for span in ("duration_ms", "profile_stay_time", "comment_stay_time")
    ),
    Field(column="tab", kind=Kind.WHOLE, low=0, high=1_000, kept=False),
)
VIDEO_FIELDS = (
    Field(column="video_id", kind=Kind.WHOLE, low=0, high=LARGEST_ID),
    Field(column="upload_dt", kind=Kind.TIME, optional=True),
    Field(column="video_duration", kind=Kind.NUMBER, low=0, high=LONGEST_MS, optional=True),
    Field(column="tag", kind=Kind.NAME, optional=True),
)
UNKNOWN = ("nan", "-124")
"""What stands for an unknown tag, in lower case; -124 stands for unknown marks and counts of users too."""
_COUNTS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
_MARKS = ("is_lowactive_period", "is_live_streamer", "is_video_author")


@dataclass(frozen=True, kw_only=True)
class _People:
    """Users of whom attributes are known, in order of their numbers."""

    file: str
    numbers: NDArray[np.int64]
    names: tuple[str, ...]
    features: NDArray[np.float32]
    skipped: int

    def users(self, numbers: NDArray[np.int64]) -> Users:
        """Those with the given numbers."""
        features = self.features[places(self.numbers, numbers)]
        return Users(user_ids=numbers.astype(np.str_), feature_names=self.names, features=features)


@dataclass(frozen=True, kw_only=True)
class _Videos:
    """Videos of which features are known, in order of their numbers."""

    numbers: NDArray[np.int64]
    birth: NDArray[np.float64]
    """Seconds since 1970, NaN where unknown."""
    duration: NDArray[np.float32]
    """Seconds, NaN where unknown."""
    tag: NDArray[np.int32]
    """Place of the video's tags in `tags`, -1 for none."""
    tags: list[list[str]]
    """Lists of tags that videos have; the last one is empty."""

    def catalogue(self, rows: NDArray[np.integer], birth: NDArray[np.int64]) -> Catalogue:
        """Those in the given rows, with their births."""
        tag = self.tag[rows]
        names = sorted({name for place in np.unique(tag).tolist() for name in self.tags[place]}, key=int)
        known = [[name for name in tags if name in names] for tags in self.tags]
        return Catalogue(
            item_ids=self.numbers[rows].astype(np.str_),
            titles=np.zeros(len(rows), "<U1"),
            category_names=tuple(names),
            categories=shares(known, names)[tag],
            birth=birth,
            duration_seconds=self.duration[rows],
        )


def is_kuairand(folder: Traversable) -> bool:
    """Whether the folder holds files of exposures."""
    return any(_files(folder, begin) for begin in LOGS)


def read_kuairand(folder: Traversable, *, skip_bad_rows: bool = False) -> InteractionLog:
    """Reads all parts in a folder, which may lie in an archive; `user_features_*.csv` may be missing.

    Raises:
        LogError: if files or columns are missing, or have a fault.
    """
    events = [file for begin in LOGS for file in _files(folder, begin)]
    videos = _files(folder, VIDEOS)
    if not videos:
        raise LogError(f"'{folder}' has {events[0].name} but no {VIDEOS}*.csv; put the files of one KuaiRand together.")
    features = _files(folder, PEOPLE)
    people = _people(features[0], skip_bad_rows) if features else None
    whole = folder.resolve() if isinstance(folder, Path) else folder
    name = whole.name if whole.name != "data" else whole.parent.name  # type: ignore[attr-defined]
    return read_carefully(lambda careful: _log(name or "kuairand", events, videos, people, skip_bad_rows, careful))


def _files(folder: Traversable, begin: str) -> list[Traversable]:
    found = [file for file in folder.iterdir() if file.name.startswith(begin) and file.name.endswith(".csv")]
    return sorted(found, key=lambda file: file.name)


def _log(
    name: str,
    events: Sequence[Traversable],
    videos: Sequence[Traversable],
    people: _People | None,
    skip: bool,
    careful: bool,
) -> InteractionLog:
    features = read_rows(videos, VIDEO_FIELDS, form=TextForm(), careful=careful)
    video = _videos(features, skip)
    rows = read_rows(events, LOG_FIELDS, form=TextForm(), careful=careful)
    columns = rows.columns
    timestamp = seconds_of(rows, "time_ms", columns.pop("time_ms"), "milliseconds")
    row_of_video = places(video.numbers, columns.pop("video_id"))
    rows.reject_values(row_of_video < 0, "video_id", f"not a video of {features.title}")
    user_numbers = columns.pop("user_id")
    if people is not None:
        rows.reject_values(places(people.numbers, user_numbers) < 0, "user_id", f"not a user of {people.file}")
    kept = rows.kept(skip)
    user_numbers, timestamp, row_of_video = user_numbers[kept], timestamp[kept], row_of_video[kept]
    numbers, shown = distinct(user_numbers), distinct(row_of_video)
    item = places(shown, row_of_video)
    log = InteractionLog.from_rows(
        name=name,
        users=bare_users(numbers.astype(np.str_)) if people is None else people.users(numbers),
        catalogue=video.catalogue(shown, births(video.birth[shown], item, timestamp)),
        user=places(numbers, user_numbers),
        item=item,
        timestamp=timestamp,
        clicked=columns.pop("is_click")[kept] == 1,
        position=np.zeros(len(item), np.int16),
        watch_seconds=(columns.pop("play_time_ms")[kept] / 1_000).astype(np.float32),
        random_exposure=columns.pop("is_rand")[kept] == 1,
        skipped_rows=rows.skipped + features.skipped + (0 if people is None else people.skipped),
    )
    return replace(log, request=np.arange(len(log)))


def _videos(rows: ScannedRows, skip: bool) -> _Videos:
    columns = rows.columns
    birth = birth_seconds_of(rows, "upload_dt", columns["upload_dt"]) - BEIJING_SECONDS
    tags = [_tags(text) for text in rows.names["tag"].to_list()]
    wrong = np.array([tag is None for tag in tags] + [False], bool)  # the last stands for none
    rows.reject_values(wrong[columns["tag"]], "tag", "no list of numbers")
    rows.reject_repeats(columns["video_id"], "video")
    kept = rows.keep(skip)
    kept = kept[np.argsort(columns["video_id"][kept], kind="stable")]
    lengths = columns["video_duration"][kept]
    return _Videos(
        numbers=columns["video_id"][kept],
        birth=birth[kept],
        duration=np.where(lengths > 0, lengths / 1_000, np.nan).astype(np.float32),
        tag=columns["tag"][kept],
        tags=[*(tag or [] for tag in tags), []],
    )


def _tags(text: str) -> list[str] | None:
    """Tags in "12,3" or "12"; none in "nan" and -124; None where the text is no list of whole numbers."""
    tags = [tag.strip() for tag in text.strip("[]").split(",") if tag.strip()]
    known = [tag for tag in tags if tag.lower() not in UNKNOWN]
    return known if all(tag.isascii() and tag.isdigit() for tag in known) else None


def _people(file: Traversable, skip: bool) -> _People:
    """Attributes as numbers of order one: degree of activity one-hot, marks, and logarithms of counts."""
    table = read_quoted_table(file, ("user_id",))
    numbers = table.whole_number("user_id", 0, LARGEST_ID)
    table.reject_repeats(numbers, "user")
    known: dict[str, NDArray] = {}
    if "user_active_degree" in table.columns:
        degree = table.text("user_active_degree")
        known |= {f"active_{name}": degree == name for name in np.unique(degree).tolist()}
    known |= {mark: table.text(mark) == "1" for mark in _MARKS if mark in table.columns}
    for count in _COUNTS:
        if count in table.columns:
            field = Field(column=count, kind=Kind.NUMBER, low=-124, high=1e12, optional=True)
            known[count] = np.log1p(np.maximum(np.nan_to_num(table.read(field)), 0)) / 10
    rows = table.keep(skip)
    rows = rows[np.argsort(numbers[rows], kind="stable")]
    features = np.zeros((len(rows), len(known)), np.float32)
    for column, values in enumerate(known.values()):
        features[:, column] = values[rows]
    return _People(file=file.name, numbers=numbers[rows], names=tuple(known), features=features, skipped=table.skipped)
