from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from envs.logs.schema import InteractionLog
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.users.interest import InterestModel
from envs.users.likelihood import EventSplit, Part, replay_preferences, split_events
from evaluation.fidelity import free_running
from evaluation.fidelity.ablations import FixedTaste
from evaluation.fidelity.free_running import (
    existing_from,
    free_run,
    held_out_sequences,
    observed_lengths,
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


def test_choices_follow_the_models_utility(generated: Generated) -> None:
    log, model, split = generated
    loved = 5
    bias = model.item_bias.copy()
    bias[loved] += 60
    found = free_run(replace(model, item_bias=bias), log, replace(split, mask_earlier=False), seed=2)
    assert (found.item == loved).all()


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
