import numpy as np
import pytest
from numpy.testing import assert_array_equal

from agents.rankers.checkpoints import Header, load_checkpoint, save_checkpoint
from envs.errors import ArtefactError


def test_what_is_saved_comes_back(tmp_path):
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.array([True, False])}
    save_checkpoint(tmp_path / "x", Header(kind="k", catalogue="c", content={"n": 3}), arrays)
    header, read = load_checkpoint(tmp_path / "x", "k")
    assert header == Header(kind="k", catalogue="c", content={"n": 3})
    for name, array in arrays.items():
        assert_array_equal(read[name], array)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_missing_damaged_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(ArtefactError, match="does not exist"):
        load_checkpoint(tmp_path / "none", "k")
    (tmp_path / "text").write_text("nothing of the kind")
    with pytest.raises(ArtefactError, match="damaged"):
        load_checkpoint(tmp_path / "text", "k")
    save_checkpoint(tmp_path / "x", Header(kind="k", catalogue="c", content={}), {"a": np.arange(999)})
    with pytest.raises(ArtefactError, match="holds a 'k'"):
        load_checkpoint(tmp_path / "x", "other")
    (tmp_path / "short").write_bytes((tmp_path / "x").read_bytes()[:-50])
    with pytest.raises(ArtefactError, match="damaged"):
        load_checkpoint(tmp_path / "short", "k")


def test_a_fingerprint_tells_items_and_categories_but_not_births(shown_log):
    catalogue = shown_log.catalogue
    assert catalogue.fingerprint == catalogue.with_birth(catalogue.birth + 1).fingerprint
    assert catalogue.fingerprint != catalogue.with_offspring(np.array([0])).fingerprint
