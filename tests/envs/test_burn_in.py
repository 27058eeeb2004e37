from dataclasses import replace

import numpy as np
import pytest
from fitted_logs import draw_log, make_model
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, softmax

from envs.catalogue_calendar import ItemCalendar
from envs.users.burn_in import BLOCK_ROWS, Past, burn_in
from envs.users.population import fit_population
from envs.users.protocol import Trait, VisitParams, age_effect

DAY = 86_400
ITEMS = 30


def past_of(**changes: object) -> Past:
    birth = np.full(ITEMS, -900.0 * DAY)
    birth[20:25] = -3 * DAY
    retire = np.full(ITEMS, np.inf)
    retire[10:15] = -3 * DAY
    settings: dict = {
        "calendar": ItemCalendar(birth_clock=birth, retire_clock=retire),
        "available": np.arange(ITEMS) != 29,
        "first_weekday": 2,
        "earliest": -40.0 * DAY,
        "repeats": False,
    }
    return Past(**settings | changes)


@pytest.fixture(scope="module")
def model():
    visits = VisitParams(leave_intercept=-0.5, gap_log_mean=0.5, gap_log_sd=1.0)
    return replace(make_model(users=60, items=ITEMS), visits=visits)


@pytest.fixture(scope="module")
def population(model):
    return fit_population(model, draw_log(model, 14))


@pytest.fixture(scope="module")
def burnt(model, population):
    return burn_in(model, population, np.arange(500), 0, past_of())


def test_histories_have_the_drawn_lengths_and_end_when_the_run_begins(burnt) -> None:
    consumed = (burnt.items >= 0).sum(axis=1)
    assert_array_equal(consumed, burnt.users.length)
    last = np.take_along_axis(burnt.clock, burnt.users.length[:, None] - 1, axis=1)[:, 0]
    assert_array_equal(last, burnt.users.start_second)
    known = burnt.items[:, 1:] >= 0
    assert (np.diff(burnt.clock, axis=1)[known] >= 0).all()
    assert burnt.clock[burnt.items >= 0].min() >= -40 * DAY


def test_only_open_items_are_consumed_and_none_twice(burnt) -> None:
    for items, clock in zip(burnt.items, burnt.clock, strict=True):
        items, clock = items[items >= 0], clock[: (items >= 0).sum()]
        assert len(np.unique(items)) == len(items)
        assert not (items == 29).any()
        assert (clock[(items >= 20) & (items < 25)] >= -3 * DAY).all()
        assert (clock[(items >= 10) & (items < 15)] < -3 * DAY).all()
    assert (burnt.items == 22).any() and (burnt.items == 12).any()


def test_a_user_is_the_same_in_every_batch(model, population, burnt) -> None:
    chosen = np.array([480, 3, 77, 3])
    again = burn_in(model, population, chosen, 0, past_of())
    size = again.items.shape[1]
    assert_array_equal(again.items, burnt.items[chosen][:, :size])
    assert_array_equal(again.clock, burnt.clock[chosen][:, :size])
    for name in ("long_term", "short_term", "satiation", "traits"):
        assert_array_equal(getattr(again.state, name), getattr(burnt.state, name)[chosen])
    assert len(burnt.items) > 2 * BLOCK_ROWS
    other = burn_in(model, population, chosen, 1, past_of())
    assert (other.items[:, :5] != again.items[:, :5]).any(axis=1).all()


def test_threads_change_no_bit(model, population, burnt, monkeypatch: pytest.MonkeyPatch) -> None:
    for count in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", count)
        again = burn_in(model, population, np.arange(500), 0, past_of())
        assert_array_equal(again.items, burnt.items)
        assert_array_equal(again.rating, burnt.rating)
        assert_array_equal(again.state.long_term, burnt.state.long_term)


def test_the_first_choice_follows_the_multinomial_logit(model, population) -> None:
    """Many draws of one user: frequencies of its first item are the model's probabilities."""
    one = replace(
        population,
        centres=np.repeat(population.centres[:1], len(population.centres), axis=0),
        factors=np.zeros_like(population.factors),
    )
    past = past_of(longest=1)
    drawn = burn_in(model, one, np.arange(20_000), 0, past)
    assert (drawn.users.parameters == drawn.users.parameters[0]).all()
    hour = (drawn.clock[:, 0] % DAY / 3600).astype(np.float32)
    state = model.start(drawn.users.parameters[:1])
    expected = np.zeros(ITEMS)
    for part in np.unique(hour):
        preference = model.preference(state, np.array([part]), np.array([2]), np.zeros(1, int))
        utility = preference[0] @ model.item_vectors.T + model.item_bias
        utility = utility + age_effect(model.age_values, (-past.calendar.birth_clock / DAY).astype(np.float32))
        utility[~(past.calendar.is_open(0) & past.available)] = -np.inf
        expected += softmax(utility) * (hour == part).mean()
    assert_allclose(np.bincount(drawn.items[:, 0], minlength=ITEMS) / 20_000, expected, atol=0.012)


