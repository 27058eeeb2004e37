from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_array_equal
from scipy.stats import ks_2samp

from envs.catalogue import SECONDS_PER_DAY, Catalogue
from envs.logs.schema import VISIT_GAP_SECONDS, InteractionLog, Users
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.users.protocol import Trait, VisitParams
from envs.users.visit_fit import VisitFit, fit_visits
from evaluation.fidelity import calendar
from evaluation.fidelity.calendar import (
    CalendarEvents,
    KnownPast,
    calendar_date,
    days_until_return,
    real_calendar,
    simulated_calendars,
    simulated_visits,
)
from evaluation.fidelity.distances import distance_table
from evaluation.fidelity.free_running import Sequences
from evaluation.fidelity.sequence_features import LAGS
from evaluation.fidelity.statistics import LagPairs, UserSample, UserValues, calendar_values
from evaluation.fidelity.study import FidelityConfig, Study, run_calendar
from evaluation.runs import Run

VISITS = VisitParams(
    leave_intercept=-1.2,
    leave_log_place=-0.4,
    return_intercept=0.7,
    gap_log_mean=1.0,
    gap_log_sd=0.6,
    wide_gap_share=0.4,
    wide_gap_shift=-1.5,
    wide_gap_log_sd=1.4,
)
SPREAD = {Trait.LEAVE: 0.4, Trait.RETURN: 1.0, Trait.GAP: 0.5}
EPOCH = 875_000_000
DAYS, PACE = 120, 60


