import errno
import io
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from rich.console import Console
from small_models import small_log, small_models

import agents.updates.registry
from agents.rankers.log_history import LogHistory
from agents.updates.models import ServedModels
from agents.updates.registry import ModelRegistry
from envs.errors import ArtefactError, ConfigurationError

LOG = small_log()
EARLY, LATE = LOG.where(LOG.place < 150), LOG.where(LOG.place >= 150)
BATCH = LogHistory(LOG, 20).inputs(np.arange(60), np.tile(np.arange(60, dtype=np.int32), (60, 1)))


def told(models: ServedModels) -> list[np.ndarray]:
    """All that models say, to be compared to the bit."""
    recall = models.recall
    return [models.score(BATCH), recall.item_vectors_, recall.user_vectors_, models.counts_]


def same(first: ServedModels, second: ServedModels) -> bool:
    together = zip(told(first), told(second), strict=True)
    return first.version == second.version and all(np.array_equal(a, b) for a, b in together)


@pytest.fixture(params=["folder", "memory"])
def registry(request, tmp_path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "registry" if request.param == "folder" else None)


def three_versions(registry: ModelRegistry) -> list[ServedModels]:
    """Versions 1, 2 (serves) and 3, each made from the one before; copies of their models."""
    models, copies = small_models(EARLY), []
    for number in (1, 2, 3):
        if number > 1:
            models.update_ranker(LATE.where(LATE.user % 3 == number - 1))
        version = registry.add(models, made_by="fit" if number == 1 else "update ranker", metrics={"ndcg": number / 10})
        assert version.number == number
        copies.append(ServedModels.of(models.snapshot()))
        if number < 3:
            registry.promote(number)
    return copies


def test_every_version_comes_back_to_the_bit_and_learns_on_alike(registry):
    copies = three_versions(registry)
    for number, copy in enumerate(copies, start=1):
        assert same(registry.load(number), copy)
    loaded = registry.load(2)
    loaded.update(LATE.where(LATE.user % 3 == 0))
    copies[1].update(LATE.where(LATE.user % 3 == 0))
    assert same(loaded, copies[1])
    assert not same(loaded, registry.load(2))  # what was loaded belongs to the caller


def test_the_pointer_moves_and_rolls_back(registry):
    assert registry.serving is None
    with pytest.raises(ConfigurationError, match="promote"):
        registry.load_serving()
    copies = three_versions(registry)
    assert registry.serving.number == 2 and registry.served == (1, 2)
    registry.promote(3)
    assert same(registry.load_serving().models, copies[2])
    assert registry.roll_back().number == 2
    assert registry.roll_back().number == 1
    with pytest.raises(ConfigurationError, match="roll back"):
        registry.roll_back()
    assert same(registry.load_serving().models, copies[0])
    assert registry.roll_back(to=3).number == 3 and registry.serving.number == 3
    with pytest.raises(ArtefactError, match="version 9"):
        registry.promote(9)
    with pytest.raises(ConfigurationError, match="version 9 is no parent"):
        registry.add(small_models(EARLY), parents=[9])
    assert registry.serving.number == 3


def test_history_tells_windows_parents_costs_and_metrics(registry):
    three_versions(registry)
    table = registry.history()
    assert table["version"].to_list() == [1, 2, 3]
    assert table["parents"].to_list() == [[], [1], [2]]
    assert table["models"].to_list() == ["0.0", "0.1", "0.2"]
    assert table["ndcg"].to_list() == [0.1, 0.2, 0.3]
    assert table["is_serving"].to_list() == [False, True, False]
    assert table["last_event"].dt.epoch("s")[0] == EARLY.timestamp.max()
    assert table["last_event"].dt.epoch("s")[2] == max(EARLY.timestamp.max(), LATE.timestamp[LATE.user % 3 > 0].max())
    assert (table["work"] > 0).all() and table["configuration"].n_unique() == 1
    console = Console(file=io.StringIO(), width=100)
    console.print(registry.tree())
    lines = console.file.getvalue().splitlines()
    assert "2: models 0.1, update ranker, ndcg 0.2 serves" in lines[2]
    assert lines[3].index("3:") > lines[2].index("2:")  # under its parent


def test_an_empty_registry_has_an_empty_history(registry):
    assert len(registry.history()) == 0 and registry.versions() == []


