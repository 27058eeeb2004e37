"""A verdict at toy size: two small worlds, cheap contenders, one that is cut short and goes on."""

import json
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from agents.constant import Constant
from agents.rankers.loading import resolve_ranker
from agents.rl.served import Trained, TrainingStopped
from envs.errors import ConfigurationError
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.measures import RewardWeights
from envs.world import WorldConfig, build_world
from evaluation.comparison import ServingConfig, split_users
from evaluation.runs import Run
from evaluation.verdict import arena as arena_module
from evaluation.verdict.arena import LESSONS, OWN_ROUNDS, Arena, arenas_of, count_requests
from evaluation.verdict.config import VerdictConfig
from evaluation.verdict.contenders import CONSTANT, RERANKED, RL, SUPERVISED, Contender, contenders_of
from evaluation.verdict.finals import MYOPIC, ONE, TRIED_LASTING, ZERO, measure_bounds
from evaluation.verdict.jobs import Job, Workshop
from evaluation.verdict.report import bounds_table, verdict_figures, verdict_tables
from evaluation.verdict.search import best_configurations, prepare, try_out
from evaluation.verdict.study import bounds_of, reach_verdict, shared_minutes
from evaluation.verdict.worlds import Entry, entries
from simulate import main

TILTED = '''
from dataclasses import dataclass

import numpy as np
from gymnasium.vector import AutoresetMode

from agents import Agent


@dataclass(frozen=True)
class Options:
    learning_rate: float = 0.0
    gamma: float = 0.95
    rankers: tuple = ("logistic",)


class Tilted(Agent):
    """Shows what the recall score and, by its learning rate, freshness say; spends what it may and learns nothing.

    It leaves a checkpoint behind, as agents do, and a curve.
    """

    name = "tilted"
    options_class = Options

    def __init__(self, slate_size=10, seed=0, options=None):
        super().__init__(slate_size, seed)
        self.options = options or Options()

    def fit(self, log, training=None):
        env = training.make_env(8, AutoresetMode.NEXT_STEP)
        env.reset(seed=training.seed)
        while env._traffic.requests < training.requests:
            env.step(self.act(env.observation))
        self.learning_curve_ = np.array([[training.requests, 0.5]])
        (training.folder / "checkpoint-000000000090").mkdir(parents=True)
        (training.folder / "curve").touch()
        return self

    def act(self, observation):
        score = observation.candidates.score - 1e4 * self.options.learning_rate * observation.candidates.age
        score = np.where(observation.candidates.mask == 1, score, -np.inf)
        return np.argsort(-score, axis=1, kind="stable")[:, : self.slate_size]
'''
SWEEP = (RewardWeights(diversity=0.0, freshness=0.0), RewardWeights(diversity=0.0, freshness=3.0))


@contextmanager
def quietly(title, total):
    yield lambda done: None


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("agent") / "tilted.py"
    path.write_text(TILTED)
    return VerdictConfig(
        rankers=("popular", "logistic"),
        learners=(f"{path}:Tilted",),
        configurations=3,
        requests=90,
        tuning_users=6,
        fresh_users=10,
        seeds=2,
        finalists=1,
        sweep=SWEEP,
        draws=60,
        traced_users=4,
        serving=ServingConfig(slate_size=4, num_candidates=15),
    )


@pytest.fixture(scope="module")
def worlds():
    log, model = generate_log(SyntheticConfig(num_users=40, num_items=90, events_per_user=15), seed=1)
    return [
        Entry("calm", lambda: build_world(log, model, WorldConfig(days=2))),
        Entry("moving", lambda: build_world(log, model, WorldConfig(days=2, births_per_day=4))),
    ]


def made(config, worlds, folder):
    run = Run.create(folder, "verdict", {})
    arenas = arenas_of(worlds, config, run, quietly)
    return run, arenas, Workshop(arenas, run, quietly, 1)


def judged(run, arenas, workshop, config):
    with workshop.open():
        measure_bounds(workshop)
        return reach_verdict(workshop, arenas, config, run)


@pytest.fixture(scope="module")
def finished(config, worlds, tmp_path_factory):
    run, arenas, workshop = made(config, worlds, tmp_path_factory.mktemp("verdict") / "run")
    return run, arenas, judged(run, arenas, workshop, config)


