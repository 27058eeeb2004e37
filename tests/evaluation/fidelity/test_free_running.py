from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.special import softmax
from scipy.stats import chi2

from envs.catalogue import SECONDS_PER_DAY as DAY
from envs.logs.schema import InteractionLog
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.users.interest import InterestModel
from envs.users.likelihood import EventSplit, Part, replay_preferences, split_events
from envs.users.protocol import age_effect
from evaluation.fidelity import free_running
from evaluation.fidelity.ablations import FixedTaste
from evaluation.fidelity.free_running import (
    existing_from,
    free_run,
    held_out_sequences,
    observed_lengths,
    pace_seconds,
    replayed,
)

Generated = tuple[InteractionLog, InterestModel, EventSplit]


@pytest.fixture(scope="module")
def generated() -> Generated:
    log, model = generate_log(SyntheticConfig(num_users=30, num_items=120, events_per_user=25), seed=3)
    return log, model, split_events(log)


def test_users_consume_as_many_items_as_were_held_out_and_none_twice(generated: Generated) -> None:
    log, model, split = generated
    split = replace(split, mask_earlier=True)
    found, real = free_run(model, log, split, seed=0), held_out_sequences(split)
    assert_array_equal(np.diff(found.starts), np.diff(real.starts))
    for user in range(split.num_users):
        events = slice(split.starts[user], split.starts[user + 1])
        earlier = split.item[events][split.part[events] != Part.TEST]
        chosen = found.item[found.user == user]
        assert len(set(chosen)) == len(chosen)
        assert not set(chosen) & set(earlier)


def test_a_user_does_not_depend_on_who_else_runs(generated: Generated, monkeypatch: pytest.MonkeyPatch) -> None:
    log, model, split = generated
    among = free_run(model, log, split, seed=5)
    monkeypatch.setattr(free_running, "_CELLS", 3 * split.num_items)
    for found in (free_run(model, log, split, seed=5, users=np.array([7, 11])), free_run(model, log, split, seed=5)):
        for user in (7, 11):
            assert_array_equal(found.item[found.user == user], among.item[among.user == user])


def test_items_exist_when_they_are_consumed(generated: Generated) -> None:
    log, model, split = generated
    late = np.arange(len(log.catalogue)) % 2 == 0
    first = existing_from(log)
    assert (first <= log.catalogue.birth).all()
    unborn = ~np.isin(np.arange(len(log.catalogue)), log.item) & late
    birth = np.where(unborn, log.timestamp.max() + 10**9, log.catalogue.birth)
    retired = np.where(~late, log.timestamp.min(), np.iinfo(np.int64).max)
    catalogue = replace(log.catalogue, birth=birth, retired=retired)
    found = free_run(model, replace(log, catalogue=catalogue), split, seed=1)
    assert not unborn[found.item].any()
    assert late[found.item].all()


def test_items_are_drawn_by_the_softmax_of_the_models_utility(generated: Generated) -> None:
    """The first items of many runs, in which nobody leaves its visit, against shares computed here; Pearson's chi-square."""
    log, model, split = generated
    model = replace(model, visits=replace(model.visits, leave_intercept=-50.0))
    users, free, runs = np.arange(30), replace(split, mask_earlier=False), 150
    last = split.starts[:-1] + observed_lengths(split) - 1
    now = split.timestamp[last] + pace_seconds(split)
    hour, weekday = (now % DAY / 3600).astype(np.float32), (now // DAY + 3).astype(np.int64) % 7
    preference = model.preference(replayed(model, split, users), hour, weekday, split.place_in_visit[last] + 1)
    age = ((now[:, None] - log.catalogue.birth) / DAY).astype(np.float32)
    utility = preference @ model.item_vectors.T + model.item_bias + age_effect(model.age_values, age)
    share = softmax(np.where(existing_from(log) > now[:, None], -np.inf, utility.astype(np.float64)), axis=1)
    first = [
        found.item[found.position == 0] for found in (free_run(model, log, free, seed=seed) for seed in range(runs))
    ]
    seen, expected = np.bincount(np.concatenate(first), minlength=120), runs * share.sum(axis=0)
    assert seen.sum() == 30 * runs
    assert not seen[expected == 0].any()
    order = np.argsort(-expected)
    group = np.cumsum(expected[order]) // 20  # items of some twenty expected draws together
    pairs = [np.bincount(group.astype(int), counts[order]) for counts in (seen, expected)]
    kept = pairs[1] > 5
    statistic = ((pairs[0] - pairs[1])[kept] ** 2 / pairs[1][kept]).sum()
    assert kept.sum() > 50
    assert chi2.sf(statistic, kept.sum() - 1) > 0.01


def test_pauses_are_drawn_given_that_the_next_item_comes_before_the_logs_end(generated: Generated) -> None:
    log, model, split = generated
    end = int(log.timestamp[log.clicked].max())
    # after each item one half leave, a quarter of these come back, in next to no time
    visits = replace(
        model.visits,
        leave_intercept=0.0,
        leave_log_place=0.0,
        return_intercept=-np.log(3),
        gap_log_mean=-2.0,
        gap_log_sd=0.2,
    )
    found = [free_run(replace(model, visits=visits), log, split, seed=seed) for seed in range(20)]
    paused = np.concatenate([np.diff(one.timestamp)[np.diff(one.user) == 0] >= 3600 for one in found])
    # as the number of items is given: 1/8 against 1/2 for staying
    assert paused.mean() == pytest.approx(0.2, abs=4 * np.sqrt(0.2 * 0.8 / len(paused)))
    slow = replace(visits, return_intercept=3.0, gap_log_mean=3.0, gap_log_sd=2.0)
    latest = free_run(replace(model, visits=slow), log, split, seed=0).timestamp.max()
    assert latest <= end + 25 * pace_seconds(split)
    assert latest > end - 10 * DAY


def test_replay_stops_at_the_80_per_cent_point(generated: Generated) -> None:
    _, model, split = generated
    users = np.array([4, 9])
    state = replayed(model, split, users)
    for row, user in enumerate(users):
        event = split.starts[user] + observed_lengths(split)[user]
        if split.pause_days[event]:
            continue
        context = (split.hour[[event]], split.weekday[[event]], split.place_in_visit[[event]])
        ours = model.preference(state.take(np.array([row])), *context)
        np.testing.assert_allclose(ours[0], replay_preferences(model, split)[event], rtol=1e-5, atol=1e-6)


def test_popularity_draws_by_counts_and_static_users_have_their_own_taste(generated: Generated) -> None:
    log, model, split = generated
    popularity = FixedTaste.popularity(log, split, model)
    share = np.exp(popularity.item_bias)
    np.testing.assert_allclose(share, split.counts(Part.FIT) + 1, rtol=1e-5)
    free = replace(split, mask_earlier=False)
    found = np.concatenate([free_run(popularity, log, free, seed=seed).item for seed in range(20)])
    seen = np.bincount(found, minlength=split.num_items) / len(found)
    assert np.corrcoef(seen, share / share.sum())[0, 1] > 0.9
    static = FixedTaste.static(log, split, model)
    tastes = static.user_parameters[:, : static.item_vectors.shape[1]]
    assert tastes.std(axis=0).max() > 0
    state = static.start(static.user_parameters)
    before = static.preference(state, np.zeros(30, np.float32), np.zeros(30, np.int64), np.zeros(30, np.int64)).copy()
    static.consume(state, np.arange(30), np.zeros(30, np.int32))
    static.pause(state, np.arange(30), np.ones(30, np.float32), None)
    assert_array_equal(state.taste, before)
