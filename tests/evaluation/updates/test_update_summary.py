"""Tables of a study of update policies, from made-up days and by hand."""

from dataclasses import dataclass

import made_up_studies as made_up
import numpy as np
import polars as pl
import pytest

from agents.updates.monitoring import UpdateAction
from agents.updates.policies.base import UpdatePolicy
from envs.errors import ConfigurationError
from evaluation.updates.summary import alike, fields_of, importance, margins_table, points_table, summary_table


def test_rewards_lie_between_never_and_hindsight():
    table = summary_table(made_up.days()).filter(pl.col("metric") == "normalised_reward")
    of_shock = table.filter(pl.col("scenario") == "shock")
    rewards = dict(of_shock.select("policy", "value").iter_rows())
    # rewards beyond never's: 0.5 - 0.2, 0.7 - 0.1 and 1.0 - 0.1
    expected = {"never": 0.0, "every(2, full_retrain)": 0.3 / 0.9, "dqn": 0.6 / 0.9, "hindsight": 1.0}
    assert rewards == pytest.approx(expected)
    assert dict(of_shock.select("policy", "role").iter_rows()) == made_up.ROLES


def test_rewards_are_raw_where_hindsight_is_not_above_never():
    table = summary_table(made_up.days(0.0))
    assert table.filter(pl.col("metric") == "normalised_reward")["scenario"].unique().to_list() == ["shock"]
    raw = table.filter((pl.col("scenario") == "stationary") & (pl.col("metric") == "reward"))
    assert raw["value"].to_list() == pytest.approx([1.0] * 4)


def test_updates_are_counted_by_kind():
    table = summary_table(made_up.days()).filter((pl.col("scenario") == "shock") & (pl.col("policy") == "dqn"))
    counts = dict(table.select("metric", "value").iter_rows())
    assert [counts[kind] for kind in ("updates", "retrains", "challenges", "rollbacks")] == [1.0, 0.0, 1.0, 1.0]


def test_points_are_means_over_seeds_with_intervals():
    points = points_table(made_up.days()).filter(pl.col("scenario") == "shock")
    rows = {row["policy"]: row for row in points.iter_rows(named=True)}
    assert rows["dqn"]["engagement"] == pytest.approx(1.7) and rows["dqn"]["cost"] == pytest.approx(0.1)
    margin = 4.302653 * 0.1 / np.sqrt(3)  # t of two degrees of freedom
    assert rows["dqn"]["engagement_high"] - rows["dqn"]["engagement"] == pytest.approx(margin, rel=1e-5)
    # luck of the seeds, met by all, is no part of what a policy gains over never
    assert [rows["dqn"][f"gain{end}"] for end in ("", "_low", "_high")] == pytest.approx([0.7] * 3)
    # dqn gives more for less than the rule, which is on the rules' front alone
    assert [name for name, row in rows.items() if row["on_front"]] == ["never", "dqn"]
    assert [name for name, row in rows.items() if row["on_rules_front"]] == ["never", "every(2, full_retrain)"]


def test_margins_are_above_the_rules_at_the_cost_of_rl():
    table = margins_table(made_up.days(), {"shock": "dqn"})
    (row,) = table.iter_rows(named=True)
    # at a cost of 0.1 the rules' front gives 1.25; luck is the same for all, so there is none in the difference
    assert row["value"] == pytest.approx(0.45) and row["low"] == pytest.approx(0.45)
    assert row["against"] == "50% never + 50% every(2, full_retrain)"
    assert (row["cost"], row["seeds"]) == (pytest.approx(0.1), 3)


def test_policies_judged_on_other_seeds_are_refused():
    days = made_up.days().filter((pl.col("policy") != "dqn") | (pl.col("seed") > 0))
    with pytest.raises(ConfigurationError, match="different seeds"):
        points_table(days)


@dataclass
class WhenTired(UpdatePolicy):
    """Retrains when the first number is above a half, by `memory` also when it was so before."""

    name = "when tired"
    memory: bool = False

    def begin(self):
        self.tired = False

    def act(self, observation):
        self.tired = observation[0] > 0.5 or (self.memory and self.tired)
        return UpdateAction.FULL_RETRAIN if self.tired else UpdateAction.KEEP


