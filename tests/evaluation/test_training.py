import textwrap
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import ray
from gymnasium.vector import AutoresetMode
from polars.testing import assert_frame_equal
from rich.console import Console

from agents.base import Agent
from agents.loading import RANKERS, SB3_ALGORITHMS, agent_names
from envs.errors import AgentError, ConfigurationError
from envs.event_log import EventLog
from evaluation import training, units
from evaluation.comparison import blamed_on, evaluation_users, split_users
from evaluation.runs import Run
from evaluation.traffic import CountedTraffic
from evaluation.training import TrainingConfig, run_comparison, under_user_models
from evaluation.units import Unit, do_unit, named_agents, units_of

LEARNER = """
    import numpy as np
    from gymnasium.vector import AutoresetMode
    from agents.base import Agent

    class Learner(Agent):
        '''Looks at some traffic, then shows candidates in reverse; before training, in order.'''

        def fit(self, log, training=None):
            env = training.make_env(4, AutoresetMode.NEXT_STEP)
            env.reset(seed=training.seed)
            env.step(np.tile(np.arange(self.slate_size), (4, 1)))
            self.turned_ = np.ones(1)
            self.learning_curve_ = np.array([[1.0, 2.0], [2.0, 3.0]])
            return self

        def act(self, observation):
            order = np.arange(observation.candidates.items.shape[1])
            order = order[::-1] if self.turned_[0] else order
            return np.tile(order[: self.slate_size], (len(observation), 1))

        def initial_policy(self):
            beginner = type(self)(self.slate_size, self.seed)
            beginner.turned_ = np.zeros(1)
            return beginner

    class Fails(Agent):
        '''Cannot be fitted.'''

        def fit(self, log, training=None):
            raise ValueError("no such luck")

        def act(self, observation):
            raise NotImplementedError

    class Named(Learner):
        name = "popular"
"""


@pytest.fixture
def few(small):
    """Six users."""
    return replace(small, users=6)


@pytest.fixture
def agent_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(LEARNER))
    return path


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", "compare", {})


def test_agents_are_named_and_their_files_made_absolute(agent_file, monkeypatch):
    monkeypatch.chdir(agent_file.parent)
    assert named_agents(["popular", "mine.py:Learner"]) == {
        "popular": "popular",
        "Learner": f"{agent_file.resolve()}:Learner",
    }


def test_two_agents_of_one_name_are_refused(agent_file):
    with pytest.raises(ConfigurationError, match="two agents called 'popular'"):
        named_agents(["popular", f"{agent_file}:Named"])
    with pytest.raises(ConfigurationError, match="is empty"):
        named_agents([])
    with pytest.raises(AgentError, match="no agent 'populr'"):
        named_agents(["populr"])


def test_agents_that_learn_are_fitted_once_a_seed(agent_file):
    found = units_of(["random", f"{agent_file}:Learner"], seeds=(4, 5))
    assert [(unit.name, unit.seed) for unit in found] == [("random", 4), ("Learner", 4), ("Learner", 5)]
    assert Unit("a b/c", "x", 1).stem == "a_b_c-seed1"


def test_training_configuration_is_checked():
    for wrong in ({"requests": 0}, {"seeds": ()}, {"seeds": (1, 1)}):
        with pytest.raises(ConfigurationError):
            TrainingConfig(**wrong)


def test_training_traffic_is_of_training_users_and_counted(small_world, candidate_source, small):
    traffic = CountedTraffic(small_world, candidate_source, small, seed=0)
    env = traffic.make_env(6, AutoresetMode.NEXT_STEP)
    assert set(env.users) == set(split_users(small_world, small.seed)[0])
    env.reset()
    lived = 0
    for _ in range(60):
        *_, info = env.step(np.tile(np.arange(5), (6, 1)))
        lived += info["active"].sum()
    assert traffic.requests == lived < 60 * 6


