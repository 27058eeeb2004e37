import hashlib
import io
import subprocess
import urllib.error
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from envs.errors import LogError
from envs.logs import load_log, sources

U_DATA = "1\t1\t3\t881250949\n2\t1\t5\t881250950\n"
RECBOLE = {
    "recbole/dataset_example/ml-100k/ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    + U_DATA,
    "recbole/dataset_example/ml-100k/ml-100k.user": "user_id:token\tage:token\tgender:token\toccupation:token\t"
    "zip_code:token\n1\t24\tM\ttechnician\t85711\n2\t53\tF\tother\t94043\n",
    "recbole/dataset_example/ml-100k/ml-100k.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\t"
    "class:token_seq\n1\tToy Story\t1995\tComedy\n",
    "recbole-1.2.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n",
    "recbole-1.2.1.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "recbole-1.2.1.dist-info/RECORD": "",
}
GROUPLENS = {
    "ml-100k/u.data": U_DATA,
    "ml-100k/u.user": "1|24|M|technician|85711\n2|53|F|other|94043\n",
    "ml-100k/u.item": "1|Toy Story (1995)|01-Jan-1995|||0|0|0|0|0|1" + "|0" * 13 + "\n",
}


def zipped(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # without the time of day: the same bytes each time
    return buffer.getvalue()


class FakeNetwork:
    """Stands where urllib and pip meet the outside; counts what was asked of each."""

    def __init__(self, grouplens: bytes | Exception, wheel: bytes | Exception) -> None:
        self.grouplens, self.wheel = grouplens, wheel
        self.asked = {"grouplens": 0, "pip": 0}

    def urlopen(self, url: str, timeout: float):
        assert url == sources.GROUPLENS_URL and timeout <= 10
        self.asked["grouplens"] += 1
        if isinstance(self.grouplens, Exception):
            raise self.grouplens
        response = io.BytesIO(self.grouplens)
        response.headers = {"Content-Length": str(len(self.grouplens))}
        return response

    def pip_download(self, requirement: str, folder: Path) -> None:
        self.asked["pip"] += 1
        if isinstance(self.wheel, Exception):
            raise self.wheel
        (folder / "recbole-1.2.1-py3-none-any.whl").write_bytes(self.wheel)


OFFLINE = urllib.error.URLError("no route to host")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DRIFTREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "logs"


@pytest.fixture
def connect(cache, monkeypatch):
    """Puts a fake network in place whose archives are the ones that are expected."""

    def put(grouplens: bytes | Exception, wheel: bytes | Exception) -> FakeNetwork:
        network = FakeNetwork(grouplens, wheel)
        monkeypatch.setattr(sources.urllib.request, "urlopen", network.urlopen)
        monkeypatch.setattr(sources, "_pip_download", network.pip_download)
        expected = [
            replace(
                source,
                digest=hashlib.new(source.algorithm, zipped(files)).hexdigest(),
            )
            for source, files in zip(sources.SOURCES, (GROUPLENS, RECBOLE), strict=True)
        ]
        monkeypatch.setattr(sources, "SOURCES", tuple(expected))
        return network

    return put


def test_grouplens_comes_first_and_the_cache_serves_the_second_call(connect, cache):
    network = connect(zipped(GROUPLENS), zipped(RECBOLE))
    first = load_log("ml-100k")
    assert network.asked == {"grouplens": 1, "pip": 0}
    assert [file.name for file in cache.iterdir()] == ["ml-100k.zip"]
    second = load_log("ml-100k")
    assert network.asked == {"grouplens": 1, "pip": 0}
    assert len(first) == len(second) == 2 and first.name == second.name == "ml-100k"


def test_the_wheel_comes_next_and_gives_the_same_log(connect, cache):
    network = connect(OFFLINE, zipped(RECBOLE))
    from_wheel = load_log("ml-100k")
    assert network.asked == {"grouplens": 1, "pip": 1}
    load_log("ml-100k")
    assert network.asked == {"grouplens": 1, "pip": 1}
    (cache / "recbole-1.2.1-py3-none-any.whl").unlink()
    connect(zipped(GROUPLENS), OFFLINE)
    from_grouplens = load_log("ml-100k")
    np.testing.assert_array_equal(from_wheel.users.features, from_grouplens.users.features)
    np.testing.assert_array_equal(from_wheel.catalogue.birth, from_grouplens.catalogue.birth)
    np.testing.assert_array_equal(from_wheel.timestamp, from_grouplens.timestamp)


def test_an_archive_with_another_hash_is_refused_and_not_kept(connect, cache):
    connect(zipped(GROUPLENS)[:-1], zipped({**RECBOLE, "extra": ""}))
    with pytest.raises(LogError) as refusal:
        load_log("ml-100k")
    assert "its md5 is" in str(refusal.value) and "its sha256 is" in str(refusal.value)
    assert not list(cache.iterdir())


def test_a_damaged_cache_is_fetched_anew(connect, cache):
    network = connect(zipped(GROUPLENS), OFFLINE)
    load_log("ml-100k")
    archive = cache / "ml-100k.zip"
    archive.write_bytes(archive.read_bytes()[:-10])
    assert len(load_log("ml-100k")) == 2
    assert network.asked["grouplens"] == 2
    archive.write_bytes(b"damaged")
    connect(OFFLINE, OFFLINE)
    with pytest.raises(LogError, match=r"the cached '.*ml-100k\.zip' \(its md5 is"):
        load_log("ml-100k")


def test_an_interrupted_download_leaves_nothing(connect, cache, monkeypatch):
    network = connect(zipped(GROUPLENS), OFFLINE)

    class Interrupted(io.BytesIO):
        headers = {"Content-Length": "1000"}

        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise KeyboardInterrupt
            return super().read(10)

    monkeypatch.setattr(sources.urllib.request, "urlopen", lambda url, timeout: Interrupted(network.grouplens))
    with pytest.raises(KeyboardInterrupt):
        load_log("ml-100k")
    assert not list(cache.iterdir())


@pytest.mark.parametrize(
    "fault", [OFFLINE, TimeoutError("timed out"), ConnectionResetError("reset"), subprocess.TimeoutExpired("pip", 120)]
)
def test_without_network_and_cache_the_error_tells_what_was_tried_and_what_else_there_is(connect, cache, fault):
    connect(OFFLINE, fault)
    with pytest.raises(LogError) as refusal:
        load_log("ml-100k")
    for part in (
        str(cache),
        sources.GROUPLENS_URL,
        "pip download recbole==1.2.1",
        "--dataset PATH",
        "--dataset synthetic",
    ):
        assert part in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not list(cache.iterdir())


def test_nothing_is_printed_where_there_is_no_terminal(connect, capfd):
    connect(zipped(GROUPLENS), OFFLINE)
    load_log("ml-100k")
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def shelf_of_wheels(tmp_path, monkeypatch):
    """A folder that the real pip takes for its only index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_the_real_pip_fetches_the_wheel(connect, shelf_of_wheels, monkeypatch):
    pip_download = sources._pip_download
    connect(OFFLINE, OFFLINE)
    monkeypatch.setattr(sources, "_pip_download", pip_download)
    with pytest.raises(LogError, match="pip download ended with code 1: ERROR: No matching distribution found"):
        load_log("ml-100k")
    (shelf_of_wheels / "recbole-1.2.1-py3-none-any.whl").write_bytes(zipped(RECBOLE))
    assert len(load_log("ml-100k")) == 2


def test_movielens_100k_as_it_is():
    """Its licence forbids to pass it on, so it cannot lie here: where neither cache nor network has it, only the files above, which
    are written in its formats, are tested. An archive that was reached but is another one fails."""
    try:
        sources.fetch_ml_100k(progress=False)
    except LogError as error:
        if any(f"its {source.algorithm} is" in str(error) for source in sources.SOURCES):
            raise
        pytest.skip(str(error))
    log = load_log("ml-100k")
    assert (len(log), len(log.users), len(log.catalogue)) == (100_000, 943, 1_682)
    assert log.catalogue.num_categories == 19
    assert not log.has_repeats and not log.has_exposures
    last_visits = log.visit[log.user_starts[1:] - 1]
    assert int((last_visits + 1).sum()) == 2_692
    assert np.mean(last_visits == 0) == pytest.approx(0.61, abs=0.005)
    consecutive = np.diff(log.user) == 0
    assert np.mean(np.diff(log.timestamp)[consecutive] == 0) == pytest.approx(0.51, abs=0.005)
    lengths = np.diff(np.flatnonzero(np.append(log.place_in_visit, 0) == 0))
    assert np.median(lengths) == 12
    assert np.datetime64(int(log.timestamp.min()), "s").astype("datetime64[D]") == np.datetime64("1997-09-20")
    assert np.datetime64(int(log.timestamp.max()), "s").astype("datetime64[D]") == np.datetime64("1998-04-22")
    assert (log.catalogue.birth[log.item] <= log.timestamp).all()
    assert set(np.unique(log.rating)) == {1, 2, 3, 4, 5}
    toy_story = int(np.flatnonzero(log.catalogue.titles == "Toy Story")[0])
    assert log.item_counts()[toy_story] == 452
    genres = np.flatnonzero(log.catalogue.categories[toy_story])
    assert {log.catalogue.category_names[genre] for genre in genres} == {"Animation", "Children's", "Comedy"}
    assert (log.users.features[:, 1:3].sum(axis=0) == [273, 670]).all()  # women and men, as u.info counts them
