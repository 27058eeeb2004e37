from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.stats import ks_2samp, wasserstein_distance

from envs.logs.schema import COLUMNS, InteractionLog
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.users.interest import InterestModel
from envs.users.likelihood import Part, split_events
from envs.users.protocol import ChoiceParams, Trait
from evaluation.fidelity.calendar import real_calendar
from evaluation.fidelity.exposures import exposure_values
from evaluation.fidelity.sequence_features import ItemFeatures
from evaluation.fidelity.study import SOURCES, FidelityConfig, Study, distances, run_sequences, samples
from evaluation.progress import progress
from evaluation.runs import Run

WATCH = ("watch_time", "user_watch_time")
SD = 0.7
"""Noise of log(1 + seconds)."""
Watched = tuple[InteractionLog, InterestModel]


@pytest.fixture(scope="module")
def watched() -> Watched:
    """A log with exposures and watch times of what was clicked, and the model that made it: levels of users and items, noise."""
    log, truth = generate_log(SyntheticConfig(num_users=300, num_items=150, events_per_user=40), seed=4)
    rng = np.random.default_rng(0)
    user, item = 2.5 + rng.normal(0, 0.8, 300).astype(np.float32), rng.normal(0, 0.4, 150).astype(np.float32)
    score = user[log.user] + item[log.item] + rng.normal(0, SD, len(log))
    grid = np.linspace(0, 8, 400)
    traits = truth.user_traits.copy()
    traits[:, Trait.RATING] = user
    model = replace(
        truth,
        params=replace(truth.params, rating_slope=0.0, rating_sd=SD),
        user_traits=traits,
        rating_item=item,
        rating_grid=np.expm1(grid),
        rating_cuts=(grid[1:] + grid[:-1]) / 2,
        choice=ChoiceParams(outside=truth.fit_report["outside"]),
    )
    return with_watch_times(log, np.where(log.clicked, np.expm1(np.maximum(score, 0)), np.nan)), model


def with_watch_times(log: InteractionLog, seconds: NDArray[np.float64]) -> InteractionLog:
    return replace(log, rating=np.full(len(log), np.nan, np.float32), watch_seconds=seconds.astype(np.float32))


def test_real_watch_times_are_those_of_held_out_clicks(watched: Watched) -> None:
    log, _ = watched
    found = exposure_values(None, log, np.arange(300), seed=0)
    split, consumed = split_events(log), log.consumed()
    held_out = split.row[split.part == Part.TEST]
    of_user = np.bincount(consumed.user[held_out], np.log1p(consumed.watch_seconds[held_out]), minlength=300)
    shown = np.bincount(found["watch_time"].user, found["watch_time"].value, minlength=300)
    # a user's last request is left out, which is a click or not
    last = np.flatnonzero(np.diff(log.request, append=-1) != 0)
    last = last[np.diff(log.user[last], append=-1) != 0]
    clicked = [rows[log.clicked[rows]] for rows in (np.flatnonzero(log.request == log.request[row]) for row in last)]
    left_out = np.array([np.log1p(log.watch_seconds[rows]).sum() for rows in clicked])
    assert_allclose(shown, of_user - left_out, atol=1e-4)
    counts = np.bincount(found["watch_time"].user, minlength=300)
    assert_allclose(found["user_watch_time"].value, (shown / np.maximum(counts, 1))[counts > 0])


def ratios(log: InteractionLog, model: InterestModel, folder: Path) -> dict[tuple[str, str], float]:
    """(source, aspect) -> distance over floor of a study."""
    study = Study.of(log, model, FidelityConfig(splits=20))
    run = Run.create(folder, "fidelity", {})
    features, calendar = ItemFeatures.of(log.catalogue, study.split), real_calendar(log, study.date, study.users)
    found = samples(study, run_sequences(study, run, progress), (calendar, [calendar]), features)
    table = distances(study, found, run, progress)
    assert set(SOURCES) < set(table.filter(pl.col("aspect") == "watch_time")["source"])
    return {(row["source"], row["aspect"]): row["ratio"] for row in table.iter_rows(named=True)}