def own_log(users: int, seed: int) -> InteractionLog:
    """What users of the visit process `VISITS` do who come at random within the first half of the log."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        leave, back, gap = (sd * rng.normal() for sd in SPREAD.values())
        clock, place = rng.uniform(0, DAYS / 2) * SECONDS_PER_DAY, 0
        while clock < DAYS * SECONDS_PER_DAY:
            rows.append((user, EPOCH + int(clock)))
            if rng.random() > 1 / (1 + np.exp(-VISITS.leave_logit(np.array(place)) - leave)):
                clock, place = clock + PACE, place + 1
                continue
            if rng.random() > 1 / (1 + np.exp(-VISITS.return_intercept - back)):
                break
            days = float(np.exp(VISITS.log_gap(np.array(rng.random()), np.array(rng.normal())) + gap))
            clock, place = clock + max(days * SECONDS_PER_DAY, VISIT_GAP_SECONDS + 1), 0
    user, timestamp = np.array(rows).T
    return InteractionLog.from_rows(
        name="own visits",
        users=Users(user_ids=np.arange(users).astype(str), feature_names=(), features=np.zeros((users, 0), np.float32)),
        catalogue=Catalogue(
            item_ids=np.array(["i"]),
            titles=np.array([""]),
            category_names=("g",),
            categories=np.ones((1, 1), np.float32),
            birth=np.array([EPOCH]),
        ),
        user=user.astype(np.int32),
        item=np.zeros(len(user), np.int32),
        timestamp=timestamp,
    )


@pytest.fixture(scope="module")
def own() -> InteractionLog:
    return own_log(700, seed=1)


def known_past(**changed: object) -> KnownPast:
    """A user who had three items, the last a while before the date."""
    past = KnownPast(
        date=EPOCH + 10_000,
        users=np.array([4]),
        last=np.array([EPOCH]),
        place=np.array([2]),
        in_first_visit=np.array([False]),
        items=np.array([3]),
        steps=np.full(9, PACE),
    )
    return replace(past, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("away", [0.0, 0.02, 3.0, 30.0])
def test_returns_given_absence_are_those_of_the_process_that_are_not_too_early(away: float) -> None:
    count = 40_000
    traits = np.zeros((count, len(Trait)), np.float32)
    traits[:, Trait.RETURN], traits[:, Trait.GAP] = 0.8, -0.3
    users = np.arange(count)
    found = days_until_return(VISITS, traits, np.full(count, away), users, users % 3, seed=5)
    assert (found >= away * (1 - 1e-5)).all()

    rng = np.random.default_rng(0)
    back = rng.random(10 * count) < 1 / (1 + np.exp(-VISITS.return_intercept - 0.8))
    days = np.exp(VISITS.log_gap(rng.random(10 * count), rng.normal(size=10 * count)) - 0.3)
    days = np.where(back, days, np.inf)
    days = days[days >= away]
    assert np.isinf(found).mean() == pytest.approx(np.isinf(days).mean(), abs=0.01)
    assert ks_2samp(found[np.isfinite(found)], days[np.isfinite(days)]).pvalue > 1e-3


def test_who_was_away_very_long_is_lost_or_comes_later_still() -> None:
    traits = np.zeros((2_000, len(Trait)), np.float32)
    users = np.arange(2_000)
    found = days_until_return(VISITS, traits, np.full(2_000, 20_000.0), users, users, seed=0)
    assert (found >= 20_000 * (1 - 1e-5)).all()
    assert np.isinf(found).mean() > 0.99


def test_a_visit_goes_on_over_the_date_unless_the_silence_is_too_long() -> None:
    stays = replace(VISITS, leave_intercept=-60.0, return_intercept=-60.0)
    traits, most = np.zeros((1, len(Trait)), np.float32), np.array([3])

    def times(past: KnownPast) -> list[int]:
        _, found = simulated_visits(past, stays, traits, until=EPOCH + SECONDS_PER_DAY, most=most, seed=0)
        return list(found - EPOCH)

    assert times(known_past(date=EPOCH + 20)) == [60, 120, 180]
    assert times(known_past(date=EPOCH + 70, steps=np.array([10, 60, 90]))) == [70, 130, 190]
    assert times(known_past(date=EPOCH + 70)) == []
    assert times(known_past(date=EPOCH + VISIT_GAP_SECONDS + 1)) == []


def test_no_event_from_the_date_on_reaches_the_fit_or_the_visits(
    own: InteractionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    date, users = calendar_date(own, 0.8), np.arange(700)
    assert (own.timestamp < date).mean() == pytest.approx(0.8, abs=0.01)
    before = own.timestamp < date
    seen: list[InteractionLog] = []

    def spied(log: InteractionLog, *args: object, **named: object) -> VisitFit:
        seen.append(log)
        return fit_visits(log, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(calendar, "fit_visits", spied)
    ours = simulated_calendars(own, date, users, seed=0)[0]
    assert len(seen) == 1
    assert seen[0].timestamp.max() < date
    end = own.timestamp == own.timestamp.max()  # the log's end is all that is known of the rest
    other = simulated_calendars(own.where(before | end), date, users, seed=0)[0]
    assert_array_equal(ours.user, other.user)
    assert_array_equal(ours.timestamp, other.timestamp)
    assert ours.timestamp.min() >= date
    assert ours.timestamp.max() <= own.timestamp.max()


def test_who_begins_after_the_date_is_left_out_and_who_does_nothing_counts() -> None:
    log = own_log(60, seed=3)
    date = EPOCH + 30 * SECONDS_PER_DAY
    first = log.timestamp[log.user_starts[:-1]]
    chosen = np.arange(0, 60, 2)
    real, simulated = real_calendar(log, date, chosen), simulated_calendars(log, date, chosen, seed=0)[0]
    for found in (real, simulated):
        assert_array_equal(found.users, chosen[first[chosen] < date])
        assert np.isin(found.user, found.users).all()
        assert (found.last_known < date).all()
        assert (found.items == 0).any()
        assert found.items.sum() == len(found)
    rows = (log.timestamp >= date) & np.isin(log.user, real.users)
    assert_array_equal(real.timestamp, log.timestamp[rows])


def test_a_users_visits_do_not_depend_on_who_else_is_looked_at(own: InteractionLog) -> None:
    date = calendar_date(own, 0.8)
    among, few = (
        simulated_calendars(own, date, users, seed=2)[0] for users in (np.arange(700), np.array([7, 11, 400]))
    )
    assert_array_equal(few.timestamp, among.timestamp[np.isin(among.user, few.users)])


def test_nobody_consumes_more_than_the_catalogue_holds() -> None:
    log, _ = generate_log(SyntheticConfig(num_users=30, num_items=60, events_per_user=45), seed=3)
    date = calendar_date(log, 0.5)
    found = simulated_calendars(log, date, np.arange(30), seed=0)[0]
    earlier = np.bincount(log.user[log.clicked & (log.timestamp < date)], minlength=30)
    assert (found.items + earlier[found.users] <= 60).all()
    assert not len(simulated_calendars(log, int(log.timestamp.min()), np.arange(30), seed=0)[0])


def as_sample(found: CalendarEvents) -> UserSample:
    """With nothing to compare but visits."""
    nothing = UserValues(user=found.users, value=np.zeros(len(found.users)))
    values = dict.fromkeys(("category_entropy", "similarity", "item_age"), nothing)
    item = np.zeros(len(found), np.int64)
    return UserSample(
        num_items=1,
        events=Sequences(num_users=found.num_users, user=found.user, item=item, timestamp=found.timestamp),
        values={**values, **calendar_values(found)},
        repeats=LagPairs(repeats=np.zeros((found.num_users, len(LAGS))), pairs=np.zeros((found.num_users, len(LAGS)))),
    )


def test_users_of_the_models_own_visits_are_as_far_as_the_floor_and_others_farther(own: InteractionLog) -> None:
    date, users = calendar_date(own, 0.7), np.arange(700)
    real = real_calendar(own, date, users)
    simulated = {"own": [as_sample(found) for found in simulated_calendars(own, date, users, seed=0, draws=3)]}
    past = KnownPast.of(own.where(own.timestamp < date), date, users)
    fit = fit_visits(own.where(own.timestamp < date))
    ends: dict[str, VisitParams] = {
        "visit_length": replace(fit.params, leave_intercept=fit.params.leave_intercept - 1),
        "gap": replace(fit.params, gap_log_mean=fit.params.gap_log_mean - 1),
        "activity": replace(fit.params, return_intercept=fit.params.return_intercept + 3),
    }
    for name, params in ends.items():
        rows, timestamp = simulated_visits(
            past, params, fit.traits[past.users], until=int(own.timestamp.max()), most=np.full(700, 9_999), seed=0
        )
        simulated[name] = [as_sample(replace(real, user=past.users[rows], timestamp=timestamp))]
    table = distance_table(as_sample(real), simulated, splits=30, seed=0, tick=lambda: None)
    ratio = {(row["source"], row["aspect"]): row["ratio"] for row in table.iter_rows(named=True)}
    for name in ends:
        assert ratio["own", name] < 1.6, name
        assert ratio[name, name] > 2, name


@contextmanager
def silent(title: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda done: None


def test_a_run_keeps_its_visits_and_makes_anew_what_rests_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, model = generate_log(SyntheticConfig(num_users=30, num_items=60, events_per_user=45), seed=3)
    study = Study.of(log, model, FidelityConfig(calendar_share=0.6, calendar_draws=2))
    run = Run.create(tmp_path / "run", "fidelity", {})
    run.write_table("distances", pl.DataFrame({"of": ["other visits"]}))
    real, simulated = run_calendar(study, run, silent)
    assert not run.has_table("distances")
    run.write_table("distances", pl.DataFrame({"of": ["these visits"]}))
    monkeypatch.delattr("evaluation.fidelity.study.simulated_calendars")
    real_again, again = run_calendar(study, run, silent)
    assert run.has_table("distances")
    assert len(simulated) == len(again) == 2
    for one, other in zip(simulated, again, strict=True):
        assert_array_equal(one.user, other.user)
        assert_array_equal(one.timestamp, other.timestamp)
    assert not np.array_equal(simulated[0].timestamp, simulated[1].timestamp)
    assert_array_equal(real.timestamp, real_again.timestamp)
    assert real.timestamp.min() >= study.date
