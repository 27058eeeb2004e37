import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from envs.errors import ArtefactError, ConfigurationError
from evaluation import runs
from evaluation.runs import Run

TABLE = pl.DataFrame({"agent": ["a", "b"], "reward": [1.0, 2.5]})


def test_a_run_is_read_as_it_was_written(tmp_path):
    run = Run.create(tmp_path / "run", "compare", {"seed": 3, "agents": ["mf"]})
    run.write_table("summary", TABLE)
    run.write_figures({"reward_mf": 1.5, "users": 10, "nothing": float("nan")})
    again = Run.open(tmp_path / "run")
    assert again == run and again.is_finished
    assert_frame_equal(again.table("summary"), TABLE)
    assert again.figures() == {"reward_mf": 1.5, "users": 10, "nothing": None}


def test_the_default_folder_is_named_by_subcommand_and_time_and_never_shared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = Run.create(None, "compare", {}), Run.create(None, "compare", {})
    assert first.folder.parent == Path("results") and first.folder.name.startswith("compare-2")
    assert first.folder != second.folder


def test_versions_name_the_packages_and_the_machine():
    found = runs.versions()
    assert found["python"] == sys.version.split()[0]
    assert {"driftrec", "ray", "torch", "faiss-cpu"} <= set(found["packages"])
    assert "ruff" not in found["packages"]


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere/run"])
def test_an_unwritable_folder_is_refused_before_anything_is_computed(tmp_path, place):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigurationError, match=r"folder|choose another"):
        Run.create(tmp_path / place, "compare", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_used_folder_is_refused_with_the_cure(tmp_path):
    Run.create(tmp_path / "run", "compare", {})
    with pytest.raises(ConfigurationError, match="--resume"):
        Run.create(tmp_path / "run", "compare", {})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigurationError, match="not empty"):
        Run.create(tmp_path / "mine", "compare", {})


def test_what_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(ArtefactError, match="does not exist"):
        Run.open(tmp_path / "nowhere")
    with pytest.raises(ArtefactError, match="is not a run"):
        Run.open(tmp_path)
    (tmp_path / "config.json").write_text('{"kind": "something else"}')
    with pytest.raises(ArtefactError, match="is not a run"):
        Run.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[: len(text) // 2], "not valid JSON"),
        (lambda text: text.replace('"run_version": 1', '"run_version": 99'), "run version 99"),
        (
            lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != "config"}),
            "damaged",
        ),
    ],
)
def test_a_damaged_or_foreign_configuration_is_refused_by_name(tmp_path, change, said):
    run = Run.create(tmp_path / "run", "compare", {})
    path = run.folder / "config.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(ArtefactError, match=said) as caught:
        Run.open(run.folder)
    assert "config.json" in str(caught.value)


def test_a_damaged_or_missing_table_is_refused_by_name(tmp_path):
    run = Run.create(tmp_path / "run", "compare", {})
    with pytest.raises(ArtefactError, match="has no table 'summary'"):
        run.table("summary")
    path = run.write_table("summary", TABLE)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtefactError, match=r"summary\.parquet' is damaged"):
        run.table("summary")
    with pytest.raises(ArtefactError, match="not finished"):
        run.figures()


def test_resume_wants_the_same_command(tmp_path):
    run = Run.create(tmp_path / "run", "compare", {"seed": 1, "days": 30})
    assert Run.resume(run.folder, "compare", {"seed": 1, "days": 30}) == run
    with pytest.raises(ConfigurationError, match="begun with days = 30, not 7"):
        Run.resume(run.folder, "compare", {"seed": 1, "days": 7})
    with pytest.raises(ConfigurationError, match="run of 'compare'"):
        Run.resume(run.folder, "updates", {"seed": 1, "days": 30})


def test_a_failed_write_leaves_the_old_table(tmp_path, monkeypatch):
    run = Run.create(tmp_path / "run", "compare", {})
    run.write_table("summary", TABLE)

    def half(self, path):
        path.write_bytes(b"PAR1 half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pl.DataFrame, "write_parquet", half)
    with pytest.raises(KeyboardInterrupt):
        run.write_table("summary", TABLE.head(1))
    assert_frame_equal(run.table("summary"), TABLE)
    assert [path.name for path in (run.folder / "tables").iterdir()] == ["summary.parquet"]


def test_a_process_killed_in_mid_write_leaves_no_table(tmp_path):
    """SIGKILL lets no clean-up run: the half-written file must not bear the table's name."""
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        import polars as pl
        from evaluation.runs import Run

        def half(self, path):
            path.write_bytes(b"PAR1 half")
            os.kill(os.getpid(), signal.SIGKILL)

        run = Run.create(Path(sys.argv[1]), "compare", {})
        pl.DataFrame.write_parquet = half
        run.write_table("summary", pl.DataFrame({"a": [1]}))
        """
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(runs.__file__).parent.parent)}
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path / "run")], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    run = Run.open(tmp_path / "run")
    assert not run.has_table("summary") and not run.is_finished
    run.write_table("summary", TABLE)
    assert_frame_equal(run.table("summary"), TABLE)
