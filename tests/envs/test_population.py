from dataclasses import replace

import numpy as np
import pytest
from fitted_logs import draw_log, make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from envs.errors import LogError
from envs.users.population import Population, aged, fit_population
from envs.users.protocol import Trait, VisitParams


def fitted(kind: str, users: int = 400) -> tuple[Population, np.ndarray]:
    """(population, the log users' parameters): tastes in four directions of unequal spread, or in three clusters."""
    model = make_model(users=users, size=4)
    random = np.random.default_rng(1)
    tastes = random.normal(size=(users, 4)) @ random.normal(size=(4, 4))
    if kind == "mixture":
        tastes = random.normal(size=(users, 4)) * 0.2 + np.eye(4)[random.integers(3, size=users)] * 9
    traits = np.column_stack([random.normal(size=(users, len(Trait) - 1)), np.zeros(users)])
    model = replace(model, user_embedding=tastes.astype(np.float32), user_traits=traits.astype(np.float32))
    return fit_population(model, draw_log(model, 12)), model.user_parameters


@pytest.fixture(scope="module", params=["bootstrap", "mixture"])
def population(request: pytest.FixtureRequest) -> tuple[Population, np.ndarray]:
    return fitted(request.param)


def test_clusters_are_told_from_a_cloud() -> None:
    assert fitted("mixture")[0].kind == "mixture"


def test_means_and_covariances_are_preserved(population: tuple[Population, np.ndarray]) -> None:
    fitted_to, parameters = population
    drawn = fitted_to.draw(np.arange(60_000), seed=3).parameters
    scale = np.maximum(parameters.std(axis=0), 1e-3)
    assert_allclose(drawn.mean(axis=0) / scale, parameters.mean(axis=0) / scale, atol=0.05)
    covariance = np.cov(parameters.T) / np.outer(scale, scale)
    assert_allclose(np.cov(drawn.T) / np.outer(scale, scale), covariance, atol=0.05)


def test_drawn_users_are_nobodys_copies(population: tuple[Population, np.ndarray]) -> None:
    fitted_to, parameters = population
    drawn = fitted_to.draw(np.arange(3_000), seed=0).parameters
    differing = parameters.std(axis=0) > 0
    assert len(np.unique(drawn[:, differing], axis=0)) == 3_000
    assert not (drawn[:, None, differing] == parameters[None, :, differing]).all(axis=2).any()
    assert_array_equal(drawn[:, ~differing], np.broadcast_to(parameters[0, ~differing], drawn[:, ~differing].shape))


@settings(max_examples=20, deadline=None)
@given(
    number=st.integers(-(2**40), 2**40), others=st.lists(st.integers(-100, 100), max_size=40), seed=st.integers(0, 99)
)
def test_a_user_does_not_depend_on_the_batch(number: int, others: list[int], seed: int) -> None:
    drawn = SMALL.draw(np.array([number]), seed)
    among = SMALL.draw(np.array([*others, number, *others]), seed)
    for name in ("parameters", "parent", "length", "start_second"):
        assert_array_equal(getattr(drawn, name)[0], getattr(among, name)[len(others)])


SMALL = fitted("bootstrap", users=40)[0]


def test_another_seed_draws_others() -> None:
    assert (SMALL.draw(np.arange(50), 1).parameters != SMALL.draw(np.arange(50), 2).parameters).any(axis=1).all()


def test_activity_and_tastes_are_drawn_jointly() -> None:
    """Where those of a high first taste consume more, so do the drawn ones."""
    model = make_model(users=300, size=2)
    log = draw_log(model, 29)
    kept = log.place < np.where(model.user_embedding[:, 0] > 0, 25, 5)[log.user]
    drawn = fit_population(model, log.where(kept)).draw(np.arange(5_000), 0)
    high = drawn.parameters[:, 0] > np.quantile(drawn.parameters[:, 0], 0.8)
    low = drawn.parameters[:, 0] < np.quantile(drawn.parameters[:, 0], 0.2)
    assert drawn.length[high].mean() > 1.5 * drawn.length[low].mean()
    assert drawn.length.min() >= 5 and drawn.length.max() <= 25


def test_users_are_drawn_as_they_began() -> None:
    """Traits that nothing but ageing has made differ: nobody's do when a life begins, and `aged` gives them back."""
    model = replace(make_model(users=200), visits=VisitParams(leave_ageing=0.5, gap_ageing=0.4))
    log = draw_log(model, 12)
    visits = log.visit[log.user_starts[1:] - 1] + 1
    assert visits.std() > 0
    model = replace(model, user_traits=(model.visits.ageing(visits) - 0.3).astype(np.float32))
    drawn = fit_population(model, log).draw(np.arange(200), 0).parameters
    assert_allclose(drawn[:, -len(Trait) :], -0.3, atol=1e-6)
    assert_allclose(aged(drawn, visits, model.visits)[:, -len(Trait) :], model.user_traits, atol=1e-6)


def test_parents_are_log_users_who_consumed_something() -> None:
    model = make_model(users=30)
    log = draw_log(model, 6)
    log = log.where(~np.isin(log.user, [0, 7, 29]))
    drawn = fit_population(model, log).draw(np.arange(2_000), 0)
    assert not np.isin([0, 7, 29], drawn.parent).any() and len(np.unique(drawn.parent)) > 20


def test_one_user_is_no_population() -> None:
    model = make_model()
    log = draw_log(model, 4)
    with pytest.raises(LogError, match="at least 2"):
        fit_population(model, log.where(log.user == 2))


def test_distributions_are_tried_once_for_the_same_users_and_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other births change nothing, other users or another seed do; of more than are kept the oldest is tried again."""
    model = make_model(users=40)
    log, tried = draw_log(model, 10), []

    def try_all(white: np.ndarray, seed: int) -> dict[str, float]:
        tried.append(seed)
        return {"bootstrap 1": 0.0}

    monkeypatch.setattr("envs.users.population._LIKELIHOODS", {})
    monkeypatch.setattr("envs.users.population.KEPT_LIKELIHOODS", 2)
    monkeypatch.setattr("envs.users.population._tried_on_held_out", try_all)
    first = fit_population(model, log)
    older = replace(log, catalogue=log.catalogue.with_birth(log.catalogue.birth - 9))
    assert_array_equal(fit_population(model, older).centres, first.centres)
    assert tried == [0]
    fit_population(model, log.where(log.user != 3))
    fit_population(model, log, seed=1)
    fit_population(model, log, seed=1)
    assert tried == [0, 0, 1]
    fit_population(model, log)
    assert tried == [0, 0, 1, 0]
