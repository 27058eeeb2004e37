from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from scipy.special import softmax

from agents.updates.decay import EARLY, LATE, METRICS, SEEDS, Decay, Judge, _loss, measure_decay
from agents.updates.intervals import mean_interval
from agents.updates.market import KNOWN_ITEMS, Market, UpdateConfig
from agents.updates.models import ServedModels
from agents.updates.traffic import PipelineConfig, Traffic
from envs.engine import utilities
from envs.errors import ConfigurationError
from envs.logs.schema import InteractionLog
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.scenarios import scenario
from recall.embedding import EmbeddingConfig


@pytest.fixture(scope="module")
def fitted():
    generated = generate_log(SyntheticConfig(num_users=40, num_items=80, events_per_user=20), seed=3)
    return lambda: generated


def models(log: InteractionLog) -> ServedModels:
    return ServedModels(EmbeddingConfig(dimension=4, iterations=2), ranker=None).fit(log)


def test_the_judge_expects_what_users_do(world):
    """Against choices drawn by the engine, and against the catalogue scored item by item."""
    pipeline = PipelineConfig(num_candidates=40)
    judge, clicks, expected, served = Judge(world), 0, 0.0, []
    for seed in range(30):
        traffic = Traffic(world, np.arange(world.num_users), pipeline, 1, seed)
        day = traffic.serve(0, 200, models_of(world), lambda told: (judge(told), served.append(told)))
        visits = judge.visits()
        clicks, expected = clicks + day.clicks, expected + visits["engagement"].sum()
    assert clicks == pytest.approx(expected, rel=0.05)
    told = served[-1]
    row = 7
    users = told.users.take(np.array([row]))
    everything = np.arange(world.num_items, dtype=np.int32)[None, :]
    ages = np.maximum((users.clock[:, None] - world.birth_clock) / 86_400, 0).astype(np.float32)
    utility = utilities(world.user_model, world.preference(users), everything, ages)[0].astype(np.float64)
    utility[np.unpackbits(told.excluded[row], bitorder="little", count=world.num_items) == 1] = -np.inf
    chance = softmax(utility)
    seen = visits.filter(pl.col("user") == users.user[0]).row(0, named=True)
    candidates = told.observation.candidates
    assert seen["recall_100"] == pytest.approx(chance[candidates.items[row][candidates.mask[row] == 1]].sum(), rel=1e-4)
    shown = told.slates[row]
    gain = sum(chance[item] / np.log2(place + 2) for place, item in enumerate(shown) if item >= 0)
    assert seen["ndcg_10"] == pytest.approx(gain, rel=1e-4)


_MODELS = {}


def models_of(world) -> ServedModels:
    return _MODELS.setdefault(id(world), models(world.policy_log))


def test_curves_have_every_day_and_seed_and_progress_is_told(fitted):
    told = []
    worlds = [scenario("season", fitted=fitted, days=4, visits_per_day=10, seed=seed) for seed in (0, 1)]
    pipeline = PipelineConfig(num_candidates=30, explore_slots=0)
    decay = measure_decay(worlds, models, days=range(1, 4), pipeline=pipeline, report=told.append)
    assert told == [1, 2, 3, 4, 5, 6]
    assert decay.curves.select("seed", "day").rows() == [(seed, day) for seed in (0, 1) for day in (1, 2, 3)]
    for metric in (*METRICS, "clicks"):
        assert decay.curves[metric].is_between(0, 1).all()
    summary = decay.summary()
    assert len(summary) == 3 * len(METRICS) and (summary["low"] <= summary["value"]).all()
    # too short to tell
    assert np.isnan(decay.loss()[0])
    with pytest.raises(ConfigurationError, match="at least one world"):
        measure_decay([], models)


def test_worlds_measured_one_by_one_have_traffic_of_their_own(fitted):
    """As a study does: other visitors and choices where the seed is another, the same ones where it is the same."""
    worlds = [scenario("season", fitted=fitted, days=2, visits_per_day=10, seed=seed) for seed in (0, 1)]
    options = {"days": [1, 2], "pipeline": PipelineConfig(num_candidates=30, explore_slots=0)}
    together = measure_decay(worlds, models, **options).curves
    alone = [measure_decay([world], models, seeds=[seed], **options).curves for seed, world in enumerate(worlds)]
    assert together.equals(pl.concat(alone))
    other = measure_decay([worlds[0]], models, seeds=[7], **options).curves
    assert other["seed"].to_list() == [7, 7]
    assert other["engagement"].to_list() != alone[0]["engagement"].to_list()
    with pytest.raises(ConfigurationError, match="1 seeds of traffic for 2 worlds"):
        measure_decay(worlds, models, seeds=[0])


@pytest.mark.parametrize("name", ["season", "stationary"])
def test_what_decays_are_the_models_that_a_market_begins_with(fitted, name):
    """To the bit: of a crowd its last items are known, too; of users who come once, nothing."""
    asked = scenario(name, fitted=fitted, days=2, visits_per_day=10)
    pipeline = PipelineConfig(num_candidates=30, explore_slots=0)
    config = UpdateConfig(days=2, pipeline=pipeline)
    logs = []

    def make(log: InteractionLog) -> ServedModels:
        logs.append(log)
        return config.models().fit(log)

    curves = measure_decay([asked], make, days=[1, 2], pipeline=pipeline).curves
    market = Market.of(asked, config)
    (log,), first = logs, ServedModels.of(market.first)
    for column in ("user", "item", "timestamp", "clicked", "request"):
        np.testing.assert_array_equal(getattr(log, column), getattr(market.log, column))
    known = len(log) - int(market.world.policy_log.clicked.sum())
    assert known == 0 if name == "stationary" else 0 < known <= KNOWN_ITEMS * 30
    traffic = market.traffic(0)
    clicks = [traffic.serve(day, traffic.due_visits(day), first).engagement for day in (0, 1)]
    assert curves["clicks"].to_list() == pytest.approx(clicks)