def test_old_versions_go_but_never_what_serves_its_parents_or_the_one_before(tmp_path):
    for registry in (ModelRegistry(tmp_path, keep=1), ModelRegistry(keep=1)):
        three_versions(registry)
        models = small_models(EARLY)
        for _ in range(3):
            registry.add(models)
        kept = [version.number for version in registry.versions() if version.is_kept]
        assert kept == [1, 2, 6]  # the parent of what serves, what serves, the newest
        registry.load_serving()
        registry.promote(6)
        assert registry.roll_back().number == 2
        with pytest.raises(ArtefactError, match="no models of version 4"):
            registry.promote(4)
        assert registry.history()["version"].to_list() == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in (tmp_path / "versions" / "v000004").iterdir()) == ["version.json"]
    with pytest.raises(ConfigurationError, match="keep"):
        ModelRegistry(keep=0)


@pytest.mark.parametrize("file", ["ranker.safetensors", "recall.mapped", "models.npz", "version.json", None])
def test_a_corrupt_version_is_refused_by_name_and_the_one_before_serves(tmp_path, file):
    copies = three_versions(ModelRegistry(tmp_path))
    path = tmp_path / "versions" / "v000002" / (file or "ranker.safetensors")
    if file is None:
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x11  # one bit or two
        path.write_bytes(bytes(content))
    registry = ModelRegistry(tmp_path)
    with pytest.raises(ArtefactError, match=path.name.replace(".", r"\.")):
        registry.load(2)
    with pytest.raises(ArtefactError, match=r"v000002"):
        registry.promote(2)
    serving = registry.load_serving()
    assert serving.version.number == 1 and same(serving.models, copies[0])
    assert "version 2 is refused" in serving.refused[0] and path.name in serving.refused[0]
    assert same(registry.load(3), copies[2])
    assert registry.add(copies[2]).number == 4


def damage(folder: Path, number: int) -> None:
    (folder / "versions" / f"v{number:06d}" / "models.npz").write_bytes(b"")


def test_a_reader_that_falls_back_writes_nothing(tmp_path, monkeypatch):
    """So it serves where the disk is full, and undoes no promotion that comes in between."""
    writer = ModelRegistry(tmp_path)
    copies = three_versions(writer)
    damage(tmp_path, 2)
    reader = ModelRegistry(tmp_path)
    with monkeypatch.context() as patched:

        def full(*_, **__):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patched.setattr("os.replace", full)
        assert reader.load_serving().version.number == 1
    load = reader._shelf.load

    def promoted_meanwhile(number):
        if number == 2:
            writer.promote(3)
        return load(number)

    monkeypatch.setattr(reader._shelf, "load", promoted_meanwhile)
    assert reader.load_serving().version.number == 1
    assert writer.served == reader.served == (1, 2, 3)
    assert same(reader.load_serving().models, copies[2])
    assert writer.roll_back().number == 1  # past the damaged one


def test_a_roll_back_goes_behind_what_serves_in_place_of_a_damaged_version(tmp_path):
    registry = ModelRegistry(tmp_path)
    copies = three_versions(registry)
    registry.promote(3)
    damage(tmp_path, 3)
    assert registry.load_serving().version.number == 2
    assert registry.roll_back().number == 1 and same(registry.load_serving().models, copies[0])
    registry.promote(2)
    damage(tmp_path, 1)
    damage(tmp_path, 2)
    with pytest.raises(ConfigurationError, match="none to roll back to"):
        registry.roll_back()


def test_a_roll_back_stays_where_nothing_served_before_what_stands_in(tmp_path):
    registry = ModelRegistry(tmp_path)
    three_versions(registry)
    damage(tmp_path, 2)
    assert registry.roll_back().number == 1 and registry.served == (1,)


def test_a_record_alone_takes_no_room_and_no_turn(registry):
    """As of a challenger that was refused."""
    three_versions(registry)
    version = registry.add(
        small_models(EARLY), made_by="challenger, refused", parents=(), metrics={"ndcg": 0.1}, is_kept=False
    )
    assert not version.is_kept and registry.versions()[-1] == version and registry.serving.number == 2
    with pytest.raises(ArtefactError, match="no models of version 4"):
        registry.promote(4)
    assert registry.add(small_models(EARLY)).number == 5


def test_what_would_serve_in_place_of_damaged_versions_is_kept(tmp_path):
    registry = ModelRegistry(tmp_path, keep=1)
    copies = three_versions(registry)
    damage(tmp_path, 2)
    registry.promote(3)
    damage(tmp_path, 3)
    for _ in range(3):
        registry.add(copies[1])
    assert same(ModelRegistry(tmp_path).load_serving().models, copies[0])


def test_a_record_that_was_changed_is_refused_by_name(tmp_path):
    """One that still reads well: only its checksum tells."""
    copies = three_versions(ModelRegistry(tmp_path))
    path = tmp_path / "versions" / "v000002" / "version.json"
    path.write_text(path.read_text().replace('"ndcg": 0.2', '"ndcg": 0.9'))
    registry = ModelRegistry(tmp_path)
    with pytest.raises(ArtefactError, match=r"v000002/version\.json' is damaged \(its checksum is another\)"):
        registry.load(2)
    assert list(registry.damaged()) == [2]
    assert same(registry.load_serving().models, copies[0])


