"""Rates of the crossed features: what was liked so far, as a plain loop counts it."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from agents.rankers.crossed import PRIOR_ROWS, Rates
from agents.rankers.log_history import LogHistory
from agents.rankers.samples import SampleConfig, Samples


@pytest.mark.parametrize("delay", [0, 7_200])
def test_rates_are_of_what_was_known_by_then(rated_log, delay):
    log = rated_log
    history = LogHistory(log, 6, delay=delay)
    samples = Samples(history, np.ones(len(log), bool), SampleConfig(label="rating"), 0)
    nothing = Rates(len(log.users), log.catalogue.categories.astype(np.float32))
    nothing.total = np.array([len(log), samples.labels.sum()])
    rows = np.arange(3, len(log), 53)
    found = nothing.so_far(samples).at(rows, log.item[rows, None])[:, 0]
    liked = log.rating >= 4
    for row, (of_user, of_item, of_taste) in zip(rows, found, strict=True):
        older = log.timestamp < log.timestamp[row] - delay
        own, same = older & (log.user == log.user[row]), older & (log.item == log.item[row])
        user = (liked[own].sum() + PRIOR_ROWS * nothing.mean) / (own.sum() + PRIOR_ROWS)
        assert_allclose(of_user, user, rtol=1e-5)
        assert_allclose(of_item, (liked[same].sum() + PRIOR_ROWS * nothing.mean) / (same.sum() + PRIOR_ROWS), rtol=1e-5)
        shared = log.catalogue.categories[log.item[own]] @ log.catalogue.categories[log.item[row]]
        taste = (shared @ liked[own] + PRIOR_ROWS * user) / (shared.sum() + PRIOR_ROWS)
        assert_allclose(of_taste, taste, rtol=1e-5)