def test_a_comparison_leaves_tables_agents_and_events(run, agent_file, small_world, candidate_source, few):
    specs = ["random", "popular", f"{agent_file}:Learner"]
    seeds = TrainingConfig(requests=10, seeds=(0, 1))
    result = run_comparison(
        specs, small_world, candidate_source, run, comparison=few, training=seeds, reference="popular"
    )
    assert set(result.users["agent"]) == {"random", "popular", "Learner", "Learner (initial)"}
    for name, table in (("users", result.users), ("exposure", result.agents), ("interest", result.interest)):
        assert_frame_equal(run.table(name), table)
    summary = run.table("summary")
    assert dict(summary.select("agent", "role").unique().rows())["Learner (initial)"] == "initial"
    assert run.table("learning")["training_seed"].to_list() == [0, 0, 1, 1]
    assert run.table("exposure").filter(pl.col("agent") == "Learner")["training_requests"].to_list() == [4, 4]
    assert len(EventLog.read(run.events_path("Learner-seed1"))) > 0
    assert len(EventLog.read(run.events_path("Learner-seed1-initial"))) > 0
    assert run.agent_path("popular-seed1").exists()


def test_a_ranker_leaves_curves_of_its_fit(run, small_world, candidate_source, few):
    do_unit(Unit("logistic", "logistic", 0), small_world, candidate_source, run, few, 0)
    assert list((run.folder / "tensorboard/logistic-seed0").glob("events*"))


