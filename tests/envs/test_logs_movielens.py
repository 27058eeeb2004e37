import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from envs.errors import LogError
from envs.logs import InteractionLog, load_log, text_scans
from envs.logs.movielens import U_ITEM_GENRES, title_and_year

RATINGS = """userId,movieId,rating,timestamp
7,10,4.0,1000000300
7,2,3.5,1000000200
3,2,5.0,1000000100
3,30,0.5,1000090000
3,10,1.0,1000090000
"""
MOVIES = """movieId,title,genres
2,"American President, The (1995)",Comedy|Drama
10,Dawn of Time (2030),Drama
30,Untitled,(no genres listed)
40,Never Rated (1950) ,Comedy
"""
U_DATA = "2\t1\t3\t881250949\n1\t2\t5\t881250949\n1\t3\t1\t881250949\n1\t1\t4\t881250000\n"
U_USER = "1|24|M|technician|85711\n2|53|F|other|94043\n"
ML_100K = {
    "u.data": U_DATA,
    "u.user": U_USER,
}
RECBOLE = {
    "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + U_DATA,
    "ml-100k.user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    + U_USER.replace("|", "\t"),
    "ml-100k.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tMisérables, Les\t1995\tDrama Musical\n2\tunkonwn\tunkonwn\tunknown\n"
    "3\tLand Before Time III (1995)\tV\tAnimation Children's\n",
}


def u_item_row(number: int, title: str, date: str, *genres: str) -> str:
    flags = "|".join("1" if genre in genres else "0" for genre in U_ITEM_GENRES)
    return f"{number}|{title}|{date}||http://us.imdb.com/M/title-exact|{flags}\n"


U_ITEM = (
    u_item_row(1, "Misérables, Les (1995)", "01-Jan-1995", "Drama", "Musical")
    + u_item_row(2, "unknown", "", "unknown")
    + u_item_row(3, "Land Before Time III (1995) (V)", "01-Jan-1995", "Animation", "Children's")
)


def write_latest(folder: Path, ratings: str = RATINGS, movies: str = MOVIES) -> str:
    (folder / "ratings.csv").write_text(ratings)
    (folder / "movies.csv").write_text(movies)
    return str(folder)


def write_100k(folder: Path, **changed: str) -> str:
    folder.mkdir(exist_ok=True)
    for name, text in {**ML_100K, **changed}.items():
        (folder / name).write_text(text)
    (folder / "u.item").write_text(U_ITEM, encoding="latin-1")
    return str(folder)


def write_recbole(folder: Path, **changed: str) -> str:
    folder.mkdir(exist_ok=True)
    for name, text in {**RECBOLE, **changed}.items():
        (folder / name).write_text(text)
    return str(folder)


def assert_same_log(one: InteractionLog, other: InteractionLog) -> None:
    for name in ("user", "item", "timestamp", "clicked", "rating", "request", "position"):
        assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for name in ("item_ids", "titles", "categories", "birth"):
        assert_array_equal(getattr(one.catalogue, name), getattr(other.catalogue, name), err_msg=name)
    assert one.catalogue.category_names == other.catalogue.category_names
    assert_array_equal(one.users.user_ids, other.users.user_ids)
    assert_array_equal(one.users.features, other.users.features)
    assert one.users.feature_names == other.users.feature_names


DAT = {
    "ratings.dat": "2::30::3.5::1000090000\n1::10::4::1000000300\n1::2::5::1000000200\n",
    "movies.dat": "2::Misérables, Les (1995)::Drama|Musical\n10::2001: A Space Odyssey (1968)::Sci-Fi\n"
    "30::Star Trek: The (Motion) Picture::Action\n",
    "users.dat": "1::F::1::10::48067\n2::M::56::16::70072-0001\n",
}


def write_dat(folder: Path, encoding: str = "latin-1", **changed: str) -> str:
    folder.mkdir(exist_ok=True)
    for name, text in {**DAT, **changed}.items():
        (folder / name).write_bytes(text.encode(encoding))
    return str(folder)


def seconds(date: str) -> int:
    return int(np.datetime64(date, "s").astype(np.int64))


def test_latest_small_rows_are_read_in_order_of_user_and_time_with_ties_as_in_the_file(tmp_path):
    log = load_log(write_latest(tmp_path))
    assert log.users.user_ids.tolist() == ["3", "7"]
    assert log.catalogue.item_ids.tolist() == ["2", "10", "30", "40"]
    assert_array_equal(log.user, [0, 0, 0, 1, 1])
    assert_array_equal(log.item, [0, 2, 1, 0, 1])
    assert_array_equal(log.rating, np.float32([5, 0.5, 1, 3.5, 4]))
    assert_array_equal(log.visit, [0, 1, 1, 0, 0])
    assert log.users.features.shape == (2, 0)
    assert not log.has_exposures and not log.has_repeats and log.clicked.all() and log.skipped_rows == 0


