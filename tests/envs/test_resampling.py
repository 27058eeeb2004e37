import numpy as np
import pytest
from fitted_logs import draw_log, make_model
from numpy.testing import assert_array_equal

from envs.errors import ConfigurationError
from envs.users.fit import FitConfig, fit_interest_model
from envs.users.resampling import half_of_users, resampled_model


def test_halves_are_halves_and_differ() -> None:
    one, other = half_of_users(101, 1), half_of_users(101, 2)
    assert one.sum() == other.sum() == 50
    assert (one != other).any()
    assert_array_equal(one, half_of_users(101, 1))


def test_refitted_models_spread_about_the_fitted_one_and_keep_its_users() -> None:
    log = draw_log(make_model(users=80, items=40, strength=2.0, short_weight=3.0), events=40)
    model = fit_interest_model(log, FitConfig(epochs=3, embedding_size=8), progress=False)
    found = [resampled_model(model, log, seed, max_events=300) for seed in (1, 2, 3)]
    for other in found:
        assert_array_equal(other.item_embedding, model.item_embedding)
        assert_array_equal(other.user_traits, model.user_traits)
    for name in ("short_weight", "short_decay"):
        values = [getattr(other.params, name) for other in found]
        assert np.ptp(values) > 0
        row = next(row for row in model.table if row["name"] == name)
        half_width = (row["high"] - row["low"]) / 2
        assert np.abs(np.array(values) - getattr(model.params, name)).max() < 2.5 * half_width
    leaving = [other.visits.leave_intercept for other in found]
    assert np.ptp(leaving) > 0 and abs(np.mean(leaving) - model.visits.leave_intercept) < 0.5
    assert resampled_model(model, log, 1, max_events=300).params == found[0].params


def test_a_model_without_a_parametric_part_is_refused() -> None:
    log = draw_log(make_model(), events=5)
    with pytest.raises(ConfigurationError, match="--user-model-seeds"):
        resampled_model(object(), log, 0, max_events=300)  # type: ignore[arg-type]
