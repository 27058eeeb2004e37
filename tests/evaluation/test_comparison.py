from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from polars.testing import assert_frame_equal

from agents.base import Agent
from agents.heuristics import Freshest, Popular, Random
from agents.loading import resolve_agent
from agents.oracles import OracleMyopic
from envs.errors import AgentError, ConfigurationError
from envs.measures import RewardWeights
from evaluation.comparison import ComparisonConfig, ServingConfig, compare, evaluation_users, serve, split_users


@pytest.fixture(scope="module")
def fitted(small_world):
    log = small_world.policy_log
    return {"random": Random(5).fit(log), "popular": Popular(5).fit(log), "freshest": Freshest(5).fit(log)}


@pytest.fixture(scope="module")
def result(fitted, small_world, candidate_source, small):
    agents = {**fitted, "popular_again": fitted["popular"], "oracle": OracleMyopic(5)}
    return compare(agents, small_world, candidate_source, small)


def rows_of(table, agent):
    return table.filter(pl.col("agent") == agent).drop("agent", "role")


def test_training_and_evaluation_users_are_halves_without_overlap(small_world):
    training, evaluation = split_users(small_world, seed=3)
    assert len(np.intersect1d(training, evaluation)) == 0
    assert_array_equal(np.sort(np.concatenate([training, evaluation])), np.arange(small_world.num_users))
    assert abs(len(training) - len(evaluation)) <= 1
    assert not np.array_equal(training, split_users(small_world, seed=4)[0])


def test_fewer_users_are_some_of_the_evaluation_users(small_world, small):
    users = evaluation_users(small_world, replace(small, users=7))
    assert len(users) == 7 and np.isin(users, split_users(small_world, small.seed)[1]).all()
    assert len(evaluation_users(small_world, replace(small, users=10_000))) == small_world.num_users // 2


def test_one_user_is_too_few():
    with pytest.raises(ConfigurationError, match="at least 2"):
        ComparisonConfig(users=1)


def test_everyone_meets_the_same_users(result, small_world, small):
    expected = evaluation_users(small_world, small)
    for (_,), part in result.users.group_by("agent"):
        assert_array_equal(part["user"].to_numpy(), expected)


def test_one_policy_under_two_names_differs_by_exactly_zero(result):
    assert_frame_equal(rows_of(result.users, "popular"), rows_of(result.users, "popular_again"))
    differences = result.summary("popular").filter(
        (pl.col("agent") == "popular_again") & (pl.col("versus") == "popular")
    )
    assert len(differences) > 10
    assert differences.select(pl.col("value", "low", "high").abs().max()).row(0) == (0.0, 0.0, 0.0)


def test_other_policies_do_differ(result):
    summary = result.summary("random")
    oracle = summary.filter(
        (pl.col("agent") == "oracle") & (pl.col("metric") == "reward") & (pl.col("versus") == "random")
    ).row(0, named=True)
    assert oracle["low"] > 0 and oracle["role"] == "oracle"


def test_who_else_is_compared_changes_nothing(fitted, result, small_world, candidate_source, small):
    alone = serve(fitted["popular"], small_world, candidate_source, small, name="popular")
    assert_frame_equal(alone.users, result.users.filter(pl.col("agent") == "popular"))


def test_per_user_sums_agree_with_the_event_log(result, small_world):
    """The event log is written by the environment, the sums by the comparison."""
    table = pl.from_arrow(result.events["popular-seed0"].table)
    totals = table.group_by("log_user").agg(
        requests=pl.len(),
        clicks=(pl.col("item") >= 0).sum(),
        visits=pl.col("visit").max() + 1,
        rating_sum=pl.col("rating").filter(pl.col("item") >= 0).sum(),
    )
    users = rows_of(result.users, "popular").join(totals, left_on="user", right_on="log_user", suffix="_logged")
    assert len(users) == len(rows_of(result.users, "popular"))
    for name in ("requests", "clicks", "visits", "rating_sum"):
        assert_allclose(users[name], users[f"{name}_logged"], rtol=1e-5, err_msg=name)
    shown = table["slate"].explode().value_counts().filter(pl.col("slate") >= 0)
    exposure = result.agents.filter(pl.col("agent") == "popular")
    assert exposure["coverage"][0] == pytest.approx(len(shown) / small_world.num_items)
    assert set(table["policy_version"]) == {"popular"}


def test_return_days_are_told_by_the_event_log(result, small_world):
    """A user came back within a day (a week) if its second visit begins that soon after the first one's last request; whoever's
    first visit ends later than that before the horizon does not count."""
    events = pl.from_arrow(result.events["random-seed0"].table)
    visits = events.group_by("log_user", "visit").agg(begin=pl.col("clock").min(), end=pl.col("clock").max())
    first = visits.filter(pl.col("visit") == 0)
    second = visits.filter(pl.col("visit") == 1)
    both = first.join(second, on="log_user", suffix="_second", how="left")
    days = (both["begin_second"] - both["end"]).fill_null(np.inf) / 86_400
    left = small_world.config.days - both["end"] / 86_400
    users = rows_of(result.users, "random")
    for limit in (1, 7):
        assert 0 < users[f"day_{limit}"].sum() == ((days <= limit) & (left >= limit)).sum()
        assert users[f"day_{limit}"].sum() < users[f"day_{limit}_told"].sum() == (left >= limit).sum()
    assert users["day_7"].max() == 1


