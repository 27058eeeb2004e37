from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from envs.catalogue import Catalogue
from envs.errors import ConfigurationError, LogError
from envs.logs import InteractionLog, Users, load_log

SECOND = 1_425_168_000
"""1 March 2015."""
COLUMNS = "user=who,item=what,time=when"
ROWS = [("b", "x9", SECOND + 60), ("a", "x10", SECOND), ("b", "x9", SECOND + 5), ("a", "x2", SECOND + 7_300)]
LOG_COLUMNS = (
    "user",
    "item",
    "timestamp",
    "clicked",
    "rating",
    "request",
    "position",
    "watch_seconds",
    "random_exposure",
)


def write(path: Path, rows: list[tuple] = ROWS, header: str = "who,what,when", separator: str = ",") -> str:
    lines = [header.replace(",", separator), *(separator.join(str(value) for value in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def assert_same_rows(one: InteractionLog, other: InteractionLog) -> None:
    for column in LOG_COLUMNS:
        assert_array_equal(getattr(one, column), getattr(other, column), err_msg=column)
    assert_array_equal(one.catalogue.birth, other.catalogue.birth)
    assert_array_equal(one.catalogue.item_ids, other.catalogue.item_ids)
    assert_array_equal(one.users.user_ids, other.users.user_ids)
    assert one.has_repeats == other.has_repeats


def timed(values: list, tmp_path: Path) -> InteractionLog:
    return load_log(
        write(tmp_path / "log.csv", [("u", f"i{n}", value) for n, value in enumerate(values)]), columns=COLUMNS
    )


def test_three_columns_make_a_log(tmp_path):
    log = load_log(write(tmp_path / "shop.csv"), columns=COLUMNS)
    assert log.name == "shop"
    assert log.users.user_ids.tolist() == ["a", "b"]
    assert log.catalogue.item_ids.tolist() == ["x10", "x2", "x9"]  # as text, for they are no numbers
    assert_array_equal(log.user, [0, 0, 1, 1])
    assert_array_equal(log.item, [0, 1, 2, 2])
    assert_array_equal(log.timestamp - SECOND, [0, 7_300, 5, 60])
    assert log.clicked.all() and np.isnan(log.rating).all() and log.has_repeats
    assert (log.request == -1).all() and (log.position == -1).all()
    assert log.watch_seconds is None and log.random_exposure is None
    assert_array_equal(log.catalogue.birth, np.full(3, SECOND))
    assert log.catalogue.num_categories == 0


def test_ids_that_are_whole_numbers_are_in_order_of_number_and_keep_their_text(tmp_path):
    log = load_log(
        write(tmp_path / "l.csv", [(10, 9, SECOND), (9, 100, SECOND), (10, -3, SECOND + 1)]), columns=COLUMNS
    )
    assert log.users.user_ids.tolist() == ["9", "10"]
    assert log.catalogue.item_ids.tolist() == ["-3", "9", "100"]
    log = load_log(write(tmp_path / "l.csv", [(10, "b7", SECOND), ("x", 7, SECOND), (9, 12, SECOND)]), columns=COLUMNS)
    assert log.users.user_ids.tolist() == ["10", "9", "x"]
    assert log.catalogue.item_ids.tolist() == ["12", "7", "b7"]
    log = load_log(write(tmp_path / "l.csv", [("007", 1, SECOND), ("7", 2, SECOND)]), columns=COLUMNS)
    assert log.users.user_ids.tolist() == ["007", "7"]


@pytest.mark.parametrize(
    ("name", "separator"),
    [("l.csv", ","), ("l.tsv", "\t"), ("l.txt", "\t"), ("l.csv", ";"), ("l.csv", "|"), ("l.tsv", ",")],
)
def test_the_separator_is_the_one_that_the_first_line_has(tmp_path, name, separator):
    expected = load_log(write(tmp_path / "plain.csv"), columns=COLUMNS)
    assert_same_rows(load_log(write(tmp_path / name, separator=separator), columns=COLUMNS), expected)


def test_quoted_fields_may_hold_separators_quotes_and_line_ends(tmp_path):
    text = f'"who","what", when,"a, b"\n"a, ""the"" b","x\ny",{SECOND},1\n\n"c",z,"{SECOND}","2,3"\n'
    (tmp_path / "l.csv").write_text(text)
    log = load_log(str(tmp_path / "l.csv"), columns=COLUMNS)
    assert log.users.user_ids.tolist() == ['a, "the" b', "c"]
    assert log.catalogue.item_ids.tolist() == ["x\ny", "z"]
    (tmp_path / "l.csv").write_text(text + "d,z,soon,4\n")
    with pytest.raises(LogError, match=r"l.csv, line 6: column 'when' is 'soon', which is no time"):
        load_log(str(tmp_path / "l.csv"), columns=COLUMNS)
    skipped = load_log(str(tmp_path / "l.csv"), columns=COLUMNS, skip_bad_rows=True)
    assert skipped.skipped_rows == 1
    assert_same_rows(skipped, log)


@pytest.mark.parametrize(
    "given",
    [
        [SECOND, SECOND + 86_400],
        [f"{SECOND}.75", f"{SECOND + 86_400}.25"],
        [SECOND * 1000 + 999, (SECOND + 86_400) * 1000],
        ["2015-03-01", "2015-03-02"],
        ["2015-03-01T00:00:00", "2015-03-02T00:00:00"],
        ["2015-03-01 00:00:00.500", "2015-03-02 00:00"],
        ["2015-03-01T00:00:00Z", "2015-03-02T00:00:00.5Z"],
        ["2015-03-01T08:00:00+08:00", "2015-03-01T22:00:00-02:00"],
    ],
)
def test_times_are_seconds_milliseconds_or_dates(tmp_path, given):
    assert_array_equal(timed(given, tmp_path).timestamp, [SECOND, SECOND + 86_400])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            [SECOND, SECOND, SECOND * 1000],
            "line 4: column 'when' is '1425168000000', which is in milliseconds where other",
        ),
        (
            [SECOND * 1000, SECOND * 1000, SECOND],
            "line 4: column 'when' is '1425168000', which is in seconds where other",
        ),
        (
            [SECOND, SECOND, "2015-03-01"],
            "line 4: column 'when' is '2015-03-01', which is no time as in the rows around it",
        ),
        (
            ["2015-03-01", "2015-03-01", SECOND],
            "line 4: column 'when' is '1425168000', which is no time as in the rows",
        ),
        ([5, 6, 7], "line 2: column 'when' is '5', which is in the year 1970 when read as seconds since 1970"),
        ([SECOND * 10**6] * 2, "line 2: column 'when' is '1425168000000000', which is in microseconds: give seconds"),
        ([SECOND * 10**9] * 2, "line 2: column 'when' is '1425168000000000000', which is in nanoseconds: give seconds"),
        ([SECOND, "nan"], "line 3: column 'when' is 'nan', which is not a number."),
        ([SECOND, "inf"], "line 3: column 'when' is 'inf', which is beyond any calendar"),
        ([SECOND, -SECOND], "line 3: column 'when' is '-1425168000', which is in the year 1925 when read as seconds"),
        (["1970-01-02", "2015-03-01"], "line 2: column 'when' is '1970-01-02', which is in the year 1970"),
        ([SECOND, ""], "line 3: column 'when' is empty."),
    ],
)
def test_a_time_in_another_unit_is_refused_by_its_address(tmp_path, given, sentence):
    with pytest.raises(LogError) as refusal:
        timed(given, tmp_path)
    assert f"log.csv, {sentence}" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_rating_watch_category_and_birth_may_be_empty(tmp_path):
    header = "who,what,when,stars,seconds,kind,born"
    rows = [
        ("a", 1, SECOND, 4.5, "", "Comedy|Drama", "2015-01-01"),
        ("a", 2, SECOND + 1, "", 12.25, "", ""),
        ("b", 1, SECOND + 2, -3, 0, "War", "1895-12-28"),
        ("b", 3, SECOND + 3, 1, 1, "Drama", "2016-01-01"),
    ]
    path = write(tmp_path / "l.csv", rows, header)
    log = load_log(path, columns=f"{COLUMNS},rating=stars,watch=seconds,category=kind,birth=born")
    assert_array_equal(log.rating, np.float32([4.5, np.nan, -3, 1]))
    assert_array_equal(log.watch_seconds, np.float32([np.nan, 12.25, 0, 1]))
    assert log.catalogue.category_names == ("Comedy", "Drama", "War")
    # item 1 has the categories that any of its rows names
    assert_allclose(log.catalogue.categories, [[1 / 3, 1 / 3, 1 / 3], [0, 0, 0], [0, 1, 0]], rtol=1e-6)
    first_film = int(np.datetime64("1895-12-28", "s").astype(np.int64))
    assert_array_equal(log.catalogue.birth, [first_film, SECOND, SECOND + 3])


