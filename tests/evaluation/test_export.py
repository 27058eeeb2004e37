import os
import re
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import simulate
from envs.errors import ArtefactError, ConfigurationError
from envs.event_log import EventLog
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.world import build_world
from evaluation import export as exporting
from evaluation.export import event_logs, export_minari, export_parquet, replayed
from evaluation.options import CompareOptions
from evaluation.remade import Remade, remade
from evaluation.runs import Run
from evaluation.training import run_comparison


@pytest.fixture(scope="module")
def lived(small_world, candidate_source, small):
    return Remade(small_world, candidate_source, small, None)


@pytest.fixture(scope="module")
def run(tmp_path_factory, lived):
    """A run of two agents that kept its events."""
    run = Run.create(tmp_path_factory.mktemp("runs") / "two agents", "compare", {})
    agents = ["random", "mf", "oracle_lookahead"]
    run_comparison(agents, lived.world, lived.candidate_source, run, comparison=lived.comparison)
    return run


@pytest.fixture
def known(monkeypatch, lived):
    """The run's world is not made again."""
    monkeypatch.setattr(exporting, "remade", lambda run: lived)


def lives_of(run, agent):
    return run.table("users").filter(pl.col("agent") == agent).sort("user")


def test_rows_are_the_run_s_requests_and_rewards_add_up(run, known, tmp_path):
    made = export_parquet(run, tmp_path, ["random"])
    assert [path.name for path in made] == ["random-seed0.parquet"]
    rows = pl.read_parquet(made[0])
    lives = lives_of(run, "random")
    sums = (
        rows.group_by("user").agg(pl.col("reward", "engagement", "diversity", "freshness").sum(), pl.len()).sort("user")
    )
    assert_array_equal(sums["user"], lives["user"])
    assert_allclose(sums["reward"], lives["reward"])
    assert_array_equal(sums["len"], lives["requests"])
    for here, there in (("engagement", "clicks"), ("diversity", "diversity_sum"), ("freshness", "fresh_clicks")):
        assert_allclose(sums[here], lives[there], rtol=1e-5)
    assert_array_equal(rows.group_by("user").agg(pl.col("visit").max() + 1).sort("user")["visit"], lives["visits"])


def test_rows_tell_the_same_story_in_every_column(run, known, tmp_path, small_world):
    rows = pl.read_parquet(export_parquet(run, tmp_path, ["random"])[0])
    slates, candidates, actions = (rows[name].to_numpy() for name in ("slate", "candidates", "action"))
    assert_array_equal(np.take_along_axis(candidates, actions, axis=1), slates)
    clicked = rows["clicked_slot"].to_numpy()
    assert_array_equal(rows["item"].fill_null(-1), np.where(clicked >= 0, slates[np.arange(len(slates)), clicked], -1))
    assert rows["item_id"].is_null().to_numpy().tolist() == (clicked < 0).tolist()
    some = rows.filter(pl.col("item_id").is_not_null()).row(0, named=True)
    log = small_world.policy_log
    assert (
        log.catalogue.item_ids[some["item"]] == some["item_id"] and log.users.user_ids[some["user"]] == some["user_id"]
    )
    assert some["timestamp"] == int(small_world.reference_time + some["day"] * 86_400)
    assert (
        np.isfinite(rows["propensity"].to_numpy()).all()
        and rows["candidate_scores"].to_numpy().shape == candidates.shape
    )
    last = rows.group_by("user", maintain_order=True).last()
    assert (last["terminated"] ^ last["truncated"]).all()
    assert rows["terminated"].sum() + rows["truncated"].sum() == len(last)


def test_the_number_of_users_at_a_time_changes_nothing(run, lived):
    events = EventLog.read(event_logs(run, ["mf"])["mf-seed0"])
    one, many = ([episode for part in replayed(events, lived, "mf", block) for episode in part] for block in (7, 100))
    for left, right in zip(one, many, strict=True):
        assert left.user == right.user and len(left.observations["history"]) == len(left) + 1
        assert_array_equal(left.rewards, right.rewards)
        for name in left.observations:
            assert_array_equal(left.observations[name], right.observations[name])


