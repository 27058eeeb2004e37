import zipfile
from pathlib import Path

import numpy as np
import pytest
from kuairand_files import SECOND, frame_of, generate_kuairand, log_row, video_row, write_kuairand
from numpy.testing import assert_allclose, assert_array_equal

from envs.errors import LogError
from envs.logs import load_log

DAY = 86_400
FILES = {
    "log_standard_4_08_to_4_21_pure.csv": [
        log_row(7, 30, SECOND + 60, 0, 900),
        log_row(7, 20, SECOND + 0.25, 1, 12_500),
        log_row(3, 20, SECOND + 5 * DAY, 1, 8_000),
    ],
    "log_standard_4_22_to_5_08_pure.csv": [log_row(3, 20, SECOND + 6 * DAY, 1, 21_000)],
    "log_random_4_22_to_5_08_pure.csv": [log_row(3, 100, SECOND + 6 * DAY, 0, 0, is_rand=1)],
    "video_features_basic_pure.csv": [
        video_row(100, upload="", duration="", tag="nan"),
        video_row(20, upload="2022-04-01", duration="25000.0", tag="12,5"),
        video_row(30, upload="2022-04-20", duration="0.0", tag="5"),
        video_row(9, tag="77"),
    ],
}
PEOPLE = """user_id,user_active_degree,is_live_streamer,follow_user_num,follow_user_num_range,onehot_feat0
7,full_active,-124,9,"(0,10]",3
3,high_active,1,0,0,
8,UNKNOWN,0,5,"(0,10]",2
"""


def changed(file: str, row: int, line: str) -> dict[str, list[str]]:
    rows = list(FILES[file])
    rows[row] = line
    return FILES | {file: rows}


def test_every_row_is_an_exposure_of_one_video_in_order_of_user_and_time(tmp_path):
    log = load_log(write_kuairand(tmp_path / "KuaiRand-Pure" / "data", FILES))
    assert log.name == "KuaiRand-Pure"
    assert log.users.user_ids.tolist() == ["3", "7"]
    assert log.catalogue.item_ids.tolist() == ["20", "30", "100"]  # 9 was never shown
    assert_array_equal(log.user, [0, 0, 0, 1, 1])
    # user 3's second and third row share a second: standard files come before random ones
    assert_array_equal(log.item, [0, 0, 2, 0, 1])
    assert_array_equal(log.timestamp - SECOND, [5 * DAY, 6 * DAY, 6 * DAY, 0, 60])
    assert_array_equal(log.clicked, [True, True, False, True, False])
    assert_array_equal(log.random_exposure, [False, False, True, False, False])
    assert_allclose(log.watch_seconds, [8, 21, 0, 12.5, 0.9])
    assert_array_equal(log.request, np.arange(5))
    assert_array_equal(log.position, np.zeros(5))
    assert np.isnan(log.rating).all()
    assert log.has_exposures and log.has_repeats and log.skipped_rows == 0


def test_videos_have_births_lengths_and_categories(tmp_path):
    catalogue = load_log(write_kuairand(tmp_path, FILES)).catalogue
    assert catalogue.category_names == ("5", "12")
    assert_allclose(catalogue.categories, [[0.5, 0.5], [1, 0], [0, 0]])
    assert_array_equal(catalogue.duration_seconds, np.float32([25, np.nan, np.nan]))
    uploaded = int(np.datetime64("2022-04-01", "s").astype(np.int64)) - 8 * 3600  # the day begins in Beijing
    # uploaded after its first event: born with it; without a day of upload: with the log's first event
    assert_array_equal(catalogue.birth, [uploaded, SECOND + 60, SECOND])


def test_without_a_repeated_consumption_the_log_has_no_repeats(tmp_path):
    # exposures repeat, consumption does not
    files = changed("log_standard_4_22_to_5_08_pure.csv", 0, log_row(3, 20, SECOND + 6 * DAY, 0, 21_000))
    assert not load_log(write_kuairand(tmp_path, files)).has_repeats


def test_users_have_attributes_where_there_is_a_file_of_them(tmp_path):
    folder = write_kuairand(tmp_path, FILES)
    assert load_log(folder).users.features.shape == (2, 0)
    (tmp_path / "user_features_pure.csv").write_text(PEOPLE)
    users = load_log(folder).users
    assert users.user_ids.tolist() == ["3", "7"]
    assert users.feature_names == (
        "active_UNKNOWN", "active_full_active", "active_high_active", "is_live_streamer", "follow_user_num",
    )  # fmt: skip
    assert_allclose(users.features, [[0, 0, 1, 1, 0], [0, 1, 0, 0, np.log(10) / 10]], rtol=1e-6)
    (tmp_path / "user_features_pure.csv").write_text(PEOPLE.replace("3,high", "5,high"))
    with pytest.raises(
        LogError, match=r"pure.csv, line 4: column 'user_id' is '3', which is not a user of user_features_pure.csv"
    ):
        load_log(folder)
    assert load_log(folder, skip_bad_rows=True).skipped_rows == 3