def test_latest_small_movies_have_titles_categories_and_births_that_precede_their_events(tmp_path):
    catalogue = load_log(write_latest(tmp_path)).catalogue
    assert catalogue.titles.tolist() == ["American President, The", "Dawn of Time", "Untitled", "Never Rated"]
    assert catalogue.category_names == ("Comedy", "Drama")
    assert_allclose(catalogue.categories, [[0.5, 0.5], [0, 1], [0, 0], [1, 0]])
    # by year; first event, for it lies before the year; the log's first event, for there is no year; by year
    assert catalogue.birth.tolist() == [seconds("1995-01-01"), 1000000300, 1000000100, seconds("1950-01-01")]


def test_windows_line_ends_blank_lines_byte_order_mark_and_further_columns_do_no_harm(tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    other = tmp_path / "other"
    other.mkdir()
    lines = RATINGS.splitlines()
    ratings = "\ufeff" + "\r\n".join([lines[0] + ",tag", *(line + ",x" for line in lines[1:3]), "", *lines[3:]])
    expected = load_log(write_latest(plain))
    assert_same_log(load_log(write_latest(other, ratings, "\ufeff" + MOVIES.replace("\n", "\r\n"))), expected)


def test_a_zip_archive_is_read_like_its_folder(tmp_path):
    expected = load_log(write_latest(tmp_path))
    with zipfile.ZipFile(tmp_path / "ml-latest-small.zip", "w") as archive:
        for name in ("ratings.csv", "movies.csv"):
            archive.write(tmp_path / name, f"ml-latest-small/{name}")
    log = load_log(str(tmp_path / "ml-latest-small.zip"))
    assert_same_log(log, expected)
    assert log.name == "ml-latest-small"


def test_a_damaged_archive_is_refused_with_the_file_in_it(tmp_path):
    write_latest(tmp_path)
    for damaged in ("ratings.csv", "movies.csv"):
        with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
            for name in ("ratings.csv", "movies.csv"):
                archive.write(tmp_path / name, f"ml/{name}")
            header = archive.getinfo(f"ml/{damaged}").header_offset
        content = bytearray((tmp_path / "ml.zip").read_bytes())
        content[header + 80] ^= 1
        (tmp_path / "ml.zip").write_bytes(content)
        with pytest.raises(LogError, match=rf"ml/{damaged}' cannot be unpacked \(.*the archive is damaged"):
            load_log(str(tmp_path / "ml.zip"))


def test_both_forms_of_ml_100k_give_the_same_log(tmp_path):
    log = load_log(write_100k(tmp_path / "grouplens"))
    assert_same_log(log, load_log(write_recbole(tmp_path / "recbole")))
    assert log.name == "ml-100k"
    assert_array_equal(log.item, [0, 1, 2, 0])
    assert log.catalogue.titles.tolist() == ["Misérables, Les", "", "Land Before Time III"]
    assert log.catalogue.birth.tolist() == [seconds("1995-01-01"), 881250000, seconds("1995-01-01")]
    assert log.catalogue.num_categories == 19
    assert log.catalogue.category_names[9] == "Film-Noir" and log.catalogue.category_names[8] == "Fantasy"
    assert [log.catalogue.category_names[g] for g in np.flatnonzero(log.catalogue.categories[2])] == [
        "Animation",
        "Children's",
    ]
    assert log.users.feature_names == (
        "age", "gender_F", "gender_M", "occupation_other", "occupation_technician",
    )  # fmt: skip
    assert_allclose(log.users.features, [[0.24, 0, 1, 0, 1], [0.53, 1, 0, 1, 0]])


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_dat_files_are_separated_by_double_colons(tmp_path, encoding):
    log = load_log(write_dat(tmp_path / "ml-1m", encoding))
    assert log.name == "ml-1m"
    assert log.users.user_ids.tolist() == ["1", "2"]
    assert_array_equal(log.user, [0, 0, 1])
    assert_array_equal(log.item, [0, 1, 2])
    assert_array_equal(log.rating, np.float32([5, 4, 3.5]))
    assert_array_equal(log.timestamp, [1000000200, 1000000300, 1000090000])
    titles = ["Misérables, Les", "2001: A Space Odyssey", "Star Trek: The (Motion) Picture"]
    assert log.catalogue.titles.tolist() == titles
    assert log.catalogue.category_names == ("Action", "Drama", "Musical", "Sci-Fi")
    assert_allclose(log.catalogue.categories, [[0, 0.5, 0.5, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
    assert log.catalogue.birth.tolist() == [seconds("1995-01-01"), seconds("1968-01-01"), 1000000200]
    assert log.users.feature_names == ("age", "gender_F", "gender_M", "occupation_10", "occupation_16")
    assert_allclose(log.users.features, [[0.01, 1, 0, 1, 0], [0.56, 0, 1, 0, 1]])


def test_dat_files_without_users_make_users_without_attributes(tmp_path):
    write_dat(tmp_path)
    (tmp_path / "users.dat").unlink()
    log = load_log(str(tmp_path))
    assert log.users.user_ids.tolist() == ["1", "2"] and log.users.features.shape == (2, 0)


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("ratings.dat", "1::10::4::", "1::10::4:", "line 2: column 'Rating' is '4:1000000300', which is not a number."),
        ("ratings.dat", "1::10::4::1000000300", "1::10::4", "line 2: column 'Timestamp' is missing."),
        ("ratings.dat", "1::10::4::", "1::10:x:4::", "line 2: column 'MovieID' is '10:x:4', which is not a number."),
        ("ratings.dat", "1::10::4::", "1:x:10::4::", "line 2: column 'UserID' is '1:x:10', which is not a number."),
        (
            "ratings.dat",
            "1::10::4::",
            "1::11::4::",
            "line 2: column 'MovieID' is '11', which is not an item of movies.dat.",
        ),
        (
            "ratings.dat",
            "1::10::4::",
            "3::10::4::",
            "line 2: column 'UserID' is '3', which is not a user of users.dat.",
        ),
        ("ratings.dat", "300\n", "300::1\n", "line 2: the row has more than its 4 columns."),
        ("movies.dat", "10::2001", "x::2001", "line 2: column 'MovieID' is 'x', which is not a number."),
        ("users.dat", "1::F", "1::W", "line 1: column 'Gender' is 'W', which is neither F nor M."),
    ],
)
def test_faults_of_dat_files_are_named_and_left_out_on_demand(tmp_path, file, old, new, sentence):
    assert old in DAT[file]
    with pytest.raises(LogError) as refusal:
        load_log(write_dat(tmp_path, **{file: DAT[file].replace(old, new)}))
    assert f"{file}, {sentence}" in str(refusal.value)
    assert 1 <= load_log(str(tmp_path), skip_bad_rows=True).skipped_rows <= 3


def test_a_file_of_two_encodings_is_refused_at_the_row_that_differs(tmp_path):
    write_dat(tmp_path)
    path = tmp_path / "movies.dat"
    path.write_bytes(path.read_bytes() + "40::Amélie (2001)::Comedy\n".encode())
    with pytest.raises(
        LogError, match=r"movies.dat, line 4: column 'Title' is '.*', which is UTF-8 in a file of Latin-1"
    ):
        load_log(str(tmp_path))
    log = load_log(str(tmp_path), skip_bad_rows=True)
    assert log.skipped_rows == 1 and log.catalogue.titles[0] == "Misérables, Les"


def test_movies_that_are_not_utf8_are_refused_by_their_address(tmp_path):
    write_latest(tmp_path)
    (tmp_path / "movies.csv").write_bytes(MOVIES.replace("Dawn of Time", "L'aube dorée").encode("latin-1"))
    with pytest.raises(
        LogError, match=r"movies.csv, line 3: column 'title' is 'L'aube dor.e .2030.', which is not UTF-8"
    ):
        load_log(str(tmp_path))
    assert load_log(str(tmp_path), skip_bad_rows=True).skipped_rows == 1 + 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Toy Story (1995)", ("Toy Story", 1995)),
        ("Babylon 5", ("Babylon 5", 0)),
        ("Death Note (2006–2007)", ("Death Note", 2006)),
        ("Fuga, La (Flight) (1964) ", ("Fuga, La (Flight)", 1964)),
        ("2001: A Space Odyssey (1968)", ("2001: A Space Odyssey", 1968)),
        ("Odd (0001)", ("Odd", 0)),
    ],
)
def test_title_and_year(text, expected):
    assert title_and_year(text) == expected


