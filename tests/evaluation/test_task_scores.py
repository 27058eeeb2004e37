import json
import re
from pathlib import Path

import polars as pl
import pytest

import envs
from benchmarks import task_scores
from benchmarks.task_scores import figures_of, main, markdown, scored
from envs.errors import ConfigurationError
from envs.tasks import TASKS
from evaluation.remade import remade
from evaluation.runs import Run

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
NAME = "Satiation-Small-v1"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, scores) of two agents that are quick."""
    folder = tmp_path_factory.mktemp("scores")
    return folder, scored(TASKS[NAME], ["random", "mf"], 1, folder, events=True)


def test_scores_are_those_of_all_evaluation_users(made):
    folder, table = made
    lives = Run.open(folder / NAME).table("users")
    for agent in ("random", "mf"):
        own = lives.filter(pl.col("agent") == agent)
        row = table.filter((pl.col("agent") == agent) & (pl.col("metric") == "reward")).row(0, named=True)
        assert row["value"] == pytest.approx(own["reward"].mean()) and row["low"] < row["value"] < row["high"]
        assert sorted(own["user"]) == sorted(TASKS[NAME].users("evaluation"))


def test_a_run_of_scores_goes_on_and_others_are_refused(made, monkeypatch):
    folder, table = made
    monkeypatch.setattr("evaluation.training.do_unit", lambda *given: pytest.fail("was done already"))
    assert scored(TASKS[NAME], ["random", "mf"], 1, folder, events=True).equals(table)
    with pytest.raises(ConfigurationError, match="begun with seeds = 1, not 2"):
        scored(TASKS[NAME], ["random", "mf"], 2, folder, events=True)


def test_a_run_of_scores_can_be_made_again_for_export(made):
    again = remade(Run.open(made[0] / NAME))
    assert again.task is TASKS[NAME] and again.world is TASKS[NAME].make_world()
    assert again.comparison.serving.num_candidates == 20


def test_figures_and_table_tell_the_scores(made):
    figures = figures_of({NAME: made[1]})
    value = made[1].filter((pl.col("agent") == "mf") & (pl.col("metric") == "reward"))["value"].item()
    assert figures[f"reward_{NAME}_mf"] == value and figures[f"users_{NAME}"] == 300
    lines = markdown(figures).splitlines()
    assert lines[0] == f"| agent | {NAME} |" and [line.split("`")[1] for line in lines[2:]] == ["random", "mf"]
    assert f"{value:.2f} [" in lines[3]


def test_wrong_names_end_with_one_sentence(capsys, tmp_path):
    assert main(["--tasks", "Satiation-v9", "--out", str(tmp_path)]) == 2
    assert "did you mean 'Satiation-v1'" in capsys.readouterr().err
    assert main(["--tasks", NAME, "--agents", "nobody", "--out", str(tmp_path)]) == 2
    assert "there is no agent 'nobody'" in capsys.readouterr().err


def test_the_page_has_the_recorded_scores_of_every_task():
    figures = json.loads((ROOT / "results" / "reference" / "task_scores.json").read_text())
    assert markdown(figures) in PAGE
    assert all(f"reward_{name}_{agent}" in figures for name in TASKS for agent in task_scores.AGENTS)


def test_the_page_lists_every_task_as_it_is():
    rows = re.findall(r"^\| `driftrec/(\S+)` \| .* \| (\d+) \| (\d+) \| (\d+) out of (\d+) \|", PAGE, re.MULTILINE)
    assert [row[0] for row in rows] == list(envs.TASK_NAMES)
    for name, users, days, slate, candidates in rows:
        task = TASKS[name]
        config = (task.world.config.days, task.slate_size, task.num_candidates)
        assert config == (int(days), int(slate), int(candidates))
        if name.startswith("Satiation"):
            assert len(task.users("all")) == int(users)


def test_the_page_s_snippets_run():
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(code, names)
    assert names["rows"].shape[0] == 64 and names["reward"].shape == (64,)
