"""Pipelines against the users of a small generated log, whose tastes are known."""

import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy import stats

from agents.pipeline import PipelineAgent
from agents.rankers.popularity import Popularity
from agents.rankers.samples import Samples, propensity_weights
from envs.event_log import EventLog
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.world import WorldConfig, build_world
from evaluation.comparison import ServingConfig, evaluation_users, serve, split_users
from evaluation.ranking import FullRanking, UserBootstrap
from evaluation.runs import Run
from evaluation.serving.config import ServingStudyConfig
from evaluation.serving.events import collected_lives, lives_log
from evaluation.serving.feedback import consumption, feedback_loop, likeness
from evaluation.serving.offline import HeldOutRequests
from evaluation.serving.pipelines import Pipelines
from evaluation.serving.report import answer, correlation_table, loop_estimates, serving_figures, serving_tables
from evaluation.serving.study import serving_study
from simulate import main

STUDY = ServingStudyConfig(
    rankers=("mf_pointwise", "logistic"),
    rerankers=("greedy", "mmr"),
    user_models=("parametric",),
    users=24,
    days=4,
    requests=700,
    loop_rankers=("popular",),
    loop_rounds=1,
    loop_seeds=2,
    epochs=1,
    draws=50,
    serving=ServingConfig(slate_size=5, num_candidates=30),
)


@contextmanager
def quietly(title, total):
    yield lambda done: None


@pytest.fixture(scope="module")
def log_and_model():
    return generate_log(SyntheticConfig(num_users=90, num_items=160, events_per_user=30), seed=1)


@pytest.fixture(scope="module")
def world(log_and_model):
    return build_world(*log_and_model, WorldConfig(days=4))


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    run = Run.create(tmp_path_factory.mktemp("serving") / "run", "rankers", {})
    return run, serving_study({"parametric": world}, STUDY, run, quietly)


@pytest.fixture(scope="module")
def pipelines(world, finished):
    return Pipelines(world.policy_log, 30, STUDY, finished[0])


def test_every_pipeline_is_served_after_both_trainings(finished):
    serving, correlations, rounds = finished[1]
    served = serving.filter(pl.col("reranker").is_not_null()).select("training", "ranker", "reranker").unique()
    assert len(served) == 2 * 3 * 2
    for metric in ("reward", "normalised_reward", "engagement", "diversity", "freshness", "ndcg10"):
        values = serving.filter((pl.col("metric") == metric) & pl.col("versus").is_null())
        assert len(values) == 2 * (6 if metric == "ndcg10" else 8), metric
    assert set(correlations["measure"]) == {"spearman", "kendall"} and len(correlations) == 2 * 2 * 3 * 2
    assert len(rounds) == 2 * 2 * 2


def test_curves_of_fits_are_kept_for_tensorboard(finished):
    for name in ("logistic", "mf_pointwise"):
        assert list((finished[0].folder / f"tensorboard/serving/{name}").glob("events*")), name


def test_correlations_within_rankers_are_those_of_what_the_re_ranker_changes(finished):
    run, (_, correlations, _) = finished
    means = []
    for kind, column in (("offline", "ndcg10"), ("users", "clicks")):
        table = [
            [
                run.table(f"serving/parametric/log/{ranker}+{reranker}/{kind}")[column].mean()
                for reranker in ("greedy", "mmr")
            ]
            for ranker in ("popular", "mf_pointwise", "logistic")
        ]
        means.append((np.array(table) - np.mean(table, axis=1, keepdims=True)).ravel())
    here = {"training": "log", "outcome": "engagement", "among": "within_rankers", "measure": "spearman"}
    row = correlations.filter(pl.all_horizontal(pl.col(name) == value for name, value in here.items()))
    assert np.isclose(row["value"][0], stats.spearmanr(*np.round(means, 9)).statistic, atol=0.05)


def test_differences_are_paired_to_popularity(finished):
    run, (serving, _, _) = finished
    own = serving.filter(
        (pl.col("training") == "log") & (pl.col("ranker") == "logistic") & (pl.col("reranker") == "mmr")
    )
    row = own.filter((pl.col("metric") == "reward") & (pl.col("versus") == "popular+greedy"))
    users = [run.table(f"serving/parametric/log/{name}/users")["reward"] for name in ("logistic+mmr", "popular+greedy")]
    assert np.isclose(row["value"][0], (users[0] - users[1]).mean())