@pytest.mark.parametrize("column", ["candidates", "slate", "item"])
def test_a_life_that_went_another_way_is_refused_and_nothing_written(run, lived, known, tmp_path, monkeypatch, column):
    path = event_logs(run, ["mf"])["mf-seed0"]
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[60] = 3 if column == "item" else [*values[60][:-1], min(set(range(150)) - set(values[60]))]
    changed = table.set_column(table.column_names.index(column), column, [values])
    pq.write_table(changed.cast(table.schema), tmp_path / "mf-seed0.parquet")
    monkeypatch.setattr(exporting, "event_logs", lambda run, agents: {"mf-seed0": tmp_path / "mf-seed0.parquet"})
    with pytest.raises(
        ArtefactError,
        match=r"'mf-seed0': user \d+ is offered or does something else in request \d+ than what was logged",
    ):
        export_parquet(run, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_log_that_ends_too_early_is_refused(run, lived):
    events = EventLog.read(event_logs(run, ["mf"])["mf-seed0"])
    events._tables = [events.table.slice(0, len(events) - 1)]
    with pytest.raises(ArtefactError, match="than what was logged"):
        list(replayed(events, lived, "mf"))


def test_minari_loads_what_was_exported(run, known, tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    monkeypatch.setattr(exporting, "BLOCK_USERS", 8)
    names = export_minari(run, tmp_path, ["mf"])
    assert names == ["driftrec/two_agents/mf-seed0-v0"] and "MINARI_DATASETS_PATH" not in os.environ
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    data, lives = minari.load_dataset(names[0]), lives_of(run, "mf")
    assert list(minari.list_local_datasets()) == names
    assert data.total_episodes == len(lives) and data.total_steps == lives["requests"].sum()
    for episode, life in zip(data.iterate_episodes(), lives.iter_rows(named=True), strict=True):
        assert len(episode.rewards) == life["requests"] == len(episode.observations["context"]) - 1
        assert_allclose(episode.rewards.sum(), life["reward"])
        assert episode.terminations[-1] ^ episode.truncations[-1] and not episode.terminations[:-1].any()
        assert_allclose(episode.infos["engagement"][1:, 0].sum(), life["clicks"])
        assert data.action_space.contains(episode.actions[0])
    rewards = run.table("users").group_by("agent").agg(pl.col("reward").mean())
    means = dict(rewards.iter_rows())
    assert data.storage.metadata["ref_max_score"] == pytest.approx(means["oracle_lookahead"])
    assert data.storage.metadata["ref_min_score"] == pytest.approx(means["random"])
    with pytest.raises(ConfigurationError, match=r"is in .* already"):
        export_minari(run, tmp_path, ["mf"])


def test_without_minari_it_is_told_how_to_get_it(run, known, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(
        ConfigurationError, match=r"pip install -c constraints.txt -e '.\[minari\]', or take --format parquet"
    ):
        export_minari(run, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_exports_those_that_are_named(run, known, tmp_path, capsys):
    pytest.importorskip("minari")
    assert simulate.main(["export", str(run.folder), "--agents", "mf, random", "--out", str(tmp_path)]) == 0
    made = [tmp_path / "mf-seed0.parquet", tmp_path / "random-seed0.parquet"]
    assert capsys.readouterr().out.split() == list(map(str, made)) and all(path.exists() for path in made)
    given = ["export", str(run.folder), "--format", "minari", "--agents", "mf", "--out", str(tmp_path / "minari")]
    assert simulate.main(given) == 0
    assert capsys.readouterr().out.split() == ["driftrec/two_agents/mf-seed0-v0"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{run}", "--agents", "mff"], "--agents names 'mff', .* it has mf, oracle_lookahead, random"),
        (["{run}/nowhere"], "does not exist"),
        (["{run}/tables"], "is not a run"),
        (["{other}"], "kept no events; make one that does"),
    ],
)
def test_what_cannot_be_exported_is_told(run, tmp_path, capsys, arguments, told):
    other = Run.create(tmp_path / "other", "fit", {})
    given = [each.format(run=run.folder, other=other.folder) for each in arguments]
    assert simulate.main(["export", *given]) == 2
    assert re.search(told, capsys.readouterr().err)
    assert not (run.folder / "exported").exists()


def test_an_unknown_format_is_refused(run, capsys):
    with pytest.raises(SystemExit) as ended:
        simulate.main(["export", str(run.folder), "--format", "csv"])
    assert ended.value.code == 2 and "parquet" in capsys.readouterr().err


def test_runs_of_other_commands_and_versions_are_refused(tmp_path):
    with pytest.raises(ArtefactError, match="is a run of 'fit'; only runs of 'compare'"):
        remade(Run.create(tmp_path / "fit", "fit", {}))
    with pytest.raises(ArtefactError, match=r"does not know \(colour\)"):
        remade(Run.create(tmp_path / "compare", "compare", {"colour": "red"}))


def test_a_comparison_s_world_is_made_again_from_its_options(tmp_path, monkeypatch):
    log, model = generate_log(SyntheticConfig(num_users=30, num_items=120, events_per_user=15), seed=4)
    monkeypatch.setattr("evaluation.remade.load_log", lambda *given, **options: log)
    monkeypatch.setattr("evaluation.remade.fit_user_model", lambda spec, log, config: model)
    options = CompareOptions(
        dataset="synthetic", fast=True, days=8, births_per_day=2, modifiers="season", seed=3
    ).sized()
    again = remade(Run.create(tmp_path / "run", "compare", asdict(options) | {"out": None, "resume": None}))
    expected = build_world(log, model, options.world())
    assert again.world.outside == expected.outside and again.world.num_items == expected.num_items
    assert_array_equal(again.world.born_in_run, expected.born_in_run)
    assert again.comparison == options.comparison().within(expected)


def test_the_page_s_rows_of_shown_items(run, known, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    export_parquet(run, tmp_path / "exported", ["mf"])
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], names)
    lives = lives_of(run, "mf")
    assert names["shown"]["click"].sum() == lives["clicks"].sum()
    columns = re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE)
    assert [name for row in columns for name in re.findall(r"`(\w+)`", row)] == pl.read_parquet_schema(
        tmp_path / "exported" / "mf-seed0.parquet"
    ).names()