LINE_3 = "7,2,3.5,1000000200\n"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("7,2,3.5,84743496x\n", "line 3: column 'timestamp' is '84743496x', which is not a number."),
        ("7,2,3.5,12.5\n", "line 3: column 'timestamp' is '12.5', which is not a whole number."),
        ("7,2,3.5,-5\n", "line 3: column 'timestamp' is '-5', which is in the year 1970 when read as seconds"),
        (
            "7,2,3.5,1000000200000\n",
            "line 3: column 'timestamp' is '1000000200000', which is in milliseconds, not in seconds.",
        ),
        ("7,2,5.5,1000000200\n", "line 3: column 'rating' is '5.5', which is outside 0.5 to 5."),
        ("7,2,0,1000000200\n", "line 3: column 'rating' is '0', which is outside 0.5 to 5."),
        ("7,2,nan,1000000200\n", "line 3: column 'rating' is 'nan', which is outside 0.5 to 5."),
        ("7,2,,1000000200\n", "line 3: column 'rating' is empty."),
        ("7,2,3.5\n", "line 3: column 'timestamp' is missing."),
        ("7,2,3.5,1000000200,9\n", "line 3: the row has more than its 4 columns."),
        ("7,99,3.5,1000000200\n", "line 3: column 'movieId' is '99', which is not an item of movies.csv."),
        ("u7,2,3.5,1000000200\n", "line 3: column 'userId' is 'u7', which is not a number."),
        ("7,10,2.0,1000000900\n", "line 3: the row has the same user and item as line 2: a duplicate row."),
    ],
)
def test_a_bad_rating_is_refused_by_its_address_and_left_out_on_demand(tmp_path, row, sentence):
    folder = write_latest(tmp_path, RATINGS.replace(LINE_3, row))
    with pytest.raises(LogError) as refusal:
        load_log(folder)
    assert f"ratings.csv, {sentence}" in str(refusal.value)
    assert "--skip-bad-rows" in str(refusal.value)
    log = load_log(folder, skip_bad_rows=True)
    assert log.skipped_rows == 1
    whole = load_log(write_latest(tmp_path))
    assert_same_log(log, whole.where(np.array([True, True, True, False, True])))