def test_a_zip_archive_with_a_folder_in_it_is_read_like_the_folder(tmp_path):
    folder = tmp_path / "plain"
    expected = load_log(write_kuairand(folder, FILES))
    with zipfile.ZipFile(tmp_path / "k.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"KuaiRand-1K/data/{file.name}")
    log = load_log(str(tmp_path / "k.zip"))
    assert log.name == "KuaiRand-1K"
    for column in ("user", "item", "timestamp", "clicked", "watch_seconds", "random_exposure"):
        assert_array_equal(getattr(log, column), getattr(expected, column))


def test_a_generated_folder_keeps_all_its_rows(tmp_path):
    log = load_log(generate_kuairand(tmp_path))
    frame = frame_of(tmp_path)
    assert len(log) == len(frame) == 60 * 80
    assert log.clicked.sum() == frame["is_click"].sum()
    assert log.random_exposure is not None and log.random_exposure.sum() == frame["is_rand"].sum()
    assert log.watch_seconds is not None
    assert_allclose(log.watch_seconds.sum(dtype=np.float64), frame["play_time_ms"].sum() / 1000, rtol=1e-5)
    assert_array_equal(log.item_counts().sum(), frame["is_click"].sum())


STANDARD = "log_standard_4_08_to_4_21_pure.csv"
RANDOM = "log_random_4_22_to_5_08_pure.csv"
VIDEOS = "video_features_basic_pure.csv"
GOOD = log_row(7, 20, SECOND, 1, 12_500)


@pytest.mark.parametrize(
    ("file", "row", "line", "sentence"),
    [
        (STANDARD, 1, GOOD.replace("12500", "-5"), "line 3: column 'play_time_ms' is '-5', which is outside 0 to"),
        (STANDARD, 1, GOOD.replace("12500", "nan"), "line 3: column 'play_time_ms' is 'nan', which is outside 0 to"),
        (STANDARD, 1, GOOD.replace("12500", ""), "line 3: column 'play_time_ms' is empty."),
        (STANDARD, 1, GOOD.replace("20000", "-1"), "line 3: column 'duration_ms' is '-1', which is outside 0 to"),
        (
            STANDARD,
            1,
            GOOD.replace(str(SECOND * 1000), str(SECOND)),
            f"line 3: column 'time_ms' is '{SECOND}', which is in seconds, not in milliseconds.",
        ),
        (STANDARD, 1, GOOD[::-1].replace("1,0", "1,7", 1)[::-1], "line 3: column 'is_rand' is '7', which is outside 0"),
        (STANDARD, 1, GOOD.replace("7,20,", "7,21,", 1), "line 3: column 'video_id' is '21', which is not a video of video_f"),
        (RANDOM, 0, log_row(3, 100, SECOND, 0, 0) + ",1", "line 2: the row has more than its 19 columns."),
        (RANDOM, 0, "3,100", "line 2: column 'date' is missing."),
        (VIDEOS, 2, video_row(30, duration="-3"), "line 4: column 'video_duration' is '-3', which is outside 0 to"),
        (VIDEOS, 2, video_row(30, duration="nan"), "line 4: column 'video_duration' is 'nan', which is outside 0 to"),
        (VIDEOS, 2, video_row(30, upload="1649400000"), "line 4: column 'upload_dt' is '1649400000', which is no time"),
        (VIDEOS, 2, video_row(30, upload="2022-13-01"), "line 4: column 'upload_dt' is '2022-13-01', which is no time"),
        (VIDEOS, 2, video_row(30, tag="5,x"), "line 4: column 'tag' is '5,x', which is no list of numbers."),
        (VIDEOS, 2, video_row(20), "line 4: the row has the same video as line 3: a duplicate row."),
    ],
)  # fmt: skip
def test_a_bad_row_is_refused_by_its_address_and_left_out_on_demand(tmp_path, file, row, line, sentence):
    folder = write_kuairand(tmp_path, changed(file, row, line))
    with pytest.raises(LogError) as refusal:
        load_log(folder)
    assert f"{file}, {sentence}" in str(refusal.value)
    assert "--skip-bad-rows" in str(refusal.value)
    log = load_log(folder, skip_bad_rows=True)
    assert log.skipped_rows == (2 if file == VIDEOS else 1)  # a video takes its exposure with it
    assert len(log) == 4


def test_a_missing_column_or_file_is_refused(tmp_path):
    write_kuairand(tmp_path, FILES)
    path = Path(tmp_path / RANDOM)
    path.write_text(path.read_text().replace("play_time_ms", "play_time"))
    with pytest.raises(LogError, match=rf"{RANDOM}, line 1: column 'play_time_ms' is missing"):
        load_log(str(tmp_path))
    (tmp_path / VIDEOS).unlink()
    with pytest.raises(LogError, match=r"has log_standard_.* but no video_features_basic_\*.csv"):
        load_log(str(tmp_path))
