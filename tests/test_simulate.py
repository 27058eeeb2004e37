"""The script: its subcommands on the synthetic log, and one sentence with exit code 2 for every wrong input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import simulate
from agents import agent_names
from envs.event_log import EventLog
from envs.logs import load_log
from envs.logs.schema import InteractionLog
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.users.fit import FitConfig
from envs.users.resampling import drawn_users
from evaluation.options import CompareOptions, chosen_command, parsed_options
from evaluation.runs import Run
from recall import EmbeddingRecall, MergedRecall

ROOT = Path(simulate.__file__).parent
SMALL = [
    "--dataset",
    "synthetic",
    "--fast",
    "--users",
    "12",
    "--days",
    "4",
    "--requests",
    "512",
    "--jobs",
    "1",
    "--no-references",
]
HEURISTICS = ["--agents", "random,popular,mf", "--update-seeds", "0"]
LOG = SyntheticConfig(num_users=60, num_items=200, events_per_user=20)
"""The synthetic log of the file's tests: the default one takes half a minute to fit."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # one cache for all tests of the file: the fit of the synthetic log is made once
    monkeypatch.setenv("DRIFTREC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))

    def load(dataset: str, *, seed: int, **how: Any) -> InteractionLog:
        return generate_log(LOG, seed)[0] if dataset == "synthetic" else load_log(dataset, seed=seed, **how)

    monkeypatch.setattr(simulate, "load_log", load)


@pytest.fixture
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    # drawing takes longer than all else of a small run; other tests look at what is drawn
    monkeypatch.setattr(simulate, "save_figures", lambda run: [])


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence that a wrong command ends with."""
    assert simulate.main(list(arguments)) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return told


def test_compare_leaves_a_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert (
        simulate.main([*SMALL, "--agents", "random,popular,mf,constant", "--update-seeds", "1", "--out", str(out)]) == 0
    )
    figures = json.loads((out / "compare.json").read_text())
    printed = capsys.readouterr().out
    for name in ("nll_evolving", "nll_popularity", "nll_static", "reward_mf", "updates_engagement_never"):
        assert f"\n{name}: " in printed and isinstance(figures[name], float)
    assert (out / "config.json").exists() and (out / "versions.json").exists()
    assert {path.stem for path in (out / "plots").glob("*.png")} >= {"comparison", "tradeoff", "interest", "updates"}
    assert (out / "events" / "mf-seed0.parquet").exists()
    assert not list(out.rglob(".*")), "a temporary file was left behind"


def test_recall_is_made_of_the_channels_that_are_named() -> None:
    default, named = CompareOptions(), CompareOptions(recall="als=0.6,popular=0.4", seed=5)
    assert isinstance(default.recall_stage(), EmbeddingRecall)
    stage = named.recall_stage()
    assert isinstance(stage, MergedRecall) and stage.quotas == {"als": 0.6, "popular": 0.4}
    assert all(channel.seed == 5 for channel in stage.channels)


@pytest.mark.usefixtures("_no_plots")
def test_policies_choose_among_what_the_named_channels_recall(tmp_path: Path) -> None:
    popular, items = tmp_path / "popular", {}
    for folder, recall in ((popular, ["--recall", "popular=1"]), (tmp_path / "default", [])):
        assert simulate.main([*SMALL, *HEURISTICS, *recall, "--out", str(folder)]) == 0
        slates = EventLog.read(Run.open(folder).events_path("random-seed0")).table["slate"]
        items[folder.name] = len(slates.combine_chunks().flatten().unique())
    assert Run.open(popular).config["recall"] == "popular=1"
    figures = Run.open(popular).figures()
    assert figures["recall_share_popular"] == 1 and figures["recall_adds_popular"] == figures["recall_merged"]
    assert "recall_merged" not in Run.open(tmp_path / "default").figures()
    assert items["popular"] < items["default"], "all users are offered the same popular items"


@pytest.mark.usefixtures("_no_plots")
def test_an_aa_comparison_shows_no_difference(tmp_path: Path) -> None:
    twin = tmp_path / "twin.py"
    twin.write_text(
        "from agents.heuristics import MatrixFactorisation\n\nclass Twin(MatrixFactorisation):\n    name = 'twin'\n"
    )
    out = tmp_path / "run"
    arguments = ["--agents", f"random,mf,{twin}:Twin", "--update-seeds", "0", "--out", str(out)]
    assert simulate.main([*SMALL, *arguments]) == 0
    figures = json.loads((out / "compare.json").read_text())
    assert figures["reward_twin_minus_mf"] == figures["reward_twin_minus_mf_low"] == 0
    assert figures["reward_random_minus_mf"] != 0


@pytest.mark.usefixtures("_no_plots")
def test_the_same_seed_gives_the_same_figures(tmp_path: Path) -> None:
    runs = []
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert simulate.main([*SMALL, *HEURISTICS, "--seed", seed, "--out", str(tmp_path / name)]) == 0
        figures = json.loads((tmp_path / name / "compare.json").read_text())
        runs.append({key: value for key, value in figures.items() if "reward" in key})
    assert runs[0] == runs[1] != runs[2]


def test_a_moving_world_of_drawn_users_is_compared(tmp_path: Path) -> None:
    winter = tmp_path / "winter.py"
    winter.write_text(
        "import numpy as np\nfrom envs.modifiers import Modifier\n\n\nclass Winter(Modifier):\n"
        "    def weights(self, scene, moment):\n"
        "        return np.full((len(moment.user), len(scene.category_names)), -moment.day.mean() / 9)\n"
    )
    out = tmp_path / "run"
    moving = ["--drawn-users", "50", "--arrivals-per-day", "2", "--births-per-day", "2", "--retire-after-days", "20"]
    arguments = [*moving, "--modifiers", f"season,{winter}:Winter", "--agents", "random,popular,mf"]
    assert simulate.main([*SMALL, *arguments, "--update-seeds", "1", "--out", str(out)]) == 0
    figures = json.loads((out / "compare.json").read_text())
    assert figures["num_users"] == 12 and 0 <= figures["day_1_return_mf"] <= 1
    assert figures["day_7_return_mf"] is None, "no first visit ends a week before the horizon of four days"
    assert 0 < figures["born_exposed_random"] <= 1 and figures["days_to_exposure_random"] > 0
    assert Run.open(out).table("users")["user"].min() >= LOG.num_users, "log users only teach"


def test_plot_draws_saved_runs_again_and_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        assert simulate.main([*SMALL, *HEURISTICS, "--out", str(tmp_path / name)]) == 0
    (tmp_path / "one" / "plots" / "comparison.png").unlink()
    assert simulate.main(["plot", str(tmp_path / "one")]) == 0
    assert (tmp_path / "one" / "plots" / "comparison.png").exists()
    both = ["plot", str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(tmp_path / "both")]
    assert simulate.main(both) == 0
    assert (tmp_path / "both" / "comparison.png").exists()


def test_fit_prints_both_orders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate.main(["fit", "--dataset", "synthetic", "--fast", "--out", str(tmp_path / "fit")]) == 0
    printed = capsys.readouterr().out
    for name in ("evolving", "static", "popularity"):
        assert f"\nnll_{name}: " in printed and f"\nnll_{name}_shuffled: " in printed
    assert "fitted" in printed and "assumed" in printed


@pytest.mark.usefixtures("_no_plots")
def test_options_come_from_a_file_and_the_command_line_wins(tmp_path: Path) -> None:
    (tmp_path / "options.toml").write_text(
        'dataset = "synthetic"\nfast = true\nusers = 5\ndays = 3\nupdate-seeds = 0\n'
    )
    arguments = [
        "--config",
        str(tmp_path / "options.toml"),
        "--agents",
        "random",
        "--users",
        "7",
        "--jobs",
        "1",
        "--no-references",
    ]
    assert simulate.main([*arguments, "--out", str(tmp_path / "run")]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (config["users"], config["days"], config["dataset"]) == (7, 3, "synthetic")
    again = ["--config", str(tmp_path / "run" / "config.json"), "--jobs", "1", "--out", str(tmp_path / "again")]
    assert simulate.main(again) == 0
    assert (tmp_path / "again" / "compare.json").read_text() == (tmp_path / "run" / "compare.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupted_run_keeps_finished_agents_and_resumes(jobs: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import os, time\nfrom agents.heuristics import Popular\n\n"
        "class Slow(Popular):\n    name = 'slow'\n"
        "    def fit(self, log, training=None):\n"
        "        time.sleep(0 if os.environ.get('QUICK') else 600)\n        return super().fit(log, training)\n"
    )
    log = generate_log(replace(LOG, with_exposures=False), seed=0)[0]  # a process of its own generates larger ones
    pl.DataFrame({"user": log.user, "item": log.item, "time": log.timestamp}).write_parquet(tmp_path / "log.parquet")
    table = ["--dataset", str(tmp_path / "log.parquet"), "--columns", "user=user,item=item,time=time"]
    agents = ["--agents", f"random,popular,{slow}:Slow", "--update-seeds", "0"]
    arguments = [*table, *SMALL[2:], *agents, "--jobs", jobs]
    command = [sys.executable, "simulate.py", *arguments]
    process = subprocess.Popen(
        [*command, "--out", str(out)], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    finished = out / "tables" / "users" / "popular-seed0.parquet"
    deadline = time.monotonic() + 180
    while not finished.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group is told
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume" in told and "Traceback" not in told
    before = finished.stat().st_mtime_ns
    resumed = subprocess.run([*command, "--resume", str(out)], cwd=ROOT, env={**os.environ, "QUICK": "1"}, timeout=180)
    assert resumed.returncode == 0 and (out / "compare.json").exists()
    assert finished.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["fitt"], "fitt"),
        (["--dataset", "no/such/folder"], "no/such/folder"),
        (["fit", "--dataset", "shop.csv", "--columns", "user=a,item=b"], "--columns names no time"),
        (["fit", "--columns", "user=a,item=b,time=c"], "--columns is for a table of your own"),
        (["--agents", "mff", *SMALL], "mf"),
        (["--agents", "nowhere.py:Agent", *SMALL], "nowhere.py"),
        (["--agents", "", *SMALL], "--agents"),
        (["--days", "0", *SMALL[:3], *HEURISTICS], "days"),
        (["--training-seeds", "0"], "--training-seeds"),
        (["--jobs", "0"], "--jobs"),
        (["--recall", "alss=0.6,popular=0.4"], "did you mean 'als'"),
        (["--recall", "als=0.6,popular=0.3"], "sum to 0.9"),
        (["--recall", "als=0.6,popular"], "with shares"),
        (["--update-seeds", "-1"], "--update-seeds"),
        (["updates", "--episodes", "0"], "--episodes"),
        (["--fast", "fit"], "comes first"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
        (["--resume", "nowhere", *SMALL, *HEURISTICS], "nowhere"),
        (["plot", "nowhere"], "nowhere"),
        (["--modifiers", "sesaon", *SMALL], "did you mean 'season'"),
        (["--drawn-users", "-3", *SMALL], "drawn_users"),
    ],
)
def test_wrong_input_ends_with_one_sentence(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in _refused(capsys, *arguments)
    assert not list(tmp_path.rglob("*.json")), "something was written"


def test_an_unknown_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        simulate.main(["--no-such-option"])
    assert ended.value.code == 2 and "--no-such-option" in capsys.readouterr().err


def test_an_unknown_option_in_a_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "options.json").write_text('{"userz": 3}')
    assert "userz" in _refused(capsys, "--config", str(tmp_path / "options.json"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[1]", "list"),
        ('{"agents": ["mf", "ppo"]}', "agents"),
        ("{", "neither TOML"),
        ('{"days": 0}', "days"),
        ('{"fast": "no"}', "fast"),
    ],
)
def test_a_file_of_options_that_are_none_is_refused(
    content: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "options.json").write_text(content)
    assert told in _refused(capsys, "--config", str(tmp_path / "options.json"))


@pytest.mark.parametrize("content", ['{"seed": "x"}', '{"users": 1.5}'])
def test_a_value_of_the_wrong_type_in_a_file_is_refused(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "options.json").write_text(content)
    with pytest.raises(SystemExit) as ended:
        simulate.main(["--config", str(tmp_path / "options.json")])
    assert ended.value.code == 2 and "--" + content[2:].partition('"')[0] in capsys.readouterr().err


def test_no_option_is_needed() -> None:
    assert parsed_options(CompareOptions, [], "compare") == CompareOptions()
    assert chosen_command([], ["compare", "fit"]) == ("compare", [])


def test_help_names_every_agent(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        simulate.main(["compare", "--help"])
    told = set(re.findall(r"[\w:]+", capsys.readouterr().out))
    assert set(agent_names()) <= told


def test_references_join_a_short_list_of_agents() -> None:
    options = parsed_options(CompareOptions, ["--agents", "mmr,random"], "compare")
    assert options.specs() == ["mmr", "random", "mf", "constant", "oracle_lookahead"]
    assert parsed_options(CompareOptions, ["--agents", "mmr", "--no-references"], "compare").specs() == ["mmr"]


def test_an_agent_that_takes_no_arguments_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bare.py").write_text(
        "from agents.heuristics import Popular\n\nclass Bare(Popular):\n    name = 'bare'\n    def __init__(self):\n        pass\n"
    )
    arguments = [*SMALL, "--agents", f"{tmp_path}/bare.py:Bare", "--update-seeds", "0", "--out", str(tmp_path / "run")]
    told = _refused(capsys, *arguments)
    assert "bare" in told and "slate_size" in told


def test_an_agent_may_not_change_what_it_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cheat.py").write_text(
        "import numpy as np\nfrom agents import Agent\n\nclass Cheat(Agent):\n    name = 'cheat'\n"
        "    def act(self, observation):\n        observation.candidates.items[:] = 0\n"
    )
    arguments = [
        *SMALL,
        "--agents",
        f"{tmp_path}/cheat.py:Cheat",
        "--update-seeds",
        "0",
        "--out",
        str(tmp_path / "run"),
    ]
    assert "cheat" in _refused(capsys, *arguments)


def test_an_unwritable_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # a file in the way stands for missing permissions, which root would not notice
    (tmp_path / "file").write_text("")
    assert "file" in _refused(capsys, *SMALL, *HEURISTICS, "--out", str(tmp_path / "file" / "run"))


FAULTS = {
    "shape": "return np.zeros((len(observation), 3), int)",
    "outside": "return np.full((len(observation), self.slate_size), 10_000)",
    "twice": "return np.zeros((len(observation), self.slate_size), int)",
    "raises": "raise ValueError('no idea')",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_agent_is_refused_by_name(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "faulty.py").write_text(
        "import numpy as np\nfrom agents import Agent\n\n"
        f"class Faulty(Agent):\n    name = 'faulty'\n    def act(self, observation):\n        {FAULTS[fault]}\n"
    )
    arguments = [
        *SMALL,
        "--agents",
        f"{tmp_path}/faulty.py:Faulty",
        "--update-seeds",
        "0",
        "--out",
        str(tmp_path / "run"),
    ]
    assert "faulty" in _refused(capsys, *arguments)
    assert not (tmp_path / "run" / "compare.json").exists()


def test_a_class_without_act_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "idle.py").write_text("class Idle:\n    pass\n")
    assert "act" in _refused(capsys, *SMALL, "--agents", f"{tmp_path}/idle.py:Idle", "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_console_command_is_the_script() -> None:
    told = subprocess.run(
        [Path(sys.executable).with_name("driftrec"), "plot", "nowhere"], capture_output=True, text=True
    )
    assert told.returncode == 2 and told.stderr.startswith("error: ")


def test_worlds_of_drawn_users_know_those_and_all_that_come_from_their_population() -> None:
    log, _ = generate_log(SyntheticConfig(num_users=40, num_items=150, events_per_user=20), seed=1)
    config = FitConfig(epochs=1, embedding_size=4)
    worlds = simulate.refitted_worlds(log, CompareOptions(user_model_seeds=2, seed=3), config)
    assert list(worlds) == [1, 2]
    (one, users), (other, others) = worlds[1](), worlds[2]()
    source = drawn_users(40, 4)
    assert users.tolist() == np.flatnonzero(source == np.arange(40)).tolist() != others.tolist()
    assert one.policy_log.user.tolist() == other.policy_log.user.tolist(), "the log stays as it is"
    assert (one.user_model.item_bias != other.user_model.item_bias).any()
    drawn = CompareOptions(user_model_seeds=2, seed=3, drawn_users=5, arrivals_per_day=1, days=3)
    world, users = simulate.refitted_worlds(log, drawn, config)[1]()
    assert set(world.simulated_users) <= set(users)