def test_births_may_be_years(tmp_path):
    path = write(tmp_path / "l.csv", [("a", 1, SECOND, 1995), ("a", 2, SECOND, 1920)], "who,what,when,year")
    births = load_log(path, columns=COLUMNS + ",birth=year").catalogue.birth
    assert_array_equal(births.astype("datetime64[s]"), np.array(["1995-01-01", "1920-01-01"], "datetime64[s]"))
    path = write(
        tmp_path / "l.csv",
        [("a", n, SECOND, year) for n, year in enumerate((1995, 1996, SECOND))],
        "who,what,when,year",
    )
    with pytest.raises(LogError, match=r"line 4: column 'year' is '1425168000', which is no year .* a mix of units"):
        load_log(path, columns=COLUMNS + ",birth=year")


def test_clicks_tell_exposures_one_at_a_time(tmp_path):
    rows = [("a", 1, SECOND + 9, "true"), ("a", 2, SECOND, 0), ("b", 1, SECOND, "1.0"), ("b", 1, SECOND + 1, "False")]
    path = write(tmp_path / "l.csv", rows, "who,what,when,hit")
    log = load_log(path, columns=COLUMNS + ",click=hit")
    assert_array_equal(log.clicked, [False, True, True, False])
    assert_array_equal(log.request, [0, 1, 2, 3])
    assert_array_equal(log.position, [0, 0, 0, 0])
    assert log.has_exposures and not log.has_repeats


