from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.stats import wasserstein_distance

from envs.errors import ConfigurationError
from envs.logs.schema import COLUMNS
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.users.protocol import Trait
from envs.world import World, WorldConfig, build_world
from evaluation.population_report import population_figures, population_report, population_table


@pytest.fixture(scope="module")
def drawn_world() -> World:
    log, model = generate_log(SyntheticConfig(num_users=150, num_items=120, events_per_user=25), seed=2)
    return build_world(log, model, WorldConfig(drawn_users=150, held_back_share=0))


@pytest.fixture(scope="module")
def report(drawn_world: World) -> pl.DataFrame:
    return population_report(drawn_world)


def distance(report: pl.DataFrame, quantity: str) -> float:
    return report.filter(pl.col("quantity") == quantity)["distance"][0]


def test_drawn_users_lie_within_what_sampling_makes(report: pl.DataFrame) -> None:
    for quantity in (
        *("parameters, means", "parameters, covariances", "parameters, spreads", "parameters, mean coordinate"),
        *("trait rating", "history, log items", "history, category entropy"),
    ):
        row = report.filter(pl.col("quantity") == quantity).row(0, named=True)
        assert 0 < row["distance"] < 1.5 * row["floor"], quantity
    # the generator gives all users the same visits and tastes, so there is nothing to draw
    for trait in (Trait.LEAVE, Trait.GAP, Trait.RETURN, Trait.POPULARITY, Trait.NOVELTY, Trait.FOCUS):
        row = report.filter(pl.col("quantity") == f"trait {trait.name.lower()}").row(0, named=True)
        assert row["distance"] == row["floor"] == 0


def test_lengths_of_histories_are_compared_user_by_user(drawn_world: World, report: pl.DataFrame) -> None:
    log = drawn_world.policy_log
    doubled = np.sort(np.concatenate([np.arange(len(log)), np.flatnonzero(log.user >= 150)]))
    columns = {name: getattr(log, name)[doubled] for name in COLUMNS if getattr(log, name) is not None}
    twice = population_report(replace(drawn_world, policy_log=replace(log, **columns)))
    row, own = (
        table.row(by_predicate=pl.col("quantity") == "history, log items", named=True) for table in (twice, report)
    )
    counts = np.bincount(log.user[log.clicked])
    logged = np.log1p(counts[:150][counts[:150] > 0])
    drawn = np.log1p(2 * counts[150:][: len(logged)])
    assert (row["logged"], row["drawn"]) == pytest.approx((logged.mean(), drawn.mean()))
    assert row["distance"] == pytest.approx(wasserstein_distance(logged, drawn))
    assert row["floor"] == own["floor"]


def test_a_wrong_population_is_told(drawn_world: World, report: pl.DataFrame) -> None:
    """Twice the spread and another mean in every coordinate; and histories that are all alike."""
    newcomers = drawn_world.newcomers
    population = newcomers.population
    wide = replace(population, spread=2 * population.spread, mean=population.mean + 0.5)
    wrong = population_report(replace(drawn_world, newcomers=replace(newcomers, population=wide)))
    for quantity in ("parameters, means", "parameters, spreads", "parameters, mean coordinate"):
        assert distance(wrong, quantity) > 3 * distance(report, quantity), quantity
    log = drawn_world.policy_log
    alike = replace(log, item=np.where(log.user < 150, log.item, log.item % 5).astype(np.int32))
    same = population_report(replace(drawn_world, policy_log=alike))
    for quantity in ("history, items", "history, Gini of popularity", "history, category entropy"):
        assert distance(same, quantity) > 2 * distance(report, quantity), quantity


def test_traits_are_those_with_which_runs_begin() -> None:
    log, model = generate_log(SyntheticConfig(num_users=80, num_items=60, events_per_user=25), seed=2)
    model = replace(model, visits=replace(model.visits, leave_ageing=0.8, gap_ageing=0.6))
    world = build_world(log, model, WorldConfig(drawn_users=80, held_back_share=0))
    report = population_report(world)
    traits = world.start_state(world.num_logged + np.arange(80), np.zeros(80, np.int64)).interest.traits
    own = model.user_traits.astype(np.float64)
    for trait in (Trait.LEAVE, Trait.GAP):
        row = report.row(by_predicate=pl.col("quantity") == f"trait {trait.name.lower()}", named=True)
        spread = own[:, trait].std() or 1.0
        assert row["drawn"] == pytest.approx((traits[:, trait].mean() - own[:, trait].mean()) / spread, abs=1e-4)


def test_it_is_told_as_table_and_as_figures(report: pl.DataFrame) -> None:
    assert population_table(report).row_count == len(report)
    figures = population_figures(report)
    assert figures["population_history_items"] == distance(report, "history, items")
    assert "population_trait_leave_floor" in figures


def test_without_drawn_users_there_is_nothing_to_compare(world: World) -> None:
    with pytest.raises(ConfigurationError, match="drawn_users"):
        population_report(world)