@pytest.mark.slow
def test_models_age_in_each_scenario_as_it_demands():
    """By expected engagement: fresh users within two percent with their interval, the others beyond a crowd that returns.

    The interval is one over users for fresh ones, who are thousands, and over worlds, seed by seed, for the others. Users of a
    generated log have tastes so strong that in a month they drift too little to be seen.
    """
    generated = generate_log(SyntheticConfig(num_users=100, num_items=120, events_per_user=20), seed=3)
    lost = {}
    for name, visits, seeds in (
        ("stationary", 1_000, 1),
        *[(name, 60, 5) for name in ("returning", "shock", "news")],
    ):
        worlds = [
            scenario(name, fitted=lambda: generated, days=30, visits_per_day=visits, seed=seed) for seed in range(seeds)
        ]
        lost[name] = measure_decay(worlds, models, days=[*range(1, 8), *range(24, 31)])
    value, low, high = lost.pop("stationary").loss()
    assert -0.02 < low < value < high < 0.02
    crowd = lost.pop("returning").losses["loss"]
    for name, decay in lost.items():
        _, low, _ = mean_interval((decay.losses["loss"] - crowd).to_numpy())
        assert low > 0, name


def test_days_without_traffic_are_no_division_by_zero(fitted):
    quiet = scenario("shock", fitted=fitted, days=2, visits_per_day=0)
    decay = measure_decay(
        [quiet], models, days=range(1, 3), pipeline=PipelineConfig(num_candidates=30, explore_slots=0)
    )
    assert decay.curves["visits"].to_list() == [0, 0]
    assert decay.curves["engagement"].is_nan().all()


def visits(early: float, late: float, users: int, noise: float = 0.0, seed: int = 0) -> pl.DataFrame:
    """Everybody comes once early and once late."""
    own = 1 + noise * np.random.default_rng(seed).normal(size=users)
    day = np.repeat([EARLY[0], LATE[1]], users)
    return pl.DataFrame(
        {"user": np.tile(np.arange(users), 2), "day": day, "engagement": np.append(early * own, late * own)}
    )


def test_the_loss_is_relative_and_paired_on_users():
    loss, error = _loss(visits(0.4, 0.3, users=50, noise=0.3))
    assert loss == pytest.approx(0.25) and error == pytest.approx(0, abs=1e-12)
    apart = visits(0.4, 0.3, users=50, noise=0.3).with_columns(user=pl.int_range(100))
    assert _loss(apart)[1] > 0.02
    between = visits(0.4, 0.3, users=5).with_columns(day=pl.lit(EARLY[1] + 1))
    assert np.isnan(_loss(between)[0])


def test_the_loss_is_of_the_last_week_against_the_first():
    """By hand: 0.4 on each of days 1 to 7, 0.3 on each of days 24 to 30, and something else in between."""
    worth = {day: 0.4 if day <= 7 else 0.3 if day >= 24 else 9.0 for day in range(1, 31)}
    table = pl.DataFrame(
        {"user": [0, 1] * 30, "day": np.repeat(list(worth), 2), "engagement": np.repeat(list(worth.values()), 2)}
    )
    assert _loss(table)[0] == pytest.approx(0.25)
    for day in (1, 7, 24, 30):
        more = table.with_columns(engagement=pl.when(pl.col("day") == day).then(0.0).otherwise("engagement"))
        assert _loss(more)[0] != pytest.approx(0.25)


def test_intervals_are_over_users_with_few_seeds_and_over_seeds_with_many():
    rng = np.random.default_rng(1)
    none = pl.DataFrame()
    few = Decay(none, pl.DataFrame({"seed": [0, 1], "loss": [0.1, 0.2], "error": [0.03, 0.04]}))
    assert_allclose(few.loss(), (0.15, 0.15 - 1.96 * 0.025, 0.15 + 1.96 * 0.025), rtol=1e-3)
    loss = rng.normal(0.1, 0.02, size=SEEDS)
    many = Decay(none, pl.DataFrame({"seed": range(SEEDS), "loss": loss, "error": [1.0] * SEEDS}))
    value, low, high = many.loss()
    assert value == pytest.approx(loss.mean())
    assert high - low == pytest.approx(2 * 2.776 * loss.std(ddof=1) / np.sqrt(SEEDS), rel=1e-3)
    assert many.figures("news") == {
        "decay_30_days_news": value,
        "decay_30_days_news_low": low,
        "decay_30_days_news_high": high,
    }


def test_models_lose_more_the_faster_items_are_renewed(fitted):
    """A frozen pipeline knows nothing of what was born since."""
    losses = []
    for life in (4.0, 400.0):
        news = scenario("news", fitted=fitted, days=30, visits_per_day=30, life_days=life)
        pipeline = PipelineConfig(num_candidates=20)
        losses.append(measure_decay([news], models, days=[1, 2, 29, 30], pipeline=replace(pipeline)).loss()[0])
    assert losses[0] > losses[1] + 0.05