@pytest.mark.parametrize("first", [0, 1])
def test_requests_gather_slates_and_positions_count_from_zero_or_one(tmp_path, first):
    rows = [
        ("b", 1, SECOND, 1, "r2", first + 2, 0),
        ("a", 1, SECOND, 0, "r7", first, 0),
        ("a", 2, SECOND, 1, "r7", first + 1, 0),
        ("a", 3, SECOND + 5, 0, "r2", first, 1),
    ]
    path = write(tmp_path / "l.csv", rows, "who,what,when,hit,page,slot,dice")
    log = load_log(path, columns=COLUMNS + ",click=hit,request=page,position=slot,random=dice")
    assert_array_equal(log.request, [0, 0, 1, 2])  # a name of a request counts within its user
    assert_array_equal(log.position, [0, 1, 0, 2])
    assert_array_equal(log.random_exposure, [False, False, True, False])


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("hit", "2", "column 'hit' is '2', which is neither 0 nor 1."),
        ("hit", "", "column 'hit' is empty."),
        ("seconds", "-1", "column 'seconds' is '-1', which is outside 0 to 604800."),
        ("seconds", "nan", "column 'seconds' is 'nan', which is outside 0 to 604800."),
        ("stars", "good", "column 'stars' is 'good', which is not a number."),
        ("stars", "inf", "column 'stars' is 'inf', which is outside -1000000000 to 1000000000."),
        ("slot", "1.5", "column 'slot' is '1.5', which is not a whole number."),
        ("slot", "-1", "column 'slot' is '-1', which is outside 0 to 32000."),
        ("who", "", "column 'who' is empty."),
        ("what", " ", "column 'what' is empty."),
        ("born", "later", "column 'born' is 'later', which is no time as in the rows around it"),
    ],
)
def test_a_bad_value_is_refused_by_its_address_and_left_out_on_demand(tmp_path, column, value, sentence):
    header = "who,what,when,hit,seconds,stars,slot,born"
    good = {
        "who": "a",
        "what": "1",
        "when": SECOND,
        "hit": 1,
        "seconds": 2.5,
        "stars": 4,
        "slot": 0,
        "born": "2014-01-01",
    }
    rows = [tuple(good.values()), tuple((good | {column: value, "when": SECOND + 1}).values())]
    path = write(tmp_path / "l.csv", rows * 2, header)
    columns = COLUMNS + ",click=hit,watch=seconds,rating=stars,position=slot,birth=born"
    with pytest.raises(LogError) as refusal:
        load_log(path, columns=columns)
    assert f"l.csv, line 3: {sentence}" in str(refusal.value)
    assert "--skip-bad-rows" in str(refusal.value)
    log = load_log(path, columns=columns, skip_bad_rows=True)
    assert log.skipped_rows == 2
    assert_same_rows(log, load_log(write(tmp_path / "good.csv", rows[:1] * 2, header), columns=columns))


