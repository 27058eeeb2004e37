from dataclasses import replace

import polars as pl
import pytest
from scipy import stats

from agents.updates.environment import ModelUpdateEnv
from agents.updates.market import Market
from agents.updates.monitoring import UpdateAction
from agents.updates.policies.base import UpdatePolicy
from agents.updates.policies.rules import Every, Never
from agents.updates.study import run_update_study, summarise_updates, update_figures
from envs.errors import AgentError, ConfigurationError

POLICIES = {"never": Never(), "daily": Every(1), "daily incremental": Every(1, UpdateAction.UPDATE_BOTH)}


@pytest.fixture(scope="module")
def days(market) -> pl.DataFrame:
    return run_update_study([market], POLICIES, [0, 1, 2])


def test_one_row_for_each_policy_seed_and_day(days, config):
    assert len(days) == 3 * 3 * config.days
    assert not days.select("policy", "seed", "day").is_duplicated().any()
    assert days["policy"].unique(maintain_order=True).to_list() == ["never", "daily", "daily incremental"]
    wrong = days.filter((pl.col("reward") - pl.col("engagement") + pl.col("cost")).abs() > 1e-9)
    assert not len(wrong)


def test_policies_meet_the_same_first_day(days):
    first = days.filter(pl.col("day") == 0).group_by("seed").agg(pl.col("clicks").n_unique())
    assert (first["clicks"] == 1).all()


def test_summary_is_paired_on_the_seeds(days):
    row = summarise_updates(days).filter((pl.col("policy") == "daily") & (pl.col("metric") == "engagement"))
    means = {
        name: days.filter(pl.col("policy") == name).group_by("seed").agg(pl.col("engagement").mean()).sort("seed")
        for name in ("daily", "never")
    }
    first, second = (means[name]["engagement"].to_numpy() for name in ("daily", "never"))
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert row["value"][0] == pytest.approx(first.mean())
    assert row["difference"][0] == pytest.approx((first - second).mean())
    assert (row["difference_low"][0], row["difference_high"][0]) == pytest.approx((expected.low, expected.high))


def test_a_single_seed_has_no_interval(days):
    summary = summarise_updates(days.filter(pl.col("seed") == 0))
    assert summary["low"].null_count() == summary["difference_low"].null_count() == len(summary)
    assert summary.filter(pl.col("policy") == "daily")["difference"].null_count() == 0


def test_flat_figures_are_daily_means(days, config):
    figures = update_figures(summarise_updates(days))
    costs = days.filter(pl.col("policy") == "daily incremental")["cost"].to_numpy()
    assert figures["updates_cost_daily_incremental"] == pytest.approx(costs.sum() / (3 * config.days))
    assert figures["updates_cost_never"] == 0
    assert set(figures) >= {"updates_engagement_daily", "updates_cost_daily", "updates_reward_daily"}


def test_progress_counts_the_periods(market, config):
    reported: list[int] = []
    run_update_study([market], {"never": Never()}, [5, 6], reported.append)
    assert reported == list(range(1, 2 * config.days + 1))


def test_tables_have_what_policies_saw(days, market, config):
    own = days.filter((pl.col("policy") == "daily") & (pl.col("seed") == 0))
    env = ModelUpdateEnv(market)
    observation, info = env.reset(seed=0)
    for row in own.iter_rows(named=True):
        assert row["observation"] == observation.tolist() and row["mask"] == info["action_mask"].tolist()
        observation, _, _, _, info = env.step(row["asked"])
    assert own["action"].to_list() == [0] + [UpdateAction.FULL_RETRAIN] * (config.days - 1)


def test_each_seed_may_have_a_market_of_its_own(world, config):
    small, large = (Market(world, replace(config, visits_per_day=visits)) for visits in (10, 20))
    days = run_update_study([small, large], {"never": Never()}, [3, 4])
    assert days.group_by("seed").agg(pl.col("visits").max()).sort("seed")["visits"].to_list() == [10, 20]
    with pytest.raises(ConfigurationError, match="2 markets for 3 seeds"):
        run_update_study([small, large], {"never": Never()}, [3, 4, 5])


def test_an_action_that_there_is_not_is_refused_by_name(market):
    class Odd(UpdatePolicy):
        name = "odd"

        def act(self, observation):
            return 7

    with pytest.raises(AgentError, match="'odd' returned the action 7"):
        run_update_study([market], {"odd": Odd()}, [0])


@pytest.mark.parametrize(("policies", "seeds"), [({}, [0]), ({"never": Never()}, []), ({"never": Never()}, [1, 1])])
def test_an_empty_or_repeated_study_is_refused(market, policies, seeds):
    with pytest.raises(ConfigurationError, match="seed"):
        run_update_study([market], policies, seeds)


@pytest.mark.slow
def test_episodes_side_by_side_are_the_same(market):
    policies = {"never": Never(), "daily": Every(1)}
    alone, aside = (run_update_study([market], policies, [0, 1], jobs=jobs) for jobs in (1, 2))
    assert aside.drop("seconds", "serve_seconds").equals(alone.drop("seconds", "serve_seconds"))