def test_nobody_who_is_measured_on_was_tuned_or_trained_on(finished):
    _, arenas, _ = finished
    for arena in arenas.values():
        training, _ = split_users(arena.world, 0)
        groups = [set(training), set(arena.tuning_users), set(arena.fresh_users)]
        assert len(set.union(*groups)) == sum(map(len, groups))
        assert (len(arena.tuning_users), len(arena.fresh_users)) == (6, 10)


def test_every_contender_has_the_same_trials_and_events_and_the_best_third_goes_on(finished):
    _, _, found = finished
    for _, own in found.trials.group_by("contender"):
        assert own.group_by("rung").len().sort("rung")["len"].to_list() == [3, 1]
        assert sorted(own["requests"].unique()) == [30, 90]
        for _, trials in own.group_by("rung"):
            kept = trials.filter("kept")["reward"].to_list()
            assert len(kept) == 1
            assert kept[0] == trials["reward"].max()
        second = own.filter(pl.col("rung") == 1)["configuration"].sort().to_list()
        assert second == own.filter((pl.col("rung") == 0) & pl.col("kept"))["configuration"].sort().to_list()
    assert len(found.costs["search_budget"].unique()) == 1


def test_no_contender_learns_from_more_events_than_it_may(finished):
    _, _, found = finished
    assert (found.trials["spent"] <= found.trials["requests"] + 8).all()  # an agent may end a step of all users
    used = found.trials.filter(pl.col("settings").str.contains("events"))
    assert (used["spent"] == used["requests"]).all()
    assert found.costs.filter(pl.col("family") == RL)["final_events"][0] >= 2 * 2 * 90


def test_fewer_events_are_the_beginning_of_more(finished):
    arena = finished[1]["calm"]
    some, many = arena.events(30, 0), arena.events(90, 0)
    assert [sum(map(count_requests, each)) for each in (some, many)] == [30, 90]
    told = [set(zip(each.user, each.item, each.timestamp, strict=True)) for each in (some[0], many[0])]
    assert told[0] < told[1]
    lives = np.unique(some[0].user)
    training, _ = split_users(arena.world, 0)
    assert set(lives) <= set(training)
    assert len(lives) < len(np.unique(many[0].user))


