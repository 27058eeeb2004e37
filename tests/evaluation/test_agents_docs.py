"""The classes and commands of docs/agents.md that lead from an empty file to a trained agent, as they stand there."""

import re
import shlex
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from agents.loading import resolve_agent
from evaluation.options import CompareOptions, parsed_options
from evaluation.runs import Run
from evaluation.training import TrainingConfig, run_comparison
from evaluation.units import named_agents

PAGE = (Path(__file__).parents[2] / "docs" / "agents.md").read_text(encoding="utf-8")
REQUESTS = 2_048


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the page's files are saved under the names in their first lines."""
    folder = tmp_path_factory.mktemp("newcomer")
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL):
        (folder / name).write_text(code)
    return folder


@pytest.fixture(scope="module")
def result(folder, small_world, candidate_source, small):
    """(run, comparison) of the page's agents."""
    run = Run.create(folder / "run", "compare", {})
    specs = [f"{folder}/freshest.py:Freshest", f"{folder}/evolved.py:Evolved", "mf"]
    training = TrainingConfig(requests=REQUESTS, seeds=(0, 1))
    return run, run_comparison(specs, small_world, candidate_source, run, comparison=small, training=training)


def test_the_trained_agent_is_in_the_comparison_beside_its_beginnings(result):
    summary = result[1].summary().filter((pl.col("metric") == "reward") & pl.col("versus").is_null())
    roles = dict(summary.select("agent", "role").iter_rows())
    assert roles == {"Freshest": "baseline", "evolved": "learner", "evolved (initial)": "initial", "mf": "baseline"}
    assert dict(summary.select("agent", "num_seeds").iter_rows())["evolved"] == 2


def test_it_learns_within_its_budget_and_leaves_a_curve(result, folder):
    run, _ = result
    kind = resolve_agent(f"{folder}/evolved.py:Evolved")
    learnt = [kind.load(run.agent_path(f"evolved-seed{seed}")).weights_ for seed in (0, 1)]
    for weights in learnt:
        assert np.abs(weights - np.array([1, 0, 0, 0])).max() > 0.05
    assert not np.array_equal(*learnt)
    for seed in (0, 1):
        spent = run.table(f"spent/evolved-seed{seed}")["training_requests"].item()
        assert REQUESTS / 2 < spent <= REQUESTS
        curve = run.table(f"learning/evolved-seed{seed}")
        assert len(curve) >= 4 and curve["requests"].max() == spent


def test_its_beginnings_serve_by_the_order_of_recall(result):
    users = result[1].users
    rewards = {
        name: users.filter(pl.col("agent") == name).sort("user")["reward"] for name in ("mf", "evolved (initial)")
    }
    first = rewards["evolved (initial)"].gather_every(2)
    assert len(first) == len(rewards["mf"]) and first.to_list() == rewards["mf"].to_list()


def test_the_page_s_commands_are_understood(folder, monkeypatch):
    monkeypatch.chdir(folder)
    commands = re.findall(r"^    python simulate\.py (--.*)$", PAGE, re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        options = parsed_options(CompareOptions, shlex.split(command), "compare")
        assert {"mf", "constant"} < set(named_agents(options.specs()))