def test_what_is_cut_short_goes_on_with_the_same_bits(world, finished, tmp_path):
    tables = finished[1]
    again = Run.create(tmp_path / "again", "rankers", {})
    calls = 0

    @contextmanager
    def cut(title, total):
        def report(done):
            nonlocal calls
            calls += 1
            if calls == 4:
                raise KeyboardInterrupt

        yield report

    with pytest.raises(KeyboardInterrupt):
        serving_study({"parametric": world}, STUDY, again, cut)
    assert not again.has_table("serving")
    for ours, theirs in zip(serving_study({"parametric": world}, STUDY, again, quietly), tables, strict=True):
        assert_frame_equal(ours, theirs)


def test_a_finished_part_is_not_done_again(world, finished, monkeypatch):
    monkeypatch.setattr("evaluation.serving.study.serve", None)
    monkeypatch.setattr("evaluation.serving.feedback.serve", None)
    assert_frame_equal(serving_study({"parametric": world}, STUDY, finished[0], quietly)[0], finished[1][0])


class Informed(Popularity):
    """Knows the tastes of the users it serves: what no ranker may, and every ranker tries to learn."""

    utility = None

    def _score(self, batch):
        return np.take_along_axis(self.utility[np.maximum(batch.user, 0)], np.maximum(batch.items, 0), axis=1)


def test_a_ranker_that_knows_tastes_beats_popularity_offline_and_under_the_users(world, pipelines):
    model = world.user_model
    informed = Informed().fit(pipelines.split.training_log)
    state = world.start_state(np.arange(world.num_users), np.zeros(world.num_users, np.int64))
    informed.utility = world.preference(state) @ model.item_vectors.T + model.item_bias
    requests = HeldOutRequests.of(pipelines.split, pipelines.joined(informed, "greedy"))
    rewards, gains = {}, {}
    for name, ranker in {"informed": informed, "popular": pipelines.ranker("popular")}.items():
        pipeline = pipelines.joined(ranker, "greedy")
        served = serve(
            PipelineAgent(pipeline, 5),
            world,
            pipelines.recall,
            STUDY.comparison(),
            name=name,
            users=world.simulated_users,
        )
        rewards[name], gains[name] = served.users["reward"].to_numpy(), requests.gains(pipeline)
    gain = rewards["informed"] - rewards["popular"]
    assert gain.mean() > 2 * gain.std(ddof=1) / np.sqrt(len(gain))
    assert gains["informed"].mean() > gains["popular"].mean()


def test_a_pipeline_that_recalls_everything_gains_what_its_ranker_gains_offline(world, pipelines):
    """With the whole catalogue as candidates and the greedy re-ranker, the slate is the head of the full ranking."""
    everything = Pipelines(world.policy_log, world.num_items, STUDY, pipelines.run)
    ranker = everything.ranker("logistic")
    requests = HeldOutRequests.of(everything.split, everything.joined(ranker, "greedy"))
    assert requests.found().all()
    full = FullRanking.of(ranker, everything.split)
    expected = full.figures(UserBootstrap(len(full.user), draws=1))["ndcg10"].value
    assert np.isclose(requests.gains(everything.joined(ranker, "greedy")).mean(), expected, atol=0.02)


def test_learnt_lives_are_those_of_training_users_under_other_draws_each(world, pipelines, finished):
    run = finished[0]
    lives = collected_lives(world, pipelines.recall, STUDY.comparison(), STUDY.requests, run, "parametric")
    training, _ = split_users(world, STUDY.seed)
    laps = run.table("serving/events/parametric")
    assert len(lives) == len(laps) > 1
    assert abs(laps["requests"].sum() - STUDY.requests) < 0.15 * STUDY.requests
    assert not np.isin(evaluation_users(world, STUDY.comparison()), np.concatenate([lap.user for lap in lives])).any()
    assert np.isin(np.concatenate([lap.user for lap in lives]), training).all()
    assert not np.array_equal(lives[0].item[:200], lives[1].item[:200])
    propensity = np.concatenate([lap.propensity for lap in lives])
    assert (propensity > 0).all() and (propensity <= 1).all() and len(np.unique(propensity)) > 100


def test_the_rows_of_lives_go_on_from_the_last_row_of_their_user(world, finished):
    events = EventLog.read(finished[0].events_path("parametric-lap0"))
    lives, past = lives_log(events, world), world.policy_log.consumed()
    first_request = events.table.filter(events.table["request"].to_numpy() == 0)
    for user, clock in zip(
        first_request["log_user"].to_pylist()[:20], first_request["clock"].to_pylist()[:20], strict=True
    ):
        last = past.timestamp[past.user == user].max()
        # the environment tells the last row to have been at the user's start
        days = (clock - world.start_second[user]) / 86_400
        assert abs(lives.timestamp[lives.user == user].min() - last - days * 86_400) <= 1


