"""Writes small KuaiRand-like folders in the documented columns."""

from pathlib import Path

import numpy as np
import polars as pl

LOG_COLUMNS = (
    "user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "is_like", "is_follow", "is_comment", "is_forward",
    "is_hate", "long_view", "play_time_ms", "duration_ms", "profile_stay_time", "comment_stay_time", "is_profile_enter",
    "is_rand", "tab",
)  # fmt: skip
VIDEO_COLUMNS = (
    "video_id", "author_id", "video_type", "upload_dt", "upload_type", "visible_status", "video_duration",
    "server_width", "server_height", "music_id", "music_type", "tag",
)  # fmt: skip
SECOND = 1_649_400_000
"""8 April 2022, 6:40 UTC."""


def log_row(user: int, video: int, second: float, click: int, play_ms: int, is_rand: int = 0) -> str:
    """A line of log_standard_*.csv or log_random_*.csv."""
    date = str(np.datetime64(int(second) + 8 * 3600, "s"))
    values = dict.fromkeys(LOG_COLUMNS, 0) | {
        "user_id": user,
        "video_id": video,
        "date": date[:10].replace("-", ""),
        "hourmin": int(date[11:13]) * 100,
        "time_ms": round(second * 1000),
        "is_click": click,
        "play_time_ms": play_ms,
        "duration_ms": 20_000,
        "is_rand": is_rand,
        "tab": 1,
    }
    return ",".join(str(values[column]) for column in LOG_COLUMNS)


def video_row(video: int, upload: str = "2022-04-01", duration: str = "20000.0", tag: str = "5") -> str:
    """A line of video_features_basic_*.csv; a tag with a comma is quoted."""
    values = dict.fromkeys(VIDEO_COLUMNS, "1") | {
        "video_id": str(video),
        "video_type": "NORMAL",
        "upload_dt": upload,
        "upload_type": "ShortImport",
        "video_duration": duration,
        "music_type": "",
        "tag": f'"{tag}"' if "," in tag else tag,
    }
    return ",".join(values[column] for column in VIDEO_COLUMNS)


def write_kuairand(folder: Path, files: dict[str, list[str]]) -> str:
    """Writes rows under the header that belongs to each name of a file; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        header = VIDEO_COLUMNS if name.startswith("video_") else LOG_COLUMNS
        (folder / name).write_text("\n".join((",".join(header), *rows)) + "\n")
    return str(folder)


def generate_kuairand(folder: Path, users: int = 60, videos: int = 200, exposures: int = 80, seed: int = 0) -> str:
    """A folder in which users click videos of tags that they like; one in ten videos is shown at random."""
    rng = np.random.default_rng(seed)
    tags = rng.integers(1, 9, videos)
    taste = rng.normal(size=(users, 9))
    uploads = [str(day) for day in np.datetime64("2022-03-01") + rng.integers(0, 60, videos)]
    films = [
        video_row(video + 10, uploads[video], "" if video % 50 == 0 else f"{5000 + 100 * video}.0", tag)
        for video, tag in enumerate(
            f"{a},{b}" if a != b else str(a) for a, b in zip(tags, np.roll(tags, 1), strict=True)
        )
    ]
    standard: list[str] = []
    random: list[str] = []
    for user in range(users):
        pauses = np.where(rng.random(exposures) < 0.1, rng.exponential(86_400, exposures) + 4_000, 30)
        for second in SECOND + np.cumsum(pauses):
            video = int(rng.integers(videos) if rng.random() < 0.1 else videos * rng.random() ** 2)
            click = int(rng.random() < 1 / (1 + np.exp(-taste[user, tags[video]])))
            is_rand = int(rng.random() < 0.1)
            play = int(rng.exponential(12_000 if click else 1_000))
            (random if is_rand else standard).append(log_row(user, video + 10, second, click, play, is_rand))
    half = len(standard) // 2
    return write_kuairand(
        folder,
        {
            "log_standard_4_08_to_4_21_pure.csv": standard[:half],
            "log_standard_4_22_to_5_08_pure.csv": standard[half:],
            "log_random_4_22_to_5_08_pure.csv": random,
            "video_features_basic_pure.csv": films,
        },
    )


def frame_of(folder: Path) -> pl.DataFrame:
    """All exposures in a folder, for comparison."""
    return pl.concat([pl.read_csv(file) for file in sorted(folder.glob("log_*.csv"))])