def test_the_first_faults_of_a_quoted_file_are_named_like_those_of_a_plain_one(tmp_path):
    quoted = RATINGS.replace("7,2,3.5", '"7","2","3,5"')
    with pytest.raises(LogError, match=r"ratings.csv, line 3: column 'rating' is '3,5', which is not a number"):
        load_log(write_latest(tmp_path, quoted))
    assert len(load_log(write_latest(tmp_path, RATINGS.replace("7,2,3.5", '"7","2","3.5"')))) == 5


def test_a_user_of_bad_rows_only_is_left_out(tmp_path):
    folder = write_latest(tmp_path, RATINGS + "5,2,9,1000000000\n")
    log = load_log(folder, skip_bad_rows=True)
    assert_same_log(log, load_log(write_latest(tmp_path)))


def test_faults_in_late_blocks_have_the_right_line(tmp_path, monkeypatch):
    monkeypatch.setattr(text_scans, "BLOCK_BYTES", 64)
    rows = "".join(f"{user},{movie},4,1000000{user:03}\n" for user in range(9) for movie in (2, 10, 30))
    header = "userId,movieId,rating,timestamp\n"
    for fault, line in (
        ("8,40,4.5,12.5\n", 29),
        ("\n8,40,4.5,x\n", 30),
        ("7,2,1,1000000000\n", 29),
        ("9,99,1,1000000000\n", 29),
    ):
        folder = write_latest(tmp_path, header + rows + fault + "8,40,4,1000000000\n")
        with pytest.raises(LogError, match=rf"ratings.csv, line {line}: "):
            load_log(folder)
        log = load_log(folder, skip_bad_rows=True)
        assert len(log) == 28 and log.skipped_rows == 1


