import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from envs import artefacts
from envs.artefacts import content_hash, load_arrays, load_json, save_arrays, save_json, written_whole
from envs.errors import ArtefactError, ConfigurationError

ARRAYS = {"weights": np.arange(1000, dtype=np.float32).reshape(10, 100), "names": np.array(["a", "é"])}


def test_arrays_and_configuration_come_back_as_they_were(tmp_path):
    path = tmp_path / "deep" / "model.npz"
    save_arrays(path, "Model", ARRAYS, {"rate": 0.5, "layers": [1, 2]})
    arrays, configuration = load_arrays(path, "Model")
    assert configuration == {"rate": 0.5, "layers": [1, 2]}
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.json"
    save_json(path, {"run": 1})
    with pytest.raises(RuntimeError), written_whole(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert load_json(path) == {"run": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.json"
    save_json(path, {"run": 1})
    program = (
        "import sys, time; from pathlib import Path; from envs.artefacts import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); print('writing', flush=True); time.sleep(60)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert load_json(path) == {"run": 1}
    save_json(path, {"run": 2})  # what the killed writer left does not stand in the way
    assert load_json(path) == {"run": 2}


@pytest.mark.parametrize("size", [0, 1, 100, 2000, -1])
def test_a_file_cut_short_is_refused_by_name(tmp_path, size):
    path = tmp_path / "model.npz"
    save_arrays(path, "Model", ARRAYS, {})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ArtefactError, match=r"model\.npz' is damaged"):
        load_arrays(path, "Model")


def test_a_flipped_bit_is_refused(tmp_path):
    path = tmp_path / "model.npz"
    save_arrays(path, "Model", ARRAYS, {})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match=r"model\.npz' is damaged"):
        load_arrays(path, "Model")


def test_foreign_files_are_refused(tmp_path):
    text, plain, pickled, array = (tmp_path / name for name in ("a.npz", "b.npz", "c.npz", "d.npz"))
    text.write_text("hello")
    with plain.open("wb") as stream:
        np.savez(stream, weights=np.zeros(3))
    with pickled.open("wb") as stream:
        np.savez(stream, weights=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with array.open("wb") as stream:
        np.save(stream, np.zeros(3))
    for path in (text, plain, pickled, array):
        with pytest.raises(ArtefactError, match=path.name):
            load_arrays(path, "Model")


@pytest.mark.parametrize("header", ["[]", "3", '"text"', '{"kind": "Model", "format_version": 1}'])
def test_a_header_of_another_shape_is_refused(tmp_path, header):
    path = tmp_path / "model.npz"
    with path.open("wb") as stream:
        np.savez(stream, __header__=np.frombuffer(header.encode(), np.uint8))
    with pytest.raises(ArtefactError, match=r"model\.npz"):
        load_arrays(path, "Model")


def test_another_kind_and_another_version_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    save_arrays(path, "Index", ARRAYS, {})
    with pytest.raises(ArtefactError, match="holds a 'Index', not a 'Model'"):
        load_arrays(path, "Model")
    monkeypatch.setattr(artefacts, "FORMAT_VERSION", artefacts.FORMAT_VERSION + 1)
    with pytest.raises(ArtefactError, match="format version 1, this is 2"):
        load_arrays(path, "Index")


def test_missing_and_broken_json_is_refused(tmp_path):
    with pytest.raises(ArtefactError, match="does not exist"):
        load_json(tmp_path / "none.json")
    with pytest.raises(ArtefactError, match="does not exist"):
        load_arrays(tmp_path / "none.npz", "Model")
    (tmp_path / "bad.json").write_text(json.dumps({"a": 1})[:-1])
    with pytest.raises(ArtefactError, match=r"bad\.json' is not valid JSON"):
        load_json(tmp_path / "bad.json")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="file' cannot be written"):
        save_json(tmp_path / "file" / "table.json", {})


def test_content_hash_sees_values_types_shapes_names_and_configuration():
    array = np.arange(6, dtype=np.int64)
    variants = [
        ({"a": array}, {}),
        ({"a": array + 1}, {}),
        ({"a": array.astype(np.int32)}, {}),
        ({"a": array.reshape(2, 3)}, {}),
        ({"b": array}, {}),
        ({"a": array}, {"seed": 1}),
        ({"a": np.array(["x", "y"])}, {}),
    ]
    assert len({content_hash(*variant) for variant in variants}) == len(variants)
    assert content_hash({"a": array, "b": array}, {"x": 1, "y": 2}) == content_hash(
        {"b": array.copy(), "a": array[::1]}, {"y": 2, "x": 1}
    )
