import numpy as np
import polars as pl
import pytest
from scipy import stats

from evaluation.summary import CATALOGUE_METRICS, METRICS, changed_conclusions, flat_figures, initial_name, summarise

COLUMNS = {name for metric in METRICS for name in (metric.numerator, metric.denominator) if name}


def users_table(rewards, roles=None, seed=0):
    """Per-user results with the given rewards [U] (or [S, U]) of each agent; other columns are drawn."""
    rng = np.random.default_rng(seed)
    parts = []
    for agent, values in rewards.items():
        for training_seed, row in enumerate(np.atleast_2d(values)):
            columns = {name: rng.integers(1, 9, len(row)).astype(float) for name in COLUMNS}
            label = {"agent": agent, "role": (roles or {}).get(agent, "baseline"), "training_seed": training_seed}
            parts.append(
                pl.DataFrame({"user": np.arange(len(row)), **columns, "reward": np.asarray(row, float)}).with_columns(
                    **{name: pl.lit(value) for name, value in label.items()}
                )
            )
    return pl.concat(parts)


def agents_table(rewards):
    return pl.DataFrame([{"agent": agent} | dict.fromkeys(CATALOGUE_METRICS, 0.5) for agent in rewards])


def figure(summary, agent, metric, versus=None):
    same = pl.col("versus").is_null() if versus is None else pl.col("versus") == versus
    rows = summary.filter((pl.col("agent") == agent) & (pl.col("metric") == metric) & same)
    assert len(rows) == 1
    return rows.row(0, named=True)


def test_figures_are_those_of_hand_computation():
    rewards = {"mf": np.array([1.0, 2.0, 3.0, 6.0]), "mmr": np.array([2.0, 2.0, 5.0, 7.0])}
    users = users_table(rewards)
    summary = summarise(users, agents_table(rewards))
    mean = figure(summary, "mmr", "reward")
    margin = stats.t.ppf(0.975, 3) * np.std([2, 2, 5, 7], ddof=1) / 2
    assert (mean["value"], mean["low"], mean["high"]) == pytest.approx((4.0, 4 - margin, 4 + margin))
    paired = figure(summary, "mmr", "reward", "mf")
    test = stats.ttest_rel(rewards["mmr"], rewards["mf"]).confidence_interval()
    assert (paired["value"], paired["low"], paired["high"]) == pytest.approx((1.0, test.low, test.high))
    own = users.filter(pl.col("agent") == "mmr")
    assert figure(summary, "mmr", "diversity")["value"] == pytest.approx(
        own["diversity_sum"].sum() / own["clicks"].sum()
    )
    assert figure(summary, "mmr", "coverage")["value"] == 0.5 and figure(summary, "mmr", "coverage")["low"] is None


def test_users_are_paired_by_name_not_by_row():
    rewards = {"mf": np.arange(6.0), "mmr": np.arange(6.0) + 1}
    users = users_table(rewards)
    shuffled = users.sample(fraction=1.0, shuffle=True, seed=1)
    paired = figure(summarise(shuffled, agents_table(rewards)), "mmr", "reward", "mf")
    assert (paired["low"], paired["value"], paired["high"]) == pytest.approx((1.0, 1.0, 1.0))


def test_the_reward_is_normalised_only_above_noise():
    taste = np.random.default_rng(0).normal(size=50)
    clear = {"random": taste, "mf": taste + 1, "oracle_lookahead": taste + 4}
    summary = summarise(users_table(clear), agents_table(clear))
    assert figure(summary, "mf", "normalised_reward")["value"] == pytest.approx(0.25)
    noisy = {**clear, "oracle_lookahead": np.random.default_rng(1).normal(size=50)}
    assert "normalised_reward" not in summarise(users_table(noisy), agents_table(noisy))["metric"]


def test_a_learner_not_above_its_beginning_is_marked_untrained():
    taste = np.random.default_rng(0).normal(size=50)
    rewards = {"ppo": taste + 1, initial_name("ppo"): taste, "dqn": taste - 1, initial_name("dqn"): taste, "mf": taste}
    roles = {"ppo": "learner", "dqn": "learner", initial_name("ppo"): "initial", initial_name("dqn"): "initial"}
    summary = summarise(users_table(rewards, roles), agents_table(rewards))
    marks = dict(summary.select("agent", "untrained").unique().rows())
    assert marks == {"ppo": False, "dqn": True, "mf": False, initial_name("ppo"): False, initial_name("dqn"): False}
    assert figure(summary, "ppo", "reward", initial_name("ppo"))["value"] == pytest.approx(1)
    figures = flat_figures(summary)
    assert (figures["untrained_ppo"], figures["untrained_dqn"]) == (0, 1)


def test_flat_figures_name_metric_agent_and_difference():
    rewards = {"mf": np.array([1.0, 2.0, 3.0]), "mmr": np.array([2.0, 2.0, 5.0])}
    figures = flat_figures(summarise(users_table(rewards), agents_table(rewards)))
    assert figures["num_users"] == 3 and figures["num_training_seeds"] == 1
    assert figures["reward_mmr"] == pytest.approx(3)
    assert figures["reward_mmr_minus_mf"] == pytest.approx(1)
    assert figures["reward_mmr_minus_mf_low"] < 1 < figures["reward_mmr_minus_mf_high"]
    assert "coverage_mf" in figures and "coverage_mf_low" not in figures


def test_without_the_reference_there_are_no_differences():
    rewards = {"a": np.arange(3.0), "b": np.arange(3.0)}
    assert summarise(users_table(rewards), agents_table(rewards), "mf")["versus"].null_count() == 2 * (
        len(METRICS) + len(CATALOGUE_METRICS)
    )


def test_seeds_of_a_learner_stand_against_one_of_the_reference():
    rewards = {"ppo": np.arange(12.0).reshape(3, 4), "mf": np.zeros(4)}
    paired = figure(summarise(users_table(rewards), agents_table(rewards)), "ppo", "reward", "mf")
    assert (paired["value"], paired["num_seeds"], paired["num_users"]) == (5.5, 3, 4)


def test_conclusions_that_user_models_change_are_told():
    rewards = {
        "mf": np.array([1.0, 2.0, 3.0, 6.0]),
        "good": np.array([2.0, 3.1, 4.0, 7.1]),
        "same": np.array([2.0, 1.0, 3.0, 6.0]),
    }
    users = users_table(rewards).with_columns(user_model=pl.lit(0))
    agents = agents_table(rewards)
    plain = summarise(users, agents)
    own = pl.col("agent") == "good"
    others = [
        users.filter(pl.col("user") != number).with_columns(
            user_model=pl.lit(number), reward=pl.col("reward") + pl.when(own).then(5.0 * number).otherwise(0.0)
        )
        for number in (1, 2, 3)
    ]
    wide = summarise(pl.concat([users, *others]), agents)
    changed = changed_conclusions(plain, wide)
    assert changed.select("agent", "versus").rows() == [("good", "mf")]
    row, paired = changed.row(0, named=True), figure(wide, "good", "reward", "mf")
    assert row["low"] > 0 > row["low_after"] == paired["low"]
    # by hand: the difference moves by 5, 10 and 15 for every user, so by a variance of 25 and nothing by chance
    within = np.var([1.0, 1.1, 1.0, 1.1], ddof=1) / 4
    freedom = (within + 25) ** 2 / (within**2 / 3 + 25**2 / 2)
    assert paired["high"] - paired["value"] == pytest.approx(stats.t.ppf(0.975, freedom) * np.sqrt(within + 25))
    assert changed_conclusions(plain, plain).is_empty()