def test_the_first_of_several_faults_is_named_and_all_are_counted(tmp_path):
    rows = RATINGS.replace("7,2,3.5", "7,2,9").replace("3,30,0.5,1000090000", "3,30,0.5,yesterday")
    folder = write_latest(tmp_path, rows.replace("3,10,1.0", "x,99,y"))
    with pytest.raises(LogError, match=r"ratings.csv, line 3: column 'rating' is '9'"):
        load_log(folder)
    log = load_log(folder, skip_bad_rows=True)
    assert log.skipped_rows == 3
    assert len(log) == 2


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("x,Dawn of Time (2030),Drama", "movies.csv, line 3: column 'movieId' is 'x', which is not a number."),
        ("2,Again (2030),Drama", "movies.csv, line 3: the row has the same item as line 2: a duplicate row."),
        ("10,Dawn of Time (2030),Drama,more", "movies.csv, line 3: the row has more than its 3 columns."),
    ],
)
def test_a_bad_movie_is_refused_and_its_ratings_go_with_it_on_demand(tmp_path, row, sentence):
    folder = write_latest(tmp_path, movies=MOVIES.replace("10,Dawn of Time (2030),Drama", row))
    with pytest.raises(LogError) as refusal:
        load_log(folder)
    assert sentence in str(refusal.value)
    log = load_log(folder, skip_bad_rows=True)
    assert log.skipped_rows == 1 + 2  # the movie and the two ratings of it
    assert "10" not in log.catalogue.item_ids


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(
    ("ratings", "movies", "sentence"),
    [
        (RATINGS.replace("timestamp", "time"), MOVIES, "ratings.csv, line 1: column 'timestamp' is missing"),
        (RATINGS, MOVIES.replace("genres", "kind", 1), "movies.csv, line 1: column 'genres' is missing"),
        ("", MOVIES, "ratings.csv is empty"),
        (RATINGS, " \n", "movies.csv is empty"),
        ("userId,movieId,rating,timestamp\n", MOVIES, "ratings.csv has no rows"),
        (RATINGS, "movieId,title,genres\n", "movies.csv has no rows"),
        (RATINGS.replace("7", "\x00"), MOVIES, "ratings.csv is not a text file"),
    ],
)
def test_a_broken_file_is_refused_even_where_bad_rows_may_be_skipped(tmp_path, ratings, movies, sentence, skip):
    with pytest.raises(LogError) as refusal:
        load_log(write_latest(tmp_path, ratings, movies), skip_bad_rows=skip)
    assert sentence in str(refusal.value)


def test_a_file_of_bad_rows_only_is_refused(tmp_path):
    folder = write_latest(tmp_path, "userId,movieId,rating,timestamp\n1,2,x,5\n1,2,y,5\n")
    with pytest.raises(LogError, match=r"ratings.csv has no usable row \(all 2 are corrupt\)"):
        load_log(folder, skip_bad_rows=True)


def test_a_folder_that_is_not_there_is_refused_with_what_is_accepted(tmp_path):
    with pytest.raises(LogError) as refusal:
        load_log(str(tmp_path / "nowhere"))
    for word in ("nowhere", "ml-100k", "synthetic", "folder"):
        assert word in str(refusal.value)


def test_a_folder_without_a_log_or_with_half_of_one_is_refused(tmp_path):
    with pytest.raises(
        LogError, match=r"holds no log that driftrec can read; it looks for ratings.csv, movies.csv; or ratings.dat"
    ):
        load_log(str(tmp_path))
    write_latest(tmp_path)
    (tmp_path / "movies.csv").unlink()
    with pytest.raises(LogError, match=r"has ratings.csv but no movies.csv"):
        load_log(str(tmp_path))
    with pytest.raises(LogError, match=r"'.*ratings.csv' is a table: tell what its columns are with --columns"):
        load_log(str(tmp_path / "ratings.csv"))
    (tmp_path / "ratings.sav").write_text("x")
    with pytest.raises(LogError, match="neither a folder nor a zip archive"):
        load_log(str(tmp_path / "ratings.sav"))


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("u.data", "2\t1\t3\t", "2\t1\tthree\t", "u.data, line 1: column 'rating' is 'three', which is not a number."),
        ("u.data", "2\t1\t3\t", "9\t1\t3\t", "u.data, line 1: column 'user_id' is '9', which is not a user of u.user."),
        (
            "u.data",
            "1\t3\t1\t",
            "1\t4\t1\t",
            "u.data, line 3: column 'item_id' is '4', which is not an item of u.item.",
        ),
        ("u.user", "|24|", "|old|", "u.user, line 1: column 'age' is 'old', which is not a number."),
        ("u.user", "|F|", "|G|", "u.user, line 2: column 'gender' is 'G', which is neither F nor M."),
    ],
)
def test_faults_of_ml_100k_files_are_named_like_those_of_csv_files(tmp_path, file, old, new, sentence):
    with pytest.raises(LogError) as refusal:
        load_log(write_100k(tmp_path, **{file: ML_100K[file].replace(old, new)}))
    assert sentence in str(refusal.value)
    assert load_log(str(tmp_path), skip_bad_rows=True).skipped_rows >= 1


def test_faults_of_recbole_files_are_named_by_their_own_columns(tmp_path):
    items = RECBOLE["ml-100k.item"].replace("Drama Musical", "Drama Opera")
    with pytest.raises(LogError, match=r"ml-100k.item, line 2: column 'class:token_seq' is 'Drama Opera'"):
        load_log(write_recbole(tmp_path, **{"ml-100k.item": items}))