def test_a_row_with_too_many_fields_is_refused_even_behind_columns_that_are_not_read(tmp_path):
    path = write(tmp_path / "l.csv", [(*ROWS[0], 1), (*ROWS[1], 2, 3)], "who,what,when,more")
    with pytest.raises(LogError, match=r"l.csv, line 3: the row has more than its 4 columns"):
        load_log(path, columns=COLUMNS)
    assert len(load_log(path, columns=COLUMNS, skip_bad_rows=True)) == 1


def test_the_first_fault_of_several_files_is_named_by_its_own_file(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in range(3):
        write(folder / f"{number}.csv", [(*ROWS[0][:2], "soon" if number else SECOND)] * 2)
    with pytest.raises(LogError, match=r"^1.csv, line 2: column 'when' is 'soon'"):
        load_log(str(folder), columns=COLUMNS)
    assert load_log(str(folder), columns=COLUMNS, skip_bad_rows=True).skipped_rows == 4
    for number in range(3):
        when = [None, SECOND] if number == 1 else [SECOND, SECOND]
        pl.DataFrame({"who": "a", "what": "b", "when": when}).write_parquet(folder / f"{number}.parquet")
        (folder / f"{number}.csv").unlink()
    with pytest.raises(LogError, match=r"^1.parquet, row 1: column 'when' is empty"):
        load_log(str(folder), columns=COLUMNS)


def test_a_letter_in_another_encoding_is_refused_by_its_address(tmp_path):
    path = tmp_path / "l.csv"
    for quote in ("", '"'):
        utf8 = f"who,what,when\n{quote}é{quote},1,{SECOND}\n".encode()
        path.write_bytes(utf8 + f"ü,1,{SECOND}\n".encode("latin-1"))
        with pytest.raises(
            LogError, match=r"l.csv, line 3: column 'who' is '.', which is not UTF-8: save the whole file"
        ):
            load_log(str(path), columns=COLUMNS)
        log = load_log(str(path), columns=COLUMNS, skip_bad_rows=True)
        assert log.users.user_ids.tolist() == ["é"] and log.skipped_rows == 1
    path.write_text("who,what,when\n", encoding="utf-16")
    with pytest.raises(LogError, match=r"l.csv is text in UTF-16; save it as UTF-8"):
        load_log(str(path), columns=COLUMNS)


def frame() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "who": [7, 7, 12],
            "what": ["a", "b", "a"],
            "when": pl.from_epoch(pl.Series([SECOND, SECOND + 9, SECOND])),
            "hit": [True, False, True],
            "stars": pl.Series([1.5, None, 3], dtype=pl.Float32),
            "slot": pl.Series([0, 1, 0], dtype=pl.UInt8),
        }
    )


PARQUET_COLUMNS = COLUMNS + ",click=hit,rating=stars,position=slot"


@pytest.mark.parametrize(
    "when",
    [
        pl.col("when"),
        pl.col("when").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo"),
        pl.col("when").cast(pl.Datetime("ns")),
        pl.col("when").dt.epoch("s"),
        pl.col("when").dt.epoch("ms").cast(pl.Float64),
        pl.col("when").dt.to_string("iso"),
    ],
)
def test_parquet_columns_of_every_type_make_the_same_log(tmp_path, when):
    frame().with_columns(when.alias("when")).write_parquet(tmp_path / "l.parquet")
    log = load_log(str(tmp_path / "l.parquet"), columns=PARQUET_COLUMNS)
    assert log.users.user_ids.tolist() == ["7", "12"]
    assert_array_equal(log.user, [0, 0, 1])
    assert_array_equal(log.item, [0, 1, 0])
    assert_array_equal(log.timestamp, [SECOND, SECOND + 9, SECOND])
    assert_array_equal(log.clicked, [True, False, True])
    assert_array_equal(log.rating, np.float32([1.5, np.nan, 3]))
    assert_array_equal(log.position, [0, 1, 0])