def test_propensities_reach_the_loss_where_debias_is_asked_for(world, pipelines, finished, monkeypatch):
    run = finished[0]
    lives = collected_lives(world, pipelines.recall, STUDY.comparison(), STUDY.requests, run, "parametric")
    seen = []
    monkeypatch.setattr(Samples, "__init__", _recording(Samples.__init__, seen))
    for debias in (False, True):
        ranker = Pipelines(world.policy_log, 30, replace(STUDY, debias=debias), run)._new("mf_pointwise")
        ranker.fit(pipelines.split.training_log, pipelines.split.validation_log)
        ranker.update(lives[0], remember=False)
    plain, weighed = seen[2], seen[5]
    assert np.unique(plain).tolist() == [1]
    assert len(np.unique(weighed)) > 100


def _recording(init, seen):
    def recorded(self, history, rows, config, seed, pool=None):
        init(self, history, rows, config, seed, pool)
        seen.append(propensity_weights(history.log, rows, config)[rows])

    return recorded


def test_events_that_are_not_remembered_leave_histories_as_they_were(world, pipelines, finished):
    lives = lives_log(EventLog.read(finished[0].events_path("parametric-lap0")), world)
    kept, moved = (Popularity().fit(pipelines.split.training_log) for _ in range(2))
    before = kept._past.past_item.copy()
    kept.update(lives, remember=False)
    moved.update(lives)
    np.testing.assert_array_equal(kept._past.past_item, before)
    assert not np.array_equal(moved._past.past_item, before)
    np.testing.assert_array_equal(kept.counts_, moved.counts_)


def test_a_loop_of_popularity_concentrates_exposure(world, pipelines, monkeypatch):
    """It begins with all items alike, so that recall's scores decide, and then shows what has been consumed, to everybody."""

    def knows_nothing(name):
        ranker = Popularity().fit(pipelines.split.training_log)
        ranker.counts_ = np.ones_like(ranker.counts_)
        return ranker

    monkeypatch.setattr(pipelines, "ranker", knows_nothing)
    comparison = replace(STUDY.comparison(), users=45)
    for seed in range(3):
        rounds = feedback_loop("popular", pipelines, world, comparison, rounds=2, seed=seed)
        assert rounds["gini"][2] > rounds["gini"][0] + 0.002
        assert rounds["coverage"][2] < rounds["coverage"][0]


def test_likeness_of_what_users_consumed():
    consumed = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]], bool)
    jaccard, cosine = likeness(consumed)  # pairs: 1, 1/3, 1/3 and 1, 1/2, 1/2; who consumed nothing is in no pair
    assert np.isclose(jaccard, 5 / 9) and np.isclose(cosine, 2 / 3)
    assert np.isnan(likeness(consumed[3:])[0])


def test_consumption_tells_who_consumed_what(finished, world):
    events = EventLog.read(finished[0].events_path("parametric-lap0"))
    consumed = consumption(events, world.num_users, world.num_items)
    item, user = events.table["item"].to_numpy(), events.table["log_user"].to_numpy()
    assert len(consumed) == len(np.unique(user))
    assert consumed.sum() == len({pair for pair in zip(user, item, strict=True) if pair[1] >= 0})


def test_what_a_person_reads_holds_the_answer(finished):
    serving, correlations, rounds = finished[1]
    assert len(serving_tables(serving)) == 2 and correlation_table(correlations).row_count == 12
    assert "weak design: only 3 rankers" in answer(correlations)
    figures = serving_figures(serving, correlations, rounds)
    low, value, high = (figures[f"offline_vs_simulated_rank_correlation{end}"] for end in ("_low", "", "_high"))
    assert -1 <= low <= high <= 1 and -1 <= value <= 1
    changes = loop_estimates(rounds).filter((pl.col("round") == 0) & (pl.col("versus") == "round 0"))
    assert (changes["value"] == 0).all()


def test_the_command_prints_the_rank_correlation(tmp_path, capsys):
    arguments = ["rankers", "--dataset", "synthetic", "--fast", "--parts", "serving", "--rankers", "logistic"]
    arguments += ["--users", "4", "--rounds", "1", "--loop-seeds", "1", "--requests", "100", "--debias"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "offline_vs_simulated_rank_correlation_low: " in printed and "weak design" in printed
    drawn = {path.name for path in (tmp_path / "run/plots").iterdir()}
    assert drawn == {"serving.png", "offline_vs_simulated.png", "feedback.png"}
    figures = json.loads((tmp_path / "run/rankers.json").read_text())
    assert "offline_vs_simulated_rank_correlation" in figures
    shares = [value for name, value in figures.items() if name.startswith("recall_share_")]
    assert len(shares) > 1 and np.isclose(sum(shares), 1) and "recall_adds_als_low" in figures
