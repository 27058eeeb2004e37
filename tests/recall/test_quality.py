import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from envs.candidate_source import is_excluded
from envs.errors import ConfigurationError
from recall.merging import MergedRecall, RecallConfig
from recall.quality import leave_last_out, measured_quality, recall_quality


def test_the_last_consumption_is_held_out_and_nothing_behind_it_is_left(world):
    log = world.policy_log
    held_out = leave_last_out(log, history_size=7)
    events = log.consumed()
    for row, user in enumerate(held_out.request.user):
        mine = np.flatnonzero(events.user == user)
        assert held_out.target[row] == events.item[mine[-1]]
        expected = events.item[mine[:-1]][::-1][:7]
        assert_array_equal(held_out.request.history[row][: len(expected)], expected)
        assert (held_out.request.history[row][len(expected) :] == -1).all()
        left = held_out.log.where(held_out.log.user == user)
        assert (left.consumed().item != held_out.target[row]).all()
        assert left.timestamp.max() <= events.timestamp[mine[-1]]
        assert len(left.consumed()) == len(mine) - 1
        assert is_excluded(held_out.request.excluded[row : row + 1], events.item[mine[:-1]][None]).all()
    assert not is_excluded(held_out.request.excluded, held_out.target[:, None]).any()


def test_the_report_says_who_found_the_next_item(world):
    config = RecallConfig(quotas={"popular": 0.5, "item_to_item": 0.3, "fresh": 0.2})
    held_out = leave_last_out(world.policy_log)
    recall = MergedRecall.of(config).fit(held_out.log)
    report = measured_quality(recall, held_out, 50)
    assert report.table().equals(recall_quality(MergedRecall.of(config), world.policy_log, 50).table())
    assert [row.channel for row in report.rows] == ["merged", "popular", "item_to_item", "fresh", "popularity"]
    result = recall.recall(held_out.request, 50)
    hit = result.items == held_out.target[:, None]
    assert report.rows[0].recall == hit.any(axis=1).mean() > 0.05
    assert_allclose([row.share for row in report.rows[1:4]], [(result.first == j).mean() for j in range(3)])
    assert_allclose(report.rows[1].alone, (result.brought == 1).mean())
    without = MergedRecall.of(RecallConfig(quotas={"popular": 5 / 7, "fresh": 2 / 7})).fit(held_out.log)
    others = (without.recall(held_out.request, 50).items == held_out.target[:, None]).any(axis=1)
    assert report.rows[2].adds == pytest.approx(hit.any(axis=1).mean() - others.mean())
    assert report.rows[-1].over_popularity == 0
    assert report.figures()["recall50_merged"] == report.rows[0].recall
    assert all(row.low <= row.recall <= row.high for row in report.rows)


def test_a_channel_without_quota_is_tried_with_a_tenth_of_the_candidates(world):
    held_out = leave_last_out(world.policy_log)
    quotas = {"popular": 1.0, "item_to_item": 0.0}
    report = measured_quality(MergedRecall.of(RecallConfig(quotas=quotas)).fit(held_out.log), held_out, 50)
    tried = MergedRecall.of(RecallConfig(quotas={"popular": 0.9, "item_to_item": 0.1})).fit(held_out.log)
    hits = (tried.recall(held_out.request, 50).items == held_out.target[:, None]).any(axis=1).mean()
    merged, popular, other = report.rows[:3]
    assert merged.recall == popular.recall and other.adds == pytest.approx(hits - merged.recall)
    best = max(popular.recall, other.recall)
    assert report.over_best[0] == pytest.approx(merged.recall - best)
    assert report.figures()["recall50_merged_over_best_channel_low"] == report.over_best[1] <= report.over_best[0]


def test_a_log_without_a_second_item_is_refused(world):
    log = world.policy_log.consumed()
    with pytest.raises(ConfigurationError, match="two consumed items"):
        leave_last_out(log.where(log.place == 0))
