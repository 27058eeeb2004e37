from dataclasses import asdict

import numpy as np
import pytest
from fitted_logs import DAY, EPOCH, make_catalogue, make_users

from envs.logs.schema import InteractionLog
from envs.users.protocol import Trait, VisitParams
from envs.users.visit_fit import fit_visits

TRUTH = {
    "leave_intercept": -1.5,
    "leave_log_place": -0.4,
    "return_intercept": 0.8,
    "gap_log_mean": 0.5,
    "gap_log_sd": 0.8,
}


def draw_visits(users: int, days: float, seed: int, **changed: float) -> InteractionLog:
    """Visits of users who come at random within the first half of `days`, by the formulas of `VisitParams`, with normal
    deviations of users of standard deviations `leave_spread`, `return_spread`, `gap_spread`, who age by
    `leave_ageing` and `gap_ageing`."""
    rng = np.random.default_rng(seed)
    spread = {name: changed.pop(name, 0.0) for name in ("leave_spread", "return_spread", "gap_spread")}
    visits = VisitParams(**(TRUTH | changed))
    rows = []
    for user in range(users):
        clock = rng.uniform(0, days / 2)
        of_leave, of_return, of_gap = (sd * rng.normal() for sd in spread.values())
        visit = 0
        while clock < days:
            place = 0
            while True:
                rows.append((user, clock + place / 1440))
                leave = visits.leave_logit(np.array(place), visit == 0) + of_leave
                leave += visits.ageing(np.array([visit]))[0, Trait.LEAVE]
                if rng.random() < 1 / (1 + np.exp(-leave)):
                    break
                place += 1
            if rng.random() > 1 / (1 + np.exp(-visits.return_intercept - of_return)):
                break
            visit += 1
            log_gap = visits.log_gap(rng.random(), rng.normal()) + of_gap
            log_gap += visits.ageing(np.array([visit]))[0, Trait.GAP]
            clock += place / 1440 + max(np.exp(log_gap), 0.05)
    user, clock = np.array(rows).T
    seen = clock < days
    return InteractionLog.from_rows(
        name="visits",
        users=make_users(users),
        catalogue=make_catalogue(np.ones((3, 1), np.float32)),
        user=user[seen].astype(np.int32),
        item=np.zeros(seen.sum(), np.int32),
        timestamp=EPOCH + (clock[seen] * DAY).astype(np.int64),
    )


def test_visits_drawn_from_known_parameters_give_them_back():
    fit = fit_visits(draw_visits(600, days=40, seed=0))
    for name, value in TRUTH.items():
        low, high = fit.intervals[name]
        middle, half = (low + high) / 2, (high - low) / 2
        assert abs(middle - value) < 1.6 * half, name
        assert half < 0.25, name
        assert low <= getattr(fit.params, name) <= high
    assert fit.params.leave_miss == VisitParams().leave_miss
    assert fit.params.wide_gap_share == 0, "one kind of gap made the log"


def test_a_short_log_does_not_pass_for_users_lost():
    # Half of the gaps reach past the end of so short a log; without censoring the share that comes back would seem smaller.
    fit = fit_visits(draw_visits(900, days=6, seed=1))
    low, high = fit.intervals["return_intercept"]
    assert low < TRUTH["return_intercept"] < high


VARIED = {
    "first_leave_intercept": -1.0,
    "first_leave_log_place": 0.3,
    "wide_gap_share": 0.4,
    "wide_gap_shift": -1.0,
    "wide_gap_log_sd": 1.2,
    "gap_log_mean": 2.0,
    "gap_log_sd": 0.3,
    "leave_spread": 0.6,
    "return_spread": 1.5,
    "gap_spread": 0.8,
}


@pytest.fixture(scope="module")
def varied():
    log = draw_visits(900, days=300, seed=2, **VARIED)
    return log, fit_visits(log)


def test_spread_of_users_first_visits_and_two_kinds_of_gaps_come_back(varied):
    _, fit = varied
    values = asdict(fit.params) | fit.spread
    for name, value in (TRUTH | VARIED).items():
        low, high = fit.intervals[name]
        middle, half = (low + high) / 2, (high - low) / 2
        assert abs(middle - value) < 1.6 * half, name
        assert low <= values[name] <= high
        assert half < 0.6, name


def test_traits_differ_between_users_as_much_as_the_fitted_spread_says(varied):
    _, fit = varied
    for trait, name in ((Trait.LEAVE, "leave_spread"), (Trait.RETURN, "return_spread"), (Trait.GAP, "gap_spread")):
        assert fit.traits[:, trait].std() == pytest.approx(fit.spread[name], rel=0.12)
        assert abs(fit.traits[:, trait].mean()) < 0.15 * fit.spread[name]
    assert not fit.traits[:, Trait.RATING].any()


def test_users_age_and_their_traits_are_those_of_the_end():
    truth = {"leave_ageing": 0.5, "gap_ageing": 0.4, "first_leave_intercept": -1.0}
    spread = {"leave_spread": 0.3, "return_spread": 0.5, "gap_spread": 0.4}
    log = draw_visits(900, days=200, seed=4, return_intercept=2.0, gap_log_mean=0.0, **spread, **truth)
    fit = fit_visits(log)
    for name, value in truth.items():
        low, high = fit.intervals[name]
        assert abs(getattr(fit.params, name) - value) < 0.8 * (high - low), name
        assert high - low < 0.45, name
    ends = np.diff(log.user, append=-1) != 0
    age = np.log1p(log.visit[ends])
    for trait, name in ((Trait.LEAVE, "leave_ageing"), (Trait.GAP, "gap_ageing")):
        assert abs(fit.traits[:, trait].mean()) < 0.06
        assert np.polyfit(age, fit.traits[:, trait], 1)[0] == pytest.approx(truth[name], abs=0.2)
    # the mean user's process at the end: that of a first-time returner, moved by the mean age
    assert fit.params.leave_intercept == pytest.approx(TRUTH["leave_intercept"] + 0.5 * age.mean(), abs=0.15)
    assert fit.params.gap_log_mean == pytest.approx(0.4 * age.mean(), abs=0.15)


def test_time_after_the_last_event_is_known_when_it_is_said():
    log = draw_visits(400, days=6, seed=1)
    end = int(log.timestamp.max())
    short = fit_visits(log).params
    assert short == fit_visits(log, until=end).params
    assert fit_visits(log, until=end + 1_000 * DAY).params.return_intercept < short.return_intercept - 0.3


def test_traits_follow_what_users_did(varied):
    log, fit = varied
    begins = log.place_in_visit == 0
    visits = np.bincount(log.user[begins], minlength=900)
    later = np.flatnonzero(begins & (log.visit > 0))
    gaps = np.log(log.timestamp[later] - log.timestamp[later - 1])
    of_user = np.bincount(log.user[later], gaps, minlength=900) / np.maximum(visits - 1, 1)
    lengths = np.log(np.bincount(log.user, minlength=900) / visits)
    often = visits >= 5
    assert np.corrcoef(fit.traits[often, Trait.LEAVE], lengths[often])[0, 1] < -0.5
    assert np.corrcoef(fit.traits[often, Trait.GAP], of_user[often])[0, 1] > 0.5
    assert np.corrcoef(fit.traits[:, Trait.RETURN], np.log(visits))[0, 1] > 0.5
