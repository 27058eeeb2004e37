import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure

from agents.events.statistics import STATISTICS
from evaluation.monitoring_plots import PANELS, monitoring_page, over_days


@pytest.fixture
def table():
    """Six days, on two of which two versions served."""
    days, versions = [0, 1, 1, 2, 3, 3, 4, 5], ["1.0", "1.0", "1.1", "1.1", "1.1", "2.0", "2.0", "2.0"]
    random = np.random.default_rng(0)
    rows = {name: random.random(8) for name in STATISTICS.names}
    rows |= {"day": days, "policy_version": versions, "requests": [100, 30, 90, 120, 60, 60, 110, 100]}
    rows |= {"ctr_low": rows["ctr"] - 0.1, "ctr_high": rows["ctr"] + 0.1}
    return pl.DataFrame(rows)


def test_the_line_goes_through_the_means_by_requests(table):
    axes = over_days(table, Figure().subplots(), "diversity")
    line, points = axes.lines[:2]
    np.testing.assert_array_equal(points.get_ydata(), table["diversity"])
    value = table["diversity"].to_numpy()
    expected = [value[0], (30 * value[1] + 90 * value[2]) / 120, value[3], (value[4] + value[5]) / 2, *value[6:]]
    np.testing.assert_allclose(line.get_ydata(), expected)
    assert [text.get_text() for text in axes.texts] == ["1.0", "1.1", "2.0"]
    assert [mark.get_xdata()[0] for mark in axes.lines[2:]] == [0, 1, 3]


def test_the_click_rate_has_intervals_where_they_are_known(table):
    table = table.with_columns(ctr_low=pl.when(pl.col("day") == 2).then(np.nan).otherwise("ctr_low"))
    axes = over_days(table, Figure().subplots(), "ctr")
    whiskers = axes.collections[0].get_segments()
    assert [int(segment[0][0]) for segment in whiskers] == [0, 1, 1, 3, 3, 4, 5]
    np.testing.assert_allclose(whiskers[0][:, 1], [table["ctr_low"][0], table["ctr_high"][0]])


def test_a_page_leaves_out_what_is_not_known(table):
    titles = {axes.get_title() for axes in monitoring_page(table).axes if axes.axison}
    assert titles == {title for title, _ in PANELS.values()}
    unknown = ("calibration_error", "score_psi", "newborn_share")
    page = monitoring_page(table.with_columns(pl.lit(np.nan).alias(name) for name in unknown))
    assert {axes.get_title() for axes in page.axes if axes.axison} == titles - {PANELS[name][0] for name in unknown}
    empty = pl.from_arrow(STATISTICS.empty_table())
    assert isinstance(monitoring_page(empty), Figure)