def test_resume_does_only_what_is_missing(run, small_world, candidate_source, few, monkeypatch):
    """The second agent is interrupted while it serves: the first one's results stay, and the second is not fitted again."""
    serve = units.serve

    def interrupted(agent, *args, name, **kwargs):
        if name == "popular":
            raise KeyboardInterrupt
        return serve(agent, *args, name=name, **kwargs)

    monkeypatch.setattr(units, "serve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_comparison(["random", "popular"], small_world, candidate_source, run, comparison=few)
    again = Run.open(run.folder)
    assert again.has_table("users/random-seed0") and not again.has_table("users/popular-seed0")
    assert not again.has_table("summary")

    served = []

    def counted(agent, *args, name, **kwargs):
        served.append(name)
        return serve(agent, *args, name=name, **kwargs)

    def refit(self, log, training=None):
        raise AssertionError("fitted again")

    monkeypatch.setattr(units, "serve", counted)
    monkeypatch.setattr("agents.heuristics.Popular.fit", refit)
    resumed = run_comparison(["random", "popular"], small_world, candidate_source, again, comparison=few)
    assert served == ["popular"]
    monkeypatch.undo()
    whole = Run.create(run.folder.parent / "whole", "compare", {})
    at_once = run_comparison(["random", "popular"], small_world, candidate_source, whole, comparison=few)
    assert_frame_equal(resumed.users, at_once.users)


@pytest.mark.parametrize("name", ["dqn", "sb3:DQN"])
def test_a_training_that_was_cut_short_goes_on_and_its_requests_count(run, small_world, candidate_source, few, name):
    unit, told = Unit(name, name, 0), []

    def cut(text):
        told.append(text)
        if sum("training" in text for text in told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        do_unit(unit, small_world, candidate_source, run, few, 4_000, cut)
    (kept,) = run.curves_path(unit.stem).glob("checkpoint-*")
    told.clear()
    do_unit(unit, small_world, candidate_source, Run.open(run.folder), few, 4_000, told.append)
    assert f"{name}: training, {int(kept.name.rpartition('-')[2]):,} of 4,000 requests" in told[1:3]
    assert run.table(f"spent/{unit.stem}")["training_requests"].to_list() == [4_000]
    assert run.table(f"learning/{unit.stem}")["requests"].to_list()[-1] == 4_000
    assert unit.is_finished(run)
    assert not list(run.curves_path(unit.stem).glob("*checkpoint*"))


def test_a_failing_agent_is_named_and_leaves_nothing_half_written(run, agent_file, small_world, candidate_source, few):
    with pytest.raises(AgentError, match=r"'Fails' failed in fit \(.*mine.py, line \d+\): ValueError: no such luck"):
        run_comparison(["random", f"{agent_file}:Fails"], small_world, candidate_source, run, comparison=few)
    assert run.has_table("users/random-seed0")
    assert not list(run.folder.rglob("*Fails*"))


def test_progress_is_quiet_where_there_is_no_terminal(run, small_world, candidate_source, few, capsys):
    run_comparison(
        ["random"], small_world, candidate_source, run, comparison=few, console=Console(force_terminal=False)
    )
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""


def test_jobs_must_be_positive(run, small_world, candidate_source):
    with pytest.raises(ConfigurationError, match="--jobs is 0"):
        run_comparison(["random"], small_world, candidate_source, run, jobs=0)


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_side_by_side_gives_the_same_as_one_after_the_other(
    tmp_path, monkeypatch, agent_file, small_world, candidate_source, few
):
    """Workers find an agent that was named by a relative path, and a failure there is told as it is here."""
    monkeypatch.chdir(agent_file.parent)
    specs = ["random", "popular", "mine.py:Learner"]
    lessons = TrainingConfig(requests=10)
    results = []
    for jobs, users in ((1, few), (2, replace(few, shard_users=5))):
        run = Run.create(tmp_path / f"jobs{jobs}", "compare", {})
        results.append(
            run_comparison(specs, small_world, candidate_source, run, comparison=users, training=lessons, jobs=jobs)
        )
    assert_frame_equal(results[0].users, results[1].users)
    run = Run.create(tmp_path / "failing", "compare", {})
    with pytest.raises(AgentError, match="'Fails' failed in fit"):
        run_comparison(["random", "mine.py:Fails"], small_world, candidate_source, run, comparison=few, jobs=2)


def test_side_by_side_the_longest_are_begun_first(monkeypatch, run, agent_file, small_world, candidate_source, small):
    named = [*agent_names(), f"{agent_file}:Learner"]
    begun = []
    monkeypatch.setattr(training, "ray_with", lambda jobs, address: nullcontext())
    monkeypatch.setattr(ray, "put", lambda shared: shared)
    monkeypatch.setattr(training, "as_finished", lambda task, lists: begun.extend(each[1].name for each in lists) or [])
    list(training._side_by_side(units_of(named, (0,)), small_world, candidate_source, run, small, 1, 2, None))
    kinds = [
        ["ppo_blend"],
        ["ppo_slate", "marwil", "dqn_slots", "slateq", "linucb", "thompson", "drn"],
        list(RANKERS),
        ["ppo", "dqn", "ppo_preference", "sb3_ppo", *(f"sb3:{name}" for name in SB3_ALGORITHMS)],
        ["constant", "popular", "mmr", "Learner"],
        ["oracle_myopic", "oracle_lookahead"],
        ["random", "freshest", "mf"],
    ]
    places = [[begun.index(name) for name in kind] for kind in kinds]
    assert all(max(before) < min(after) for before, after in pairwise(places))


def test_agents_of_the_package_keep_their_tracebacks():
    class Broken(Agent):
        def act(self, observation):
            return observation

    Broken.__module__ = "agents.broken"
    with pytest.raises(ZeroDivisionError), blamed_on("broken", Broken(), "act"):
        _ = 1 / 0


def test_refitted_user_models_widen_intervals_and_are_not_served_again(
    small_world, candidate_source, few, tmp_path, monkeypatch
):
    run = Run.create(tmp_path / "run", "compare", {})
    specs = ["popular", "random"]
    arguments = (small_world, candidate_source, run)
    result = run_comparison(specs, *arguments, comparison=few, reference="random")
    visits = small_world.user_model.visits
    users = evaluation_users(small_world, few)

    def world(number):
        leaving = replace(visits, leave_intercept=-1.0 - number)
        return replace(small_world, user_model=replace(small_world.user_model, visits=leaving)), np.append(
            users[number:], 999
        )

    worlds = {number: lambda number=number: world(number) for number in (1, 2, 3)}
    found = under_user_models(result, specs, worlds, candidate_source, run, few, TrainingConfig(), "random")
    plain, wider = result.summary("random"), found.summary("random")
    assert_frame_equal(plain.drop("low", "high"), wider.drop("low", "high"))
    rows = pl.col("metric") == "requests"
    assert ((wider["high"] - wider["low"]) >= 0.999 * (plain["high"] - plain["low"])).drop_nulls().all()
    assert (wider.filter(rows)["high"] > plain.filter(rows)["high"]).any()
    lived = run.table("user_models/2/popular-seed0")
    assert lived["user"].to_list() == users[2:].tolist()
    assert lived["requests"].sum() > found.users.filter(agent="popular", user_model=0)["requests"][2:].sum()
    assert run.table("summary").equals(wider)
    monkeypatch.setattr(training, "serve", None)
    again = under_user_models(result, specs, worlds, candidate_source, run, few, TrainingConfig(), "random")
    assert again.summary("random").equals(wider)