def _episodes():
    numbers = np.random.default_rng(0).random((2, 40, 4)).astype(np.float32)
    return [(observations, np.ones((40, len(UpdateAction)), np.int8)) for observations in numbers]


def test_importance_is_of_what_a_policy_looks_at():
    table = importance(WhenTired(), _episodes(), ["mood", "noise", "hour_sin", "hour_cos"], draws=4)
    assert table["field"].to_list() == ["mood", "noise", "hour"]
    changed = dict(table.select("field", "changed").iter_rows())
    assert changed["noise"] == changed["hour"] == 0
    assert 0.3 < changed["mood"] < 0.7 and table["flipped"][0] == changed["mood"]
    assert table["changed_low"][0] < changed["mood"] < table["changed_high"][0]


def test_importance_shuffles_within_an_episode():
    """One episode of nothing but tired moments and one of none: in neither would another moment have changed a decision."""
    masks = np.ones((20, len(UpdateAction)), np.int8)
    episodes = [(np.full((20, 1), mood, np.float32), masks) for mood in (0.9, 0.1)]
    assert importance(WhenTired(), episodes, ["mood"])["changed"].to_list() == [0.0]


def test_importance_begins_policies_anew():
    """Of one that stays tired for good, only decisions up to the first tired one can change."""
    remembering = importance(WhenTired(memory=True), _episodes(), ["mood", "a", "b", "c"], draws=4)
    assert remembering["changed"][0] < 0.1


def test_importance_of_nothing_is_refused():
    with pytest.raises(ConfigurationError, match="importance needs"):
        importance(WhenTired(), [], ["mood"])


def test_a_sine_and_a_cosine_are_one_field():
    fields = fields_of(["age", "weekday_sin", "weekday_cos"])
    assert [(field.name, field.columns) for field in fields] == [("age", (0,)), ("weekday", (1, 2))]


def test_a_learner_that_does_what_a_rule_does_is_told_by_its_actions():
    days = made_up.days().filter(pl.col("scenario") == "shock")
    assert alike(days) == {}
    habit = days.filter(pl.col("policy") == "every(2, full_retrain)").select("seed", "day", same="action")
    copied = days.join(habit, on=["seed", "day"]).with_columns(
        action=pl.when(pl.col("policy") == "dqn").then("same").otherwise("action")
    )
    assert alike(copied.sample(fraction=1.0, shuffle=True, seed=0)) == {"dqn": "every(2, full_retrain)"}
    once = (pl.col("policy") == "dqn") & (pl.col("seed") == 1) & (pl.col("day") == 3)
    assert alike(copied.with_columns(action=pl.when(once).then(1).otherwise("action"))) == {}


def test_a_learner_that_is_a_rule_is_never_above_the_rules():
    """Three rules of which now one, now another is the best: the other seeds choose worse than the rule that the learner is."""
    luck = {"a": (0.0, 3.0, 0.0, 0.0), "b": (3.0, 0.0, 0.0, 0.0), "never": (0.0, 0.0, 0.0, 0.0)}
    rows = [
        {"scenario": "shock", "role": "rl" if name == "dqn" else "rule", "policy": name, "seed": seed, "day": 0}
        | {"engagement": luck["a" if name == "dqn" else name][seed], "cost": 0.0, "action": int(name != "never")}
        for name in ("never", "a", "b", "dqn")
        for seed in range(4)
    ]
    days = pl.DataFrame(rows).with_columns(reward=pl.col("engagement") - pl.col("cost"))
    twin = margins_table(days, {"shock": "dqn"}).row(0, named=True)
    assert twin["alike"] == "a" and twin["value"] <= 0 and twin["low"] < 0 and twin["high"] == 0
    other = days.with_columns(action=pl.when(pl.col("policy") == "dqn").then(5).otherwise("action"))
    found = margins_table(other, {"shock": "dqn"}).row(0, named=True)
    assert found["alike"] == "" and found["high"] > 0 and found["low"] == twin["low"]