def test_the_time_to_exposure_is_told_by_the_event_log(result, small_world):
    events = pl.from_arrow(result.events["random-seed0"].table)
    shown = events.explode("slate").filter(pl.col("slate") >= 0).group_by("slate").agg(pl.col("clock").min())
    born = np.flatnonzero(small_world.born_in_run & (small_world.birth_clock < small_world.config.days * 86_400))
    first = shown.filter(pl.col("slate").is_in(born))
    days = (first["clock"].to_numpy() - small_world.birth_clock[first["slate"].to_numpy()]) / 86_400
    exposure = result.agents.filter(pl.col("agent") == "random")
    assert (days >= 0).all() and exposure["days_to_exposure"][0] == pytest.approx(days.mean())
    assert exposure["born_exposed"][0] == pytest.approx(len(first) / len(born))


def test_the_scalar_reward_is_the_weighted_sum(result, fitted, small_world, candidate_source, small):
    users = result.users
    assert_allclose(
        users["reward"], users["clicks"] + 0.5 * users["diversity_sum"] + 0.5 * users["fresh_clicks"], rtol=1e-5
    )
    only_clicks = RewardWeights(diversity=0, freshness=0)
    config = replace(small, serving=replace(small.serving, reward_weights=only_clicks))
    served = serve(fitted["popular"], small_world, candidate_source, config, name="popular")
    assert_array_equal(served.users["reward"], served.users["clicks"])


def test_interests_are_shares_recorded_at_each_request_of_the_traced_users(result, small_world, small):
    traced = rows_of(result.interest, "popular")
    assert traced["user"].n_unique() == small.traced_users
    sums = traced.group_by("user", "request").agg(pl.col("share").sum(), pl.len())
    assert_allclose(sums["share"], 1, rtol=1e-5)
    assert set(sums["len"]) == {small_world.policy_log.catalogue.num_categories}
    requests = rows_of(result.users, "popular").filter(pl.col("user").is_in(traced["user"].unique().to_list()))
    assert len(sums) == requests["requests"].sum()


def test_several_training_seeds_are_told_apart(fitted, small_world, candidate_source, small):
    agents = {"random": [Random(5, seed=0), Random(5, seed=1)], "popular": fitted["popular"]}
    summary = compare(agents, small_world, candidate_source, small).summary("popular")
    seeds = dict(
        summary.filter((pl.col("metric") == "reward") & pl.col("versus").is_null()).select("agent", "num_seeds").rows()
    )
    assert seeds == {"random": 2, "popular": 1}
    paired = summary.filter(
        (pl.col("agent") == "random") & (pl.col("metric") == "reward") & (pl.col("versus") == "popular")
    )
    assert paired["num_seeds"][0] == 2


class Returns(Agent):
    """Returns what a test wants."""

    def __init__(self, make):
        super().__init__(slate_size=5)
        self.make = make

    def act(self, observation):
        return self.make(len(observation))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda count: np.tile(np.arange(4), (count, 1)), "shape"),
        (lambda count: np.tile(np.arange(5), (count + 1, 1)), "shape"),
        (lambda count: np.tile(np.arange(5.0), (count, 1)), "integers"),
        (lambda count: np.tile([0, 1, 2, 3, 20], (count, 1)), "0 to 19"),
        (lambda count: np.tile([0, 1, 2, 3, -1], (count, 1)), "0 to 19"),
        (lambda count: np.tile([0, 1, 2, 3, 2], (count, 1)), "twice"),
    ],
)
def test_slates_that_cannot_be_shown_are_refused(small_world, candidate_source, small, make, said):
    with pytest.raises(AgentError, match=said) as caught:
        compare({"faulty": Returns(make)}, small_world, candidate_source, small)
    assert "'faulty'" in str(caught.value)


def test_an_exception_in_an_own_agent_names_the_agent_file_and_line(small_world, candidate_source, small):
    def fails(count):
        return {}["no such key"]

    with pytest.raises(AgentError, match=r"'mine' failed in act \(.*test_comparison.py, line \d+\): KeyError"):
        compare({"mine": Returns(fails)}, small_world, candidate_source, small)


def test_propensities_reach_the_event_log(result):
    table = result.events["random-seed0"].table
    assert np.isfinite(table["propensity"].combine_chunks().flatten().to_numpy(zero_copy_only=False)).all()


def test_a_comparison_may_keep_no_events(fitted, small_world, candidate_source):
    config = ComparisonConfig(serving=ServingConfig(slate_size=5, num_candidates=20), record_events=False, users=3)
    assert len(serve(fitted["popular"], small_world, candidate_source, config, name="popular").events) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_shards_serve_the_same_lives_to_the_bit(small_world, candidate_source, small, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\nfrom agents.base import Agent\n\n\nclass Odd(Agent):\n    def act(self, observation):\n"
        "        order = observation.candidates.age + 3 * observation.history_days[:, :1] % 7\n"
        "        return np.argsort(order, axis=1, kind='stable')[:, : self.slate_size]\n"
    )
    config = replace(small, traced_users=3)
    agents = {"odd": resolve_agent(f"{tmp_path / 'mine.py'}:Odd")(5), "oracle": OracleMyopic(5)}
    for name, agent in agents.items():
        whole = serve(agent, small_world, candidate_source, config, name=name)
        parts = serve(agent, small_world, candidate_source, config, name=name, shards=3)
        assert_frame_equal(whole.users, parts.users)
        assert_frame_equal(whole.agents.drop("serve_seconds"), parts.agents.drop("serve_seconds"))
        assert_frame_equal(whole.interest, parts.interest)
        assert_frame_equal(pl.from_arrow(whole.events.table), pl.from_arrow(parts.events.table))
    assert len(whole.events) > 100