def test_visits_and_gaps_are_the_models(model, population, burnt) -> None:
    """The share of items that end a visit, later visits' first items, and the median of the gaps."""
    gaps = np.diff(burnt.clock, axis=1)
    known = (burnt.items[:, 1:] >= 0) & (burnt.clock[:, :-1] > -39 * DAY)
    after_first = np.concatenate([np.zeros((len(gaps), 1), bool), gaps[:, :-1] > 3600], axis=1)
    leave = 1 / (1 + np.exp(-model.visits.leave_logit(np.zeros(1, int))[0]))
    back = 1 / (1 + np.exp(-model.visits.return_intercept))
    chance = leave * back / (1 - leave + leave * back)  # whoever left is known to have come back
    assert_allclose((gaps > 3600)[known & after_first].mean(), chance, atol=0.03)
    days = gaps[known & (gaps > 3600)] / DAY
    assert_allclose(np.log(days).mean(), 0.5, atol=0.12)


@pytest.fixture(scope="module")
def ageing(model):
    """A model of users who age fast, and many of their histories."""
    visits = replace(model.visits, leave_intercept=-0.3, leave_log_place=0.0, leave_ageing=0.7, gap_ageing=0.8)
    model = replace(model, visits=visits)
    population = fit_population(model, draw_log(model, 14))
    past = past_of(earliest=-4_000.0 * DAY)
    return model, population, past, burn_in(model, population, np.arange(1_500), 0, past)


def begins_of(burnt):
    """[N, L] whether a visit of a history begins there."""
    known = np.arange(burnt.clock.shape[1]) < burnt.users.length[:, None]
    return known & (np.diff(burnt.clock, axis=1, prepend=-np.inf) > 3600)


def test_users_age_through_their_histories(ageing) -> None:
    """The first gaps are those of a user who has had one visit, later ones longer by the slope times the log of the visits; so are
    the chances of leaving."""
    model, population, _, burnt = ageing
    begun = population.draw(burnt.users.number, 0).parameters[:, -len(Trait) :]
    begins = begins_of(burnt)
    visit = begins.cumsum(axis=1) - 1
    known = np.arange(1, begins.shape[1]) < burnt.users.length[:, None]
    rows, places = np.nonzero(known & begins[:, 1:])
    log_days = np.log((burnt.clock[rows, places + 1] - burnt.clock[rows, places]) / DAY)
    slope, start = np.polyfit(np.log(visit[rows, places] + 1), log_days - begun[rows, Trait.GAP], 1)
    assert slope == pytest.approx(0.8, abs=0.1)
    assert start == pytest.approx(0.5, abs=0.1)
    back = expit(model.visits.return_intercept)
    for number in (0, 1, 3):
        here = known & (visit[:, :-1] == number)
        leave = expit(-0.3 + begun[:, Trait.LEAVE] + 0.7 * np.log(max(number, 1)))
        expected = np.broadcast_to((leave * back / (1 - leave * (1 - back)))[:, None], here.shape)[here]
        assert begins[:, 1:][here].mean() == pytest.approx(expected.mean(), abs=0.04), number


def test_a_run_begins_with_traits_aged_by_the_visits_of_the_history(ageing) -> None:
    model, population, past, burnt = ageing
    visits = begins_of(burnt).sum(axis=1)
    assert len(np.unique(visits)) > 5
    traits = population.draw(burnt.users.number, 0).parameters[:, -len(Trait) :].copy()
    traits[:, Trait.LEAVE] += 0.7 * np.log(visits)
    traits[:, Trait.GAP] += 0.8 * np.log(visits)
    assert_allclose(burnt.state.traits, traits, atol=1e-5)
    assert_array_equal(burnt.users.parameters[:, -len(Trait) :], burnt.state.traits)
    again = burn_in(model, population, np.array([480, 3]), 0, past)
    assert_array_equal(again.state.traits, burnt.state.traits[[480, 3]])


def test_what_cannot_be_consumed_is_left_out(model, population) -> None:
    short = np.arange(ITEMS) < 4
    burnt = burn_in(model, population, np.arange(20), 0, past_of(available=short))
    assert ((burnt.items >= 0).sum(axis=1) == 4).all()
    items, clock = burnt.last(6)
    assert (items[:, 4:] == -1).all() and (clock[:, 4:] == 0).all()
    assert (np.sort(items[:, :4], axis=1) == np.arange(4)).all()
    assert (np.diff(clock[:, :4], axis=1) <= 0).all()


def test_where_items_repeat_they_may_come_again(model, population) -> None:
    burnt = burn_in(model, population, np.arange(50), 0, past_of(repeats=True))
    assert any(len(np.unique(row[row >= 0])) < (row >= 0).sum() for row in burnt.items)


def test_ratings_are_on_the_logs_grid(model, burnt) -> None:
    given = burnt.rating[burnt.items >= 0]
    assert np.isin(given, model.rating_grid).all() and len(np.unique(given)) > 2
    assert np.isnan(burnt.rating[burnt.items < 0]).all()