def lessons_of_its_own(arena, requests, seed, monkeypatch):
    """(logs that the ranker learnt from, coefficients that served each lap, path of what came of it)."""
    kind, learnt, served = resolve_ranker("logistic"), [], []
    update, record = kind.update, arena_module.recorded

    def noted(self, events, *, remember=True):
        assert not remember
        learnt.append(events)
        update(self, events, remember=remember)

    def watched(agent, *arguments):
        served.append(agent._scores.rankers[0].coefficients_.copy())
        return record(agent, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(kind, "update", noted)
        patched.setattr(arena_module, "recorded", watched)
        ranker = arena.taught_ranker("logistic", "events_own", requests, seed)
    return learnt, served, ranker


def test_a_ranker_may_learn_from_its_own_slates_round_by_round(finished, monkeypatch):
    arena = finished[1]["calm"]
    learnt, served, ranker = lessons_of_its_own(arena, 50, 0, monkeypatch)
    assert [count_requests(lap) for lap in learnt] == [12, 13, 12, 13]
    assert set(np.concatenate([lap.user for lap in learnt])) <= set(split_users(arena.world, 0)[0])
    # each round is served by what came of those before it
    again = arena.ranker("logistic", 0)
    for lap, coefficients in zip(learnt, served, strict=True):
        np.testing.assert_array_equal(coefficients, again.coefficients_)
        again.update(lap, remember=False)
        assert not np.array_equal(coefficients, again.coefficients_)
    np.testing.assert_array_equal(ranker.coefficients_, again.coefficients_)


def test_where_lives_are_few_a_round_has_more_laps_of_other_lives(finished, monkeypatch):
    learnt, _, _ = lessons_of_its_own(finished[1]["moving"], 1_000, 0, monkeypatch)
    assert len(learnt) > OWN_ROUNDS
    assert sum(map(count_requests, learnt)) == 1_000
    assert not np.array_equal(learnt[0].item[:100], learnt[1].item[:100])


def test_lessons_of_its_own_are_told_kept_and_other_for_each_seed(config, worlds, finished, tmp_path, monkeypatch):
    settings = {"lessons": "events_own", "reranker": "greedy", "strength": {}}
    contender = contenders_of(config)[1]
    run, arenas, workshop = made(config, worlds[:1], tmp_path / "run")
    prepare(workshop, [("calm", contender, settings, 48, 0)], "before")
    assert run.has_table("verdict/taught/calm/logistic-events_own-48-seed0")
    assert not (run.folder / "tables" / "verdict" / "events").exists()
    monkeypatch.setattr(arena_module, "recorded", lambda *arguments: pytest.fail("was simulated again"))
    taught = contender.trained(settings, arenas["calm"], 48, 0, tmp_path)
    assert taught.requests == 48
    monkeypatch.undo()
    learnt, _, ranker = lessons_of_its_own(finished[1]["calm"], 48, 0, monkeypatch)
    np.testing.assert_array_equal(taught.agent.pipeline.ranker.coefficients_, ranker.coefficients_)
    others, _, _ = lessons_of_its_own(finished[1]["calm"], 48, 1, monkeypatch)
    assert not np.array_equal(learnt[0].item, others[0].item)


def test_sequence_models_learn_from_events_what_is_liked_of_what_was_shown(config, worlds, tmp_path):
    calm = made(config, worlds[:1], tmp_path / "run")[1]["calm"]
    arena = replace(calm, config=replace(calm.config, epochs=1))
    assert arena.taught_ranker("sasrec", "events", 30, 0).config.within_slates
    assert not arena.ranker("sasrec", 0).config.within_slates


def test_margins_are_paired_differences_of_those_chosen_on_tuning_users(finished):
    run, _, found = finished
    for row in found.margins.iter_rows(named=True):
        rewards = [
            np.mean(
                [
                    run.table(f"verdict/finals/{row['world']}/{name}-seed{seed}/fresh")["reward"].mean()
                    for seed in (0, 1)
                ]
            )
            for name in (row["rl"], row["other"])
        ]
        assert row["value"] == pytest.approx(rewards[0] - rewards[1])
        assert row["low"] <= row["value"] <= row["high"]
    assert found.margins["other_family"].to_list() == [SUPERVISED, CONSTANT] * 2


def test_scale_is_0_for_random_and_1_for_the_oracle_of_the_means(finished):
    _, _, found = finished
    scaled = found.summary.filter((pl.col("metric") == "normalised_reward") & pl.col("versus").is_null())
    for world in scaled["world"].unique():
        own = dict(scaled.filter(pl.col("world") == world).select("agent", "value").iter_rows())
        assert (own[ZERO], own[ONE]) == (0, 1)
        raw = dict(
            found.summary.filter(
                (pl.col("world") == world) & (pl.col("metric") == "reward") & pl.col("versus").is_null()
            )
            .select("agent", "value")
            .iter_rows()
        )
        assert own["constant"] == pytest.approx((raw["constant"] - raw[ZERO]) / (raw[ONE] - raw[ZERO]))


def test_bounds_tell_the_paired_gain_of_looking_ahead(finished):
    run, _, found = finished
    for world in ("calm", "moving"):
        myopic, ahead = (run.table(f"verdict/bound/{world}/{name}")["reward"].to_numpy() for name in (MYOPIC, ONE))
        row = found.bounds.filter((pl.col("world") == world) & (pl.col("policy") == ONE)).to_dicts()[0]
        assert row["gain"] == pytest.approx((ahead - myopic).mean())
        assert row["gain_low"] <= row["gain"] <= row["gain_high"]


def test_trade_off_trains_agents_for_each_reward_and_picks_pipelines_by_it(finished):
    _, _, found = finished
    assert found.points.group_by("contender").len()["len"].to_list() == [2, 2, 2]
    given = found.points.select("engagement", "diversity", "freshness").to_numpy()
    beaten = [any((other >= own).all() and (other > own).any() for other in given) for own in given]
    assert found.points["on_front"].to_list() == [not flag for flag in beaten]
    assert found.volumes["family"].unique(maintain_order=True).to_list() == [SUPERVISED, CONSTANT, RL]
    for (name, objective), volume in found.volumes.group_by("contender", "objective"):
        own = found.points.filter(pl.col("contender") == name)
        assert volume["value"][0] >= 0.99 * (own["engagement"] * own[objective]).to_numpy().max()
    assert (found.volumes["value"] >= 0).all()


def test_entropy_starts_alike_for_all_and_lies_between_0_and_that_of_all_categories(finished):
    _, arenas, found = finished
    most = np.log(arenas["calm"].world.policy_log.catalogue.num_categories)
    assert found.entropy["value"].is_between(0, most).all()
    first = found.entropy.filter((pl.col("day") == 0) & (pl.col("world") == "calm"))["value"]
    assert first.max() == pytest.approx(first.min())
    assert found.entropy["day"].unique().sort().to_list() == [0.0, 2.0]


def finalist_of(found):
    """The supervised contender that went on."""
    return best_configurations(found.trials).filter(pl.col("family") == SUPERVISED)["contender"][0]


def test_a_contender_is_charged_for_the_rankers_that_it_builds_on(finished):
    """Once for each, whoever else builds on them: those of its trials, and a finalist's in all worlds with all seeds."""
    run, arenas, found = finished
    figures = verdict_figures(found)

    def seconds(world, ranker, seed, lessons, requests):
        path = arenas[world].ranker_path(ranker, seed)
        tables = [f"verdict/rankers/{path.parent.name}/{path.name}"]
        if lessons != "log":
            tables.append(f"verdict/taught/{world}/{ranker}-{lessons}-{requests}-seed{seed}")
        return {table: run.table(table)["seconds"][0] for table in tables}

    for row in found.costs.iter_rows(named=True):
        name, made = row["contender"], {}
        own = found.trials.filter(pl.col("contender") == name)
        if row["family"] == SUPERVISED:
            for settings, requests in own.select("settings", "requests").iter_rows():
                made |= seconds("calm", name, 0, json.loads(settings)["lessons"], requests)
        if name == finalist_of(found):
            best = best_configurations(found.trials).filter(pl.col("contender") == name)["settings"][0]
            for world, seed in product(arenas, (0, 1)):
                made |= seconds(world, name, seed, json.loads(best)["lessons"], 90)
        if row["family"] == RL:
            for world, seed in product(arenas, (0, 1)):
                made |= seconds(world, "logistic", seed, "log", 0)
        assert row["prepared_minutes"] == pytest.approx(sum(made.values()) / 60)
        assert bool(made) == (row["family"] != CONSTANT)
        assert figures[f"trials_{name}"] == len(own) == 4
        assert figures[f"events_{name}"] == row["search_events"] + row["final_events"]
        spent = row["search_minutes"] + row["final_minutes"] + row["prepared_minutes"]
        assert figures[f"minutes_{name}"] == pytest.approx(spent) and spent > 0


def test_figures_bear_their_names_and_tables_print(finished):
    run, _, found = finished
    figures = verdict_figures(found)
    for world in ("calm", "moving"):
        for name in (f"rl_minus_supervised_{world}", f"rl_minus_constant_{world}", f"lookahead_minus_myopic_{world}"):
            assert figures[f"{name}_low"] <= figures[name] <= figures[f"{name}_high"]
        assert f"best_rl_normalised_{world}" in figures
        own = figures[f"visits_rl_{world}"] - figures[f"visits_supervised_{world}"]
        assert figures[f"visits_rl_minus_supervised_{world}"] == pytest.approx(own)
        assert f"interest_entropy_constant_{world}" in figures
    run.write_figures(figures)
    assert json.loads((run.folder / "verdict.json").read_text())["probability_of_improvement_all"] is not None
    tables = [bounds_table(bounds_of(run, ["calm"])), *verdict_tables(found, shared_minutes(run))]
    assert all(table.row_count for table in tables)


@pytest.mark.usefixtures("two_workers")
def test_side_by_side_gives_the_same_bits(config, worlds, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, arenas, _ = made(config, worlds[:1], Path("run"))
    workshop = Workshop(arenas, run, quietly, 2)
    with workshop.open():
        measure_bounds(workshop)
        workshop.do("search", [Job("calm", "verdict/trial", try_out, (contenders_of(config)[-1], {}, 30, 0))])
    assert_frame_equal(bounds_of(run, ["calm"]), finished[2].bounds.filter(pl.col("world") == "calm"))
    trial = finished[0].table("verdict/trials/calm/tilted/rung0-0")
    assert_frame_equal(run.table("verdict/trial"), trial)


def test_a_training_that_cannot_go_on_is_judged_by_what_it_had_learnt(config, finished, tmp_path, monkeypatch):
    contender = Contender("constant", CONSTANT, "constant")

    def stop(agent, log, training):
        raise TrainingStopped("losses are not finite", Trained({}, {}, np.zeros((0, 2))))

    monkeypatch.setattr(Constant, "fit", stop)
    taught = contender.trained({}, finished[1]["calm"], 30, 0, tmp_path)
    assert (taught.stopped, taught.requests) == (True, 0)
    assert finished[2].costs["stopped"].to_list() == [0, 0, 0, 0]


def test_what_a_training_needed_is_tidied_away(finished):
    left = {path.name for path in (finished[0].folder / "tensorboard").rglob("*")}
    assert "curve" in left
    assert not any(name.startswith("checkpoint") for name in left)


def test_a_run_that_is_cut_short_goes_on_and_ends_the_same(config, worlds, finished, tmp_path, monkeypatch):
    config = replace(config, sweep=())
    run, arenas, workshop = made(config, worlds[:1], tmp_path / "run")
    served, calls = Arena.served, []

    def until(limit):
        def cut(self, *arguments, **options):
            calls.append(1)
            if len(calls) > limit:
                raise KeyboardInterrupt
            return served(self, *arguments, **options)

        return cut

    for limit in (9, 12):
        monkeypatch.setattr(Arena, "served", until(limit))
        with pytest.raises(KeyboardInterrupt):
            judged(run, arenas, workshop, config)
        calls.clear()
    monkeypatch.setattr(Arena, "served", until(10_000))
    again = judged(run, arenas, workshop, config)
    # three policies that bound, one of them tried out first, sixteen trials, six trainings that serve twice, less what was done
    assert len(calls) == 3 + len(TRIED_LASTING) + 16 + 12 - 9 - 12
    _, _, found = finished
    for name in ("bounds", "summary", "margins", "entropy"):
        assert_frame_equal(getattr(again, name), getattr(found, name).filter(pl.col("world") == "calm"))
    assert_frame_equal(again.trials.drop("seconds"), found.trials.drop("seconds"))


def test_rankers_are_fitted_once_and_lent_to_agents(finished, monkeypatch):
    run, arenas, found = finished
    fitted = set((run.folder / "agents" / "rankers").glob("*/*"))
    # searched are all in the first world; in both worlds, with both seeds, the finalist's and what 'tilted' builds on
    everywhere = {"logistic", finalist_of(found)}
    expected = {arenas["calm"].ranker_path(ranker, 0) for ranker in ("popular", "logistic")}
    for arena in arenas.values():
        expected |= {arena.ranker_path(ranker, seed) for ranker in everywhere for seed in (0, 1)}
    assert fitted == expected
    kind = resolve_ranker("logistic")
    monkeypatch.setattr(kind, "fit", lambda *arguments, **options: pytest.fail("was fitted again"))
    assert arenas["calm"].ranker("logistic", 0).seed == 0


def test_configurations_begin_with_the_defaults_and_none_is_tried_twice(config):
    for contender in contenders_of(config):
        tried = contender.configurations(20, 0)
        assert len({json.dumps(settings) for settings in tried}) == len(tried) <= 20
        assert tried == contender.configurations(20, 0)
    pipeline = contenders_of(config)[0].configurations(1_000, 3)
    assert len(pipeline) == len(LESSONS) * len(RERANKED)
    assert pipeline[:2] == [
        {"lessons": lessons, "reranker": "greedy", "strength": {}} for lessons in ("log", "events_own")
    ]
    ppo = Contender("ppo", RL, "ppo")
    assert ppo._options(ppo.configurations(1, 0)[0]) == ppo._options({})


def test_own_worlds_are_found_and_bad_ones_refused(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from envs.world import default_world\n"
        "class Mine:\n    name = 'mine'\n    def make(self):\n        return default_world()\n"
        "class Nameless:\n    def make(self):\n        return default_world()\n"
        "class Choosy:\n    def __init__(self, what):\n        pass\n"
    )

    def found(*specs, models=("parametric",)):
        return entries(list(specs), list(models), "ml-100k", lambda model: None, WorldConfig(), 50)

    both = [entry.key for entry in found("log", "drift", "satiation", f"{path}:Mine", models=("parametric", "dien"))]
    assert both == ["ml100k", "drift", "satiation", "mine", "ml100k_dien", "drift_dien"]
    assert found(f"{path}:Mine")[0].make().num_users == 200
    for specs, sentence in (
        ([f"{path}:Nameless"], "needs a name"),
        ([f"{path}:Choosy"], "cannot be made without arguments"),
        (["log", "log"], "twice"),
        ([], "--worlds is empty"),
    ):
        with pytest.raises(ConfigurationError, match=sentence):
            found(*specs)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--fast", "--reference"], "exclude each other"),
        (["--hours", "-1"], "must be a positive number"),
        (["--worlds", "logg"], "did you mean 'log'"),
        (["--rankers", "din,no_such"], "there is no ranker 'no_such'"),
        (["--rankers", ""], "rankers is empty"),
        (["--learners", "no_such"], "there is no agent 'no_such'"),
        (["--learners", "ppo,oracle_myopic"], "looks into the simulator"),
        (["--learners", "ppo", "--bandits", "ppo"], "competes twice"),
        (["--configurations", "0"], "--configurations is 0"),
        (["--users", "2"], "--users is 2"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(options, sentence, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["verdict", "--dataset", "synthetic", "--out", str(folder), *options]) == 2
    assert sentence in capsys.readouterr().err
    assert not folder.exists()


def test_the_command_goes_from_a_world_of_ones_own_to_figures_and_resumes(config, tmp_path, capsys):
    path = tmp_path / "fickle.py"
    path.write_text(
        "from envs.logs.synthetic import SyntheticConfig, generate_log\n"
        "from envs.world import WorldConfig, build_world\n"
        "class Fickle:\n    name = 'fickle'\n    def make(self):\n"
        "        log = generate_log(SyntheticConfig(num_users=30, num_items=120, events_per_user=8), seed=3)\n"
        "        return build_world(*log, WorldConfig(days=2))\n"
    )
    own = ["--worlds", f"{path}:Fickle", "--rankers", "popular", "--learners", config.learners[0], "--bandits", ""]
    sizes = ["--dataset", "synthetic", "--fast", "--requests", "40", "--users", "6", "--jobs", "1"]
    options = ["verdict", *sizes, *own]
    assert main([*options, "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    figures = json.loads((tmp_path / "run" / "verdict.json").read_text())
    assert f"rl_minus_constant_fickle: {figures['rl_minus_constant_fickle']:.6g}" in printed
    assert printed.index("The bound") < printed.index("The search") < printed.index("The verdict")
    plots = {path.stem for path in (tmp_path / "run" / "plots").glob("*.png")}
    assert plots == {"verdict", "verdict_margins", "verdict_tradeoff", "verdict_long_term", "verdict_learning"}
    (tmp_path / "run" / "verdict.json").unlink()
    assert main([*options, "--resume", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "verdict.json").read_text()) == figures
    assert main([*options, "--configurations", "3", "--resume", str(tmp_path / "run")]) == 2
    assert "configurations = None, not 3" in capsys.readouterr().err


def test_a_world_with_too_few_users_is_refused(config, tmp_path):
    log, model = generate_log(SyntheticConfig(num_users=4, num_items=60), seed=1)
    with pytest.raises(ConfigurationError, match="takes 8"):
        made(config, [Entry("tiny", lambda: build_world(log, model, WorldConfig(days=2)))], tmp_path / "run")


def test_best_contender_comes_first_and_rests_on_its_last_rung(finished):
    _, _, found = finished
    best = best_configurations(found.trials)
    assert best["contender"].n_unique() == len(best) == 4
    assert best["reward"].is_sorted(descending=True)
    assert (best["rung"] == 1).all()
    assert replace(VerdictConfig(rankers=("a",), learners=("b",)), seeds=3, seed=4).training_seeds() == (4, 5, 6)
