"""`simulate.py updates` from end to end in the smallest worlds."""

import json
from dataclasses import replace

import polars as pl
import pytest

import simulate
from agents.updates.costs import Prices
from agents.updates.models import ServedModels
from envs.logs.synthetic import SyntheticConfig, generate_log
from evaluation.options import UpdateOptions
from evaluation.runs import Run

LOG, MODEL = generate_log(SyntheticConfig(num_users=40, num_items=130, events_per_user=10), seed=0)
TINY = ["updates", "--fast", "--dataset", "synthetic", "--days", "4", "--visits", "8", "--episodes", "3", "--jobs", "1"]


@pytest.fixture
def _tiny(monkeypatch):
    """Users are those who made the log, not fitted; nothing is drawn."""
    monkeypatch.setattr(simulate, "load_log", lambda *how, **more: LOG)
    monkeypatch.setattr(simulate, "fit_user_model", lambda *how: MODEL)
    monkeypatch.setattr(simulate, "save_figures", lambda run: [])


@pytest.mark.usefixtures("_tiny")
def test_a_study_ends_with_its_figures_and_resumes_where_it_was_cut(tmp_path, capsys, monkeypatch):
    own = tmp_path / "mine.py"
    own.write_text(
        "from agents.updates.policies import UpdatePolicy\n\n"
        "class Impatient(UpdatePolicy):\n    name = 'impatient'\n\n    def act(self, observation):\n        return 3\n"
    )
    command = [*TINY, "--update-agents", f"{own}:Impatient"]
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        # cut before anything is judged
        patch.setattr("evaluation.updates.study.judging_jobs", lambda arena: (_ for _ in ()).throw(KeyboardInterrupt))
        assert simulate.main([*command, "--out", str(out)]) == 130
    assert "--resume" in capsys.readouterr().err
    tuned = sorted((out / "tables/updates/tuned").glob("*.parquet"))
    before = [path.stat().st_mtime_ns for path in tuned]
    assert len(before) == 2 * 4 + 2  # of each scenario two rules, a learner, one's own, and the learner's curve
    assert simulate.main([*command, "--resume", str(out)]) == 0
    assert [path.stat().st_mtime_ns for path in tuned] == before
    figures = json.loads((out / "updates.json").read_text())
    told = capsys.readouterr().out.splitlines()
    for scenario in ("shock", "news"):
        for name in (f"rl_minus_best_rule_{scenario}", f"decay_30_days_{scenario}"):
            assert {name, f"{name}_low", f"{name}_high"} <= set(figures)
            assert any(line.startswith(f"{name}: ") for line in told)
    assert "rl_unmet_minus_best_rule_news" in figures and "rl_unmet_minus_best_rule_shock" not in figures

    run = Run.open(out)
    days = run.table("updates")
    assert days.group_by("scenario", "policy").agg(pl.len())["len"].unique().to_list() == [2 * 4]
    assert {"never", "every(1, full_retrain)", "impatient", "dqn", "hindsight"} <= set(days["policy"])
    for name in ("updates_decay", "updates_summary", "updates_margins", "updates_budget", "updates_monitoring"):
        assert pl.read_csv(out / f"{name}.csv").shape == run.table(name).shape
    # versions are names: as numbers 0.1 would be 0.10
    watched = pl.read_csv(out / "updates_monitoring.csv", schema_overrides={"policy_version": pl.String})
    assert watched["policy_version"].to_list() == run.table("updates_monitoring")["policy_version"].to_list()
    # rules alone make the front that RL is compared with
    roles = dict(days.select("policy", "role").iter_rows())
    assert (roles.pop("impatient"), roles.pop("dqn"), roles.pop("hindsight")) == ("own", "rl", "reference")
    assert set(roles.values()) == {"rule"}
    # no policy of an episode earns more than the best schedule that was replayed on it
    rewards = days.group_by("scenario", "seed", "policy").agg(pl.col("reward").mean())
    best = rewards.filter(pl.col("policy") == "hindsight").select("scenario", "seed", best="reward")
    joined = rewards.join(best, on=["scenario", "seed"])
    assert (joined["reward"] <= joined["best"] + 1e-9).all()
    tuning = run.table("updates_budget").filter(pl.col("stage") == "tuning or training")
    episodes = dict(tuning.group_by("policy").agg(pl.col("episodes").sum()).iter_rows())
    assert episodes["every"] == episodes["cara"] == episodes["impatient"] == 2 * 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--scenarios", "shok"], "shock"),
        (["--scenarios", "shock,shock"], "twice"),
        (["--scenarios", ","], "--scenarios is empty"),
        (["--update-agents", "no/such.py:Policy"], "no/such.py"),
        (["--update-agents", "sb3:SAC"], "sb3:PPO, sb3:A2C, sb3:DQN"),
        (["--update-agents", "dqn"], "'dqn'"),
        (["--update-agents", "sb3:PPO,sb3:PPO"], "'sb3:PPO'"),
        (["--update-seeds", "1001"], "at most 1000"),
        (["--event-delay", "-1"], "--event-delay"),
        (["--update-price", "-1"], "--update-price"),
        (["--fast", "--reference"], "exclude each other"),
        (["--hours", "0"], "--hours"),
        (["--episodes", "2"], "--episodes"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(arguments, told, capsys, tmp_path):
    assert simulate.main(["updates", *arguments, "--out", str(tmp_path / "run")]) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("ranker", UpdateOptions(reference=True).study().rankers)
def test_rankers_of_the_reference_can_be_served_and_learn_quickly(ranker):
    config = UpdateOptions(reference=True).study().environment(ranker)
    models = ServedModels(config.embedding, ranker=ranker, settings=config.settings)
    assert models.ranker.config.training.epochs == 3 and models.ranker.config.samples.label == "consumed"


def test_hours_buy_episodes_and_options_reach_the_study():
    plain, longer = (UpdateOptions(reference=True, hours=hours).study() for hours in (None, 5.0))
    assert longer.episodes == 2 * plain.episodes and longer.scenarios == plain.scenarios
    study = UpdateOptions(scenarios="slow-drift", event_delay=6.0, update_seeds=7, days=9, visits=11, seed=3).study()
    assert (study.scenarios, study.event_delay, study.seeds, study.days, study.visits, study.seed) == (
        ("slow-drift",),
        6.0,
        7,
        9,
        11,
        3,
    )


def test_dearer_updates_cost_more_and_change_nothing_else():
    plain, dear = (UpdateOptions(update_price=price).study() for price in (1.0, 30.0))
    for ranker in ("logistic", "din"):
        charged = [study.environment(ranker).prices.per_billion for study in (plain, dear)]
        assert charged[1] == pytest.approx(30 * charged[0]) and charged[0] == Prices().per_billion
        assert replace(dear.environment(ranker), prices=Prices()) == plain.environment(ranker)