def test_parts_of_a_folder_follow_each_other_by_name(tmp_path):
    whole = frame().vstack(frame().with_columns(pl.col("what") + "2"))
    whole.write_parquet(tmp_path / "whole.parquet")
    expected = load_log(str(tmp_path / "whole.parquet"), columns=PARQUET_COLUMNS)
    for kind in ("parquet", "csv"):
        folder = tmp_path / kind
        folder.mkdir()
        for number, part in enumerate((whole[:4], whole[4:])):
            getattr(part.with_columns(pl.col("when").dt.epoch("s")), f"write_{kind}")(folder / f"part-{number}.{kind}")
        assert_same_rows(load_log(str(folder), columns=PARQUET_COLUMNS), expected)
    (tmp_path / "csv" / "more.parquet").write_bytes(b"")
    with pytest.raises(LogError, match=r"holds part-0.csv and more.parquet; give the path of one"):
        load_log(str(tmp_path / "csv"), columns=PARQUET_COLUMNS)


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("stars", float("nan"), "row 2: column 'stars' is 'nan', which is outside"),
        ("who", None, "row 2: column 'who' is empty."),
        ("slot", 40_000, "row 2: column 'slot' is '40000', which is outside 0 to 32000."),
        ("when", None, "row 2: column 'when' is empty."),
    ],
)
def test_a_bad_value_in_parquet_is_refused_by_its_row(tmp_path, column, value, sentence):
    base = frame().with_columns(pl.col("slot").cast(pl.Int64))
    values = base[column].to_list()
    values[1] = value
    base.with_columns(pl.Series(column, values, base[column].dtype)).write_parquet(tmp_path / "l.parquet")
    with pytest.raises(LogError) as refusal:
        load_log(str(tmp_path / "l.parquet"), columns=PARQUET_COLUMNS)
    assert f"l.parquet, {sentence}" in str(refusal.value)
    log = load_log(str(tmp_path / "l.parquet"), columns=PARQUET_COLUMNS, skip_bad_rows=True)
    assert log.skipped_rows == 1 and len(log) == 2


def test_a_damaged_parquet_file_is_refused(tmp_path):
    path = tmp_path / "l.parquet"
    frame().write_parquet(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-1], b"", b"who,what,when\n"):
        path.write_bytes(content)
        with pytest.raises(LogError) as refusal:
            load_log(str(path), columns=PARQUET_COLUMNS, skip_bad_rows=True)
        assert "l.parquet cannot be read as Parquet" in str(refusal.value)
        assert "damaged or cut short" in str(refusal.value) and "\n" not in str(refusal.value)
    # the end is whole, but what is before it is not
    path.write_bytes(whole[:4] + bytes(len(whole) // 3) + whole[4 + len(whole) // 3 :])
    with pytest.raises(LogError, match=r"l.parquet cannot be read as Parquet"):
        load_log(str(path), columns=PARQUET_COLUMNS)


def test_a_parquet_column_of_the_wrong_type_or_missing_is_refused(tmp_path):
    path = tmp_path / "l.parquet"
    frame().with_columns(stars=pl.concat_list("slot")).write_parquet(path)
    with pytest.raises(
        LogError, match=r"l.parquet: column 'stars' holds values of type List\(UInt8\); it must be a number"
    ):
        load_log(str(path), columns=PARQUET_COLUMNS)
    with pytest.raises(LogError, match=r"l.parquet: column 'page' is missing \(the file has who, what, when, hit"):
        load_log(str(path), columns=COLUMNS + ",request=page")


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ("user=a,item=b", "--columns names no time; give at least user=..., item=..., time=..."),
        (
            "user=a,item=b,time=c,price=d",
            "there is no key 'price'; known are user, item, time, rating, click, watch, request",
        ),
        ("user=a,item=b,time", "'time' is not KEY=COLUMN"),
        ("user=a,item=b,time=", "'time=' is not KEY=COLUMN"),
        ("user=a,user=b,item=c,time=d", "key 'user' is given twice"),
        ("user=a,item=a,time=c", "column 'a' is given twice"),
        ("", "'' is not KEY=COLUMN"),
    ],
)
def test_columns_that_cannot_be_understood_are_refused(tmp_path, columns, sentence):
    with pytest.raises(ConfigurationError) as refusal:
        load_log(write(tmp_path / "l.csv"), columns=columns)
    assert sentence in str(refusal.value)