def test_where_nothing_is_whole_it_says_so(tmp_path):
    registry = ModelRegistry(tmp_path)
    three_versions(registry)
    for number in (1, 2):
        (tmp_path / "versions" / f"v00000{number}" / "models.npz").write_bytes(b"")
    with pytest.raises(ArtefactError, match=r"version 2 is refused.*version 1 is refused"):
        registry.load_serving()
    (tmp_path / "serving.json").write_text("{")
    with pytest.raises(ArtefactError, match=r"serving\.json"):
        ModelRegistry(tmp_path)


@pytest.mark.parametrize("call", ["os.fsync", "agents.updates.models.save_arrays", "os.rename", "os.replace"])
def test_a_full_disk_leaves_what_serves_and_no_trace(tmp_path, monkeypatch, call):
    registry = ModelRegistry(tmp_path)
    copies = three_versions(registry)
    before = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(call, full)
        with pytest.raises(ConfigurationError, match=r"No space left.*version 4 is not kept.*free some space"):
            registry.add(copies[0])
        if call == "os.replace":
            with pytest.raises(ConfigurationError, match="No space left"):
                registry.promote(3)
    for one in (registry, ModelRegistry(tmp_path)):
        assert [version.number for version in one.versions()] == [1, 2, 3]
        assert same(one.load_serving().models, copies[1])
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == before
    assert registry.add(copies[0]).number == 4


@pytest.mark.parametrize("moment", ["files", "rename", "switch"])
def test_a_kill_in_the_middle_of_a_write_leaves_the_old_version_serving(tmp_path, moment):
    registry, models = ModelRegistry(tmp_path), small_models(EARLY)
    registry.promote(registry.add(models).number)
    models.update_ranker(LATE)
    child = os.fork()
    if child == 0:
        # another process from here on, which dies where it would go on writing
        try:

            def die(*_: object) -> None:
                os.kill(os.getpid(), signal.SIGKILL)

            if moment == "files":
                agents.updates.registry._digest = die  # the files are written, their checksums are not
            elif moment == "rename":
                os.rename = die
            registry.add(models)
            os.replace = die
            registry.promote(2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    registry = ModelRegistry(tmp_path)
    serving = registry.load_serving()
    assert serving.version.number == 1 and not serving.refused
    assert same(serving.models, small_models(EARLY))
    assert len(registry.versions()) == (2 if moment == "switch" else 1)
    # what is left behind is in nobody's way, and goes after a day
    left = [path for path in (tmp_path / "versions").iterdir() if path.name.startswith(".")]
    assert len(left) == (0 if moment == "switch" else 1)
    registry.promote(registry.add(small_models(EARLY, seed=1)).number)
    for path in left:
        os.utime(path, (0, 0))
    ModelRegistry(tmp_path)
    assert not any(path.exists() for path in left)


def test_where_old_versions_cannot_be_removed_it_says_what_was_done_all_the_same(tmp_path, monkeypatch):
    registry = ModelRegistry(tmp_path, keep=1)
    copies = three_versions(registry)
    unlink = Path.unlink

    def locked(path, missing_ok=False):
        if path.parent.name == "v000003":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        unlink(path, missing_ok)

    failed = "could not remove the models of version 3.*Permission denied.*mend its permissions.*tries again"
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", locked)
        with pytest.raises(ConfigurationError, match=f"version 4 is kept and whole, but .*{failed}"):
            registry.add(copies[0])
        with pytest.raises(ConfigurationError, match=f"version 4 serves, but .*{failed}"):
            registry.promote(4)
    for one in (registry, ModelRegistry(tmp_path)):
        assert one.serving.number == 4 and same(one.load(4), copies[0])
    assert registry.add(copies[0]).number == 5
    assert [path.name for path in (tmp_path / "versions" / "v000003").iterdir()] == ["version.json"]


def test_a_second_writer_of_the_same_number_is_refused_and_replaces_nothing(tmp_path, monkeypatch):
    first, second = ModelRegistry(tmp_path), ModelRegistry(tmp_path)
    models = small_models(EARLY)
    monkeypatch.setattr(second, "versions", list)
    first.add(models)
    with pytest.raises(ConfigurationError, match="version 1 is not kept"):
        second.add(small_models(EARLY, seed=1))
    assert_array_equal(first.load(1).score(BATCH), models.score(BATCH))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        ModelRegistry(tmp_path / "file")
