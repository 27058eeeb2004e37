from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from agents.rankers.log_history import LogHistory, SoFar
from envs.catalogue import SECONDS_PER_DAY


def everything(history, rows, items):
    inputs = history.inputs(rows, items)
    return [inputs.user_features, inputs.history, inputs.history_days, inputs.context, inputs.ages, inputs.counts]


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_sums_so_far_are_those_of_a_plain_loop(seed):
    random = np.random.default_rng(seed)
    rows = int(random.integers(0, 30))
    key, time = random.integers(0, 5, rows).astype(np.int32), random.integers(100, 120, rows)
    value = random.standard_normal(rows)
    asked, at = random.integers(0, 7, (12, 2)).astype(np.int32), random.integers(90, 130, (12, 1))
    expected = [[sum(value[(key == k) & (time < t[0])]) for k in row] for row, t in zip(asked, at, strict=True)]
    assert_allclose(SoFar(key, time, value).before(asked, at), expected, atol=1e-9)


def test_history_is_what_was_consumed_above_newest_first(rated_log):
    log, history = rated_log, LogHistory(rated_log, 6)
    for row in range(0, len(log), 37):
        first = log.user_starts[log.user[row]]
        expected = log.item[first:row][::-1][:6]
        items, days = (array[0] for array in history.histories(np.array([row])))
        assert_array_equal(items[: len(expected)], expected)
        assert (items[len(expected) :] == -1).all()
        ago = (log.timestamp[row] - log.timestamp[first:row][::-1][:6]) / SECONDS_PER_DAY
        assert_allclose(days[: len(expected)], ago, rtol=1e-5)


def test_a_slates_rows_share_the_history_from_before_it(shown_log):
    log, history = shown_log, LogHistory(shown_log, 6)
    clicked = np.flatnonzero(log.clicked & (history.slate_start < np.arange(len(log))))[5]
    slate = np.flatnonzero((log.request == log.request[clicked]) & (log.user == log.user[clicked]))
    items, _ = history.histories(slate)
    assert (items == items[0]).all()
    before = log.item[log.user_starts[log.user[clicked]] : slate[0]][
        log.clicked[log.user_starts[log.user[clicked]] : slate[0]]
    ]
    assert_array_equal(items[0][: len(before)], before[::-1][:6])
    assert len(set(history.place_in_visit[slate])) == 1


@pytest.mark.parametrize("name", ["shown_log", "rated_log"])
def test_later_rows_change_no_sample_of_earlier_ones(name, request):
    log = request.getfixturevalue(name)
    moment = int(np.median(log.timestamp))
    later = log.timestamp >= moment
    random = np.random.default_rng(0)
    shuffled = np.where(later, random.integers(0, len(log.catalogue), len(log)), log.item).astype(np.int32)
    clicked = np.where(later & log.has_exposures, ~log.clicked, log.clicked)
    rating = np.where(later, 5 - log.rating, log.rating).astype(np.float32)
    other = replace(log, item=shuffled, clicked=clicked, rating=rating)
    fewer = log.where(~later)
    rows = np.flatnonzero(~later)
    items = random.integers(-1, len(log.catalogue), (len(rows), 4)).astype(np.int32)
    truth = everything(LogHistory(log, 8), rows, items)
    for mine, theirs in zip(truth, everything(LogHistory(other, 8), rows, items), strict=True):
        assert_array_equal(mine, theirs)
    for mine, theirs in zip(truth, everything(LogHistory(fewer, 8), np.arange(len(rows)), items), strict=True):
        assert_array_equal(mine, theirs)


def test_popularity_counts_only_what_is_older(rated_log):
    log, history = rated_log, LogHistory(rated_log, 4)
    row = np.array([len(log) // 2])
    older = log.timestamp < log.timestamp[row]
    own = np.bincount(log.item[older], minlength=len(log.catalogue))
    items = np.arange(len(log.catalogue), dtype=np.int32)[None, :]
    assert_allclose(history.counts(row, items)[0], (1 + own) / (1 + own.mean()), rtol=1e-6)


def test_consumed_before_and_ever(rated_log):
    log, history = rated_log, LogHistory(rated_log, 4)
    row = int(log.user_starts[3]) + 4
    items = np.arange(len(log.catalogue), dtype=np.int32)[None, :]
    mine = log.item[log.user_starts[3] : log.user_starts[4]]
    assert set(np.flatnonzero(history.consumed_by(np.array([row]), items)[0])) == set(mine[:4])
    assert set(np.flatnonzero(history.consumed_by(np.array([row]), items, ever=True)[0])) == set(mine)


def test_an_empty_log_has_no_history(rated_log):
    empty = rated_log.where(np.zeros(len(rated_log), bool))
    assert len(LogHistory(empty, 3).slate_start) == 0
    items = np.zeros((0, 2), np.int32)
    assert LogHistory(empty, 3).inputs(np.zeros(0, np.int64), items).history.shape == (0, 3)


@pytest.mark.parametrize("name", ["shown_log", "rated_log"])
@pytest.mark.parametrize("delay", [3_600, 86_400])
def test_events_known_late_are_in_no_history(name, delay, request):
    """All that is read is what a plain loop finds among the known events that are old enough."""
    log = request.getfixturevalue(name)
    known = np.random.default_rng(1).random(len(log)) < 0.7
    history = LogHistory(log, 6, delay=delay, known=known)
    starts = history.slate_start
    rows = np.arange(0, len(log), 41)
    inputs = history.inputs(rows, log.item[rows, None])
    shorter = 0
    for place, row in enumerate(rows):
        told = known & log.clicked & (log.timestamp <= log.timestamp[row] - delay)
        own = np.flatnonzero(told & (log.user == log.user[row]) & (np.arange(len(log)) < starts[row]))
        assert_array_equal(
            inputs.history[place], np.pad(log.item[own][::-1][:6], (0, max(6 - len(own), 0)), constant_values=-1)
        )
        assert_allclose(inputs.user_features[place, 0], np.log1p(len(own)) / 10, rtol=1e-5)
        told &= log.timestamp < log.timestamp[row] - delay
        counts = np.bincount(log.item[told], minlength=len(log.catalogue))
        assert_allclose(inputs.counts[place, 0], (1 + counts[log.item[row]]) / (1 + counts.mean()), rtol=1e-5)
        all_own = known & log.clicked & (log.user == log.user[row]) & (np.arange(len(log)) < starts[row])
        assert history.unread(np.array([row]))[0] == all_own.sum() - len(own)
        shorter += all_own.sum() > len(own)
    assert shorter
    # what had been consumed is a fact, known or not
    items = np.broadcast_to(np.arange(len(log.catalogue), dtype=np.int32), (len(rows), len(log.catalogue)))
    assert_array_equal(history.consumed_by(rows, items), LogHistory(log, 6).consumed_by(rows, items))