def test_a_missing_column_is_refused_with_the_names_there_are(tmp_path):
    with pytest.raises(LogError) as refusal:
        load_log(write(tmp_path / "l.csv"), columns="user=who,item=movieId,time=when", skip_bad_rows=True)
    assert "l.csv, line 1: column 'movieId' is missing (the file has who, what, when)" in str(refusal.value)
    with pytest.raises(ConfigurationError, match="--columns is for a table of your own; 'ml-100k' has columns"):
        load_log("ml-100k", columns=COLUMNS)
    (tmp_path / "log.xlsx").write_bytes(b"x")
    with pytest.raises(LogError, match=r"log.xlsx' is no file that --columns can read; it must end in .csv, .tsv"):
        load_log(str(tmp_path / "log.xlsx"), columns=COLUMNS)


rows_of_any_order = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.integers(0, 5),
        st.integers(SECOND, SECOND + 3),
        st.booleans(),
        st.one_of(st.none(), st.floats(-5, 5, width=32)),
        st.one_of(st.none(), st.integers(0, 100)),
    ),
    min_size=1,
    max_size=30,
)


@given(rows=rows_of_any_order, kind=st.sampled_from(["csv", "tsv", "parquet"]), in_ms=st.booleans())
def test_what_is_written_is_read_as_if_made_in_memory(tmp_path_factory, rows, kind, in_ms):
    table = pl.DataFrame(rows, ["u", "i", "t", "c", "r", "w"], orient="row", infer_schema_length=None)
    table = table.cast({"r": pl.Float32, "w": pl.Float32})
    users, user = np.unique(table["u"].to_numpy(), return_inverse=True)
    items, item = np.unique(table["i"].to_numpy(), return_inverse=True)
    timestamp = table["t"].to_numpy()
    birth = np.array([timestamp.min() for _ in items])
    expected = InteractionLog.from_rows(
        name="log",
        users=Users(user_ids=users.astype(str), feature_names=(), features=np.zeros((len(users), 0), np.float32)),
        catalogue=Catalogue(
            item_ids=items.astype(str),
            titles=np.full(len(items), ""),
            category_names=(),
            categories=np.zeros((len(items), 0), np.float32),
            birth=birth,
        ),
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        timestamp=timestamp,
        clicked=table["c"].to_numpy(),
        rating=table["r"].fill_null(np.nan).to_numpy(),
        position=np.zeros(len(rows), np.int16),
        watch_seconds=table["w"].fill_null(np.nan).to_numpy(),
    )
    path = tmp_path_factory.mktemp("log") / f"log.{kind}"
    written = table.with_columns(pl.col("t") * 1000 if in_ms else pl.col("t"))
    if kind == "parquet":
        written.write_parquet(path)
    else:
        written.write_csv(path, separator="\t" if kind == "tsv" else ",")
    log = load_log(str(path), columns="user=u,item=i,time=t,click=c,rating=r,watch=w")
    for column in ("user", "item", "timestamp", "clicked", "rating", "position", "watch_seconds"):
        assert_array_equal(getattr(log, column), getattr(expected, column), err_msg=column)
    assert_array_equal(log.request, np.arange(len(rows)))
    assert_array_equal(log.users.user_ids, expected.users.user_ids)
    assert_array_equal(log.catalogue.item_ids, expected.catalogue.item_ids)
    assert_array_equal(log.catalogue.birth, expected.catalogue.birth)
    assert log.has_repeats == expected.has_repeats