def test_watch_times_of_the_model_that_made_them_are_at_the_floor(watched: Watched, tmp_path: Path) -> None:
    log, model = watched
    ratio = ratios(log, model, tmp_path / "own")
    assert ratio["model", "watch_time"] < 1.5
    assert ratio["model", "user_watch_time"] < 1.5
    # who draws from what anybody watches has the right times, but users who are all alike
    assert ratio["popularity", "watch_time"] < 1.5
    assert ratio["popularity", "user_watch_time"] > 2 * ratio["model", "user_watch_time"]
    assert ratio["static", "user_watch_time"] < ratio["popularity", "user_watch_time"]


def test_the_distance_grows_with_the_perturbation(watched: Watched) -> None:
    log, model = watched
    everyone = np.arange(300)
    ours = exposure_values(model, log, everyone, seed=0)
    found = []
    for factor in (1.0, 1.25, 1.5, 2.0):
        real = exposure_values(None, with_watch_times(log, factor * log.watch_seconds), everyone, seed=0)
        found.append([wasserstein_distance(ours[name].value, real[name].value) for name in WATCH])
    assert (np.diff(found, axis=0) > 0.1).all()


def test_watch_times_are_compared_without_exposures_and_not_where_engagement_is_a_rating(watched: Watched) -> None:
    log, model = watched
    everyone, consumed = np.arange(300), log.consumed()
    bare = replace(consumed, request=np.full(len(consumed), -1))
    real, ours = exposure_values(None, bare, everyone, seed=0), exposure_values(model, bare, everyone, seed=0)
    assert set(real) == set(ours) == {*WATCH}
    split = split_events(bare)
    held_out = split.row[split.part == Part.TEST]
    assert_allclose(np.expm1(real["watch_time"].value), bare.watch_seconds[held_out], rtol=1e-4, atol=1e-4)
    assert_array_equal(real["watch_time"].user, ours["watch_time"].user)
    assert ours["user_watch_time"].value.mean() == pytest.approx(real["user_watch_time"].value.mean(), abs=0.05)
    assert np.corrcoef(ours["user_watch_time"].value, real["user_watch_time"].value)[0, 1] > 0.4
    rated = replace(log, rating=np.where(log.clicked, 3, np.nan).astype(np.float32))
    assert set(exposure_values(model, rated, everyone, seed=0)) == {"click_rate"}


def test_a_slate_is_answered_by_position_and_not_by_the_order_of_its_rows(watched: Watched) -> None:
    log, model = watched
    order = np.lexsort((-log.position, log.request, log.user))
    columns = {name: getattr(log, name)[order] for name in COLUMNS if getattr(log, name) is not None}
    turned = replace(log, **columns)
    for name, values in exposure_values(model, log, np.arange(300), seed=0).items():
        assert_array_equal(exposure_values(model, turned, np.arange(300), seed=0)[name].value, values.value)


def test_the_item_that_is_watched_is_the_one_that_is_chosen(watched: Watched) -> None:
    log, model = watched
    level = np.linspace(1, 7, 150)  # of each item another one, so that watch times tell the item
    telling = replace(
        model,
        params=replace(model.params, rating_slope=0.0, rating_sd=1e-6),
        user_traits=np.zeros_like(model.user_traits),
        rating_item=level,
        rating_grid=np.expm1(level),
        rating_cuts=(level[1:] + level[:-1]) / 2,
    )
    real = exposure_values(None, with_watch_times(log, np.expm1(level[log.item])), np.arange(300), seed=0)
    ours = exposure_values(telling, log, np.arange(300), seed=0)
    items = [np.abs(values["watch_time"].value[:, None] - level).argmin(axis=1) for values in (ours, real)]
    assert ks_2samp(*(model.item_bias[item] for item in items)).pvalue > 0.05
