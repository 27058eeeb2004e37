"""A small version of `benchmarks/recovery.py`: a fit with exposures finds what made the log; without them it cannot."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from benchmarks.recovery import CONFIG, recover, without_exposures
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.users.exposure_fit import ExposureFitConfig
from envs.users.exposure_start import beginning
from envs.users.exposures import requests_of
from envs.users.fit import FitConfig, fit_interest_model, fit_key
from envs.users.interest import InterestModel

SMALL = replace(CONFIG, num_users=400, events_per_user=120, num_items=150, embedding_size=4)
FIT = ExposureFitConfig(embedding_size=4, epochs=25)


@pytest.fixture(scope="module")
def recovered():
    return recover(SMALL, seed=0, fit=FIT)


@pytest.mark.slow
def test_the_fit_finds_what_made_the_log(recovered):
    error = {name: estimate.error for name, estimate in recovered.found.items()}
    assert error["lambda"] < 0.05
    assert error["alpha"] < 0.08
    assert error["beta"] < 0.12
    assert error["kappa"] < 0.25
    assert error["eta"] < 0.1
    assert error["gamma"] < 0.15
    assert error["position"] < 0.05
    assert error["outside"] < 0.15
    assert error["omega"] < 0.5
    assert error["phi"] < 0.3
    assert recovered.utility_rank_correlation > 0.955


@pytest.mark.slow
def test_intervals_hold_the_truth_and_are_no_wider_than_they_must_be(recovered):
    found = recovered.found
    assert found["omega"].covered.mean() >= 0.85
    assert np.concatenate([found[name].covered for name in ("lambda", "gamma", "short_half_life")]).all()
    # an interval that held the truth because it held everything would tell nothing
    spread = (found["omega"].high - found["omega"].low) / 3.92
    off = found["omega"].value - found["omega"].truth
    assert 0.6 < np.sqrt(np.mean((off / spread) ** 2)) < 1.5
    assert float(found["lambda"].high[0] - found["lambda"].low[0]) < 0.15
    assert float(found["gamma"].high[0] - found["gamma"].low[0]) < 0.4


@pytest.mark.slow
def test_intervals_of_what_the_fit_gets_wrong_are_wide_enough(recovered):
    found = recovered.found
    assert np.concatenate([found[name].covered for name in ("alpha", "beta", "kappa", "eta", "outside")]).all()
    assert float(found["alpha"].high[0] - found["alpha"].low[0]) < 0.9
    assert float(found["eta"].high[0] - found["eta"].low[0]) < 0.02


@pytest.mark.slow
def test_a_log_without_exposures_tells_neither_outside_option_nor_positions(recovered):
    without = recover(SMALL, seed=0, fit=FIT, exposures=False)
    assert {"outside", "position"} <= set(recovered.found)
    assert not {"outside", "position"} & set(without.found)
    assert without.found["alpha"].error > recovered.found["alpha"].error
    assert without.utility_rank_correlation < recovered.utility_rank_correlation


def test_leaving_exposures_out_leaves_what_was_consumed():
    log, _ = generate_log(SyntheticConfig(num_users=20, events_per_user=10), seed=0)
    bare = without_exposures(log)
    assert_array_equal(bare.item, log.item[log.clicked])
    assert bare.clicked.all()
    assert (bare.request == -1).all()


def test_the_beginning_tells_satiation_from_categories_that_draw_each_other():
    config = SyntheticConfig(num_users=400, events_per_user=60, num_items=200, embedding_size=6, walk_sd=0.0)
    log, truth = generate_log(config, seed=1)
    first = beginning(requests_of(log), log.catalogue.categories, 6, np.random.default_rng(0))
    weights = log.catalogue.categories
    centres = np.linalg.lstsq(weights, truth.item_embedding, rcond=None)[0]
    off_diagonal = ~np.eye(len(centres), dtype=bool)

    def between(vectors):
        apart = vectors - vectors.mean(axis=0)
        return (apart @ apart.T)[off_diagonal]

    assert np.corrcoef(between(first.centres), between(centres))[0, 1] > 0.6
    assert 0.1 < first.satiation_gain < 0.9
    assert 0.3 <= first.short_weight <= 4.0


@pytest.fixture(scope="module")
def fitted():
    log, _ = generate_log(SyntheticConfig(num_users=30, events_per_user=20, num_items=60, embedding_size=4), seed=0)
    config = FitConfig(exposures=ExposureFitConfig(embedding_size=4, epochs=3))
    return log, config, fit_interest_model(log, config, progress=False)


def test_a_log_with_exposures_is_fitted_to_its_slates(fitted):
    _, _, model = fitted
    rows = {row["name"]: row for row in model.table}
    assert len(rows) == len(model.table)
    for name in ("outside_option", "position_logits", "leave_miss", "impatience", "short_weight"):
        assert rows[name]["source"] == "fitted"
        assert rows[name]["low"] < rows[name]["value"] < rows[name]["high"]
    widened = {name for name, row in rows.items() if "allowance" in row["note"]}
    assert widened == {"long_weight", "long_rate", "short_weight", "satiation_gain"}
    assert rows["outside_option"]["value"] == pytest.approx(model.choice.outside)
    assert rows["leave_miss"]["value"] == pytest.approx(model.visits.leave_miss)
    assert model.fit_report["exposures"] < model.fit_report["exposures_constant"] + 0.3
    for name in asdict(model.params):
        assert rows[name]["value"] == pytest.approx(getattr(model.params, name))


def test_choice_is_saved_with_the_model(fitted, tmp_path):
    _, _, model = fitted
    model.save(tmp_path / "model.npz")
    assert InterestModel.load(tmp_path / "model.npz").choice == model.choice


def test_exposures_can_be_left_aside(fitted):
    log, config, _ = fitted
    plain = FitConfig(exposures=None, embedding_size=4, epochs=2)
    model = fit_interest_model(log, plain, progress=False)
    assert model.choice.outside is None
    assert "exposures" not in model.fit_report
    assert fit_key(log, plain) != fit_key(log, config)
    assert fit_key(log, config) != fit_key(without_exposures(log), config)


def test_same_seed_same_fit_with_exposures(fitted):
    log, config, model = fitted
    again = fit_interest_model(log, config, progress=False)
    assert_array_equal(again.item_embedding, model.item_embedding)
    assert again.params == model.params


def test_a_log_without_categories_is_fitted_too(fitted):
    log, config, _ = fitted
    plain = replace(log.catalogue, category_names=(), categories=np.zeros((len(log.catalogue), 0), np.float32))
    model = fit_interest_model(replace(log, catalogue=plain), config, progress=False)
    assert model.choice.outside is not None
    assert np.isfinite(model.item_embedding).all()
    rows = {row["name"]: row for row in model.table}
    assert rows["short_weight"]["low"] < rows["short_weight"]["high"]
