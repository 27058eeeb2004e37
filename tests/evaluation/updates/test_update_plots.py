"""Plots and tables for the terminal of a study of update policies, from made-up results."""

import io

import made_up_studies as made_up
import numpy as np
import polars as pl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from evaluation.figures import save_figures
from evaluation.report import PLAIN_WIDTH, make_console
from evaluation.runs import Run
from evaluation.updates import plots, report


@pytest.fixture
def panels():
    figure = Figure(figsize=(8, 8))
    FigureCanvasAgg(figure)
    return figure.subplots(2, 1)


def _printed(table):
    file = io.StringIO()
    make_console(file).print(table)
    assert max(map(len, file.getvalue().splitlines())) <= PLAIN_WIDTH
    return file.getvalue()


def _row(text, name):
    return next(line for line in text.splitlines() if name in line)


def _of_shock(name):
    return made_up.tables()[name].filter(pl.col("scenario") == "shock")


def test_a_front_has_a_point_for_each_policy_and_the_rules_line(panels):
    axes = plots.front(_of_shock("updates_points"), panels[0])
    line = axes.lines[0]
    # from never at no cost straight to the rule at 0.2, which gains 0.5, and level from there on
    costs, gains = line.get_xdata(), line.get_ydata()
    assert costs[0] == 0 and costs[-1] > 0.2 and gains == pytest.approx(np.minimum(costs / 0.2, 1) * 0.5)
    filled = {
        round(float(line.get_ydata()[0]), 2)
        for line in axes.lines
        if len(line.get_xdata()) == 1 and line.get_markerfacecolor() != "white"
    }
    assert filled == {0.0, 0.7}  # never and dqn are on the front of all but hindsight
    assert {text.get_text() for text in axes.texts} == {"never", "every 2: retrain", "dqn", "hindsight"}
    assert axes.get_xlabel() and axes.get_ylabel() and axes.get_title()


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("every(3, update_both)", "every 3: both"),
        ("after_data(1599.2533, full_retrain)", "after_data 1599: retrain"),
        ("page_hinkley(engagement, update_ranker, 2, 30.0, 0.5)", "page_hinkley: ranker"),
        ("cara(0.25, True, update_recall)", "cara: recall"),
        ("never", "never"),
        ("mine(3, x)", "mine(3, x)"),
    ],
)
def test_labels_of_rules_are_short_on_plots(label, told):
    assert plots.short(label) == told


def test_what_always_does_the_same_has_no_panel():
    table = made_up.importances().with_columns(changed=pl.when(pl.col("scenario") == "shock").then(0.4).otherwise(0.0))
    page = plots.importance_page(table)
    assert [axes.get_title() or axes.get_title(loc="left") for axes in page.axes if axes.get_visible()] == [
        "shock: what dqn looks at"
    ]
    assert "dqn in stationary" in page.get_supxlabel()
    still = plots.importance_page(table.with_columns(changed=pl.lit(0.0)))
    assert "dqn in shock, dqn in stationary" in still.get_supxlabel() and len(still.axes) == 1


def test_a_timeline_marks_what_was_done_and_when(panels):
    _, lower = plots.timeline(_of_shock("updates"), *panels, shown=["never", "dqn", "hindsight"])
    marks = {
        (line.get_marker(), day, -level)
        for line in lower.lines
        if line.get_marker() not in ("None", "")
        for day, level in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }
    assert marks == {("^", 1, 1), ("x", 2, 1), ("D", 3, 1), ("s", 1, 2), ("s", 2, 2)}
    assert [label.get_text() for label in lower.get_yticklabels()] == ["never", "dqn", "hindsight"]


def test_decay_of_every_scenario_and_measure_lies_within_its_panel():
    page = plots.decay_page(
        made_up.decay().with_columns(value=pl.col("value") * (pl.col("scenario") == "stationary") * 2)
    )
    panels = page.axes
    assert [axes.get_title(loc="left") or axes.get_title() for axes in panels[:2]] == [
        "shock: never refreshed",
        "stationary: never refreshed",
    ]
    assert [bool(axes.get_xlabel()) for axes in panels] == [False] * 6 + [True] * 2
    for axes in panels:
        low, high = axes.get_ylim()
        assert low == 0 and all(max(line.get_ydata()) <= high for line in axes.lines)


def test_shown_are_never_the_best_rules_the_chosen_and_hindsight():
    shown = plots.shown_policies(made_up.tables()["updates_points"], {"shock": "dqn"})
    assert shown["shock"] == ["never", "every(2, full_retrain)", "dqn", "hindsight"]
    assert shown["stationary"] == ["never", "every(2, full_retrain)", "hindsight"]


def test_every_page_of_a_study_is_drawn(tmp_path):
    run = Run.create(tmp_path / "run", "updates", {})
    for name, table in made_up.tables().items():
        run.write_table(name, table)
    drawn = [path.stem for path in save_figures(run)]
    kinds = ("front", "margins", "importance", "decay", "learning", "monitoring")
    assert drawn == ["updates", *(f"updates_{kind}" for kind in kinds)]


def test_policies_stand_in_the_order_of_their_rewards():
    summary = _of_shock("updates_summary")
    text = _printed(report.policies_table(summary, chosen=["dqn"]))
    assert text.index("│ hindsight") < text.index("│ dqn") < text.index("│ every(2") < text.index("│ never")
    assert "0.67 ±" in _row(text, "│ dqn") and "RL, chosen" in _row(text, "│ dqn") and "UNTRAINED" not in text


def test_no_figure_of_policies_with_long_names_is_cut():
    long = "page_hinkley(calibration_error, update_ranker, 2, 10.0, 0.5)"
    summary = _of_shock("updates_summary").with_columns(policy=pl.col("policy").replace("dqn", long))
    text = _printed(report.policies_table(summary, alike={long: "after_data(1600, update_both)"}))
    assert "…" not in text and "0.67 ±" in _row(text, "│ page_hinkley(")


def test_a_learner_that_gains_nothing_is_untrained():
    summary = made_up.tables()["updates_summary"].filter(pl.col("scenario") == "stationary")
    assert report.untrained_policies(summary) == ["dqn"]
    text = _printed(report.policies_table(summary, alike={"dqn": "never"}))
    assert "UNTRAINED, does as never" in _row(text, "│ dqn") and "Rewards are raw" in text


def test_margins_say_who_wins():
    rows = [
        {
            "scenario": name,
            "rl": "ppo",
            "trained_on": "",
            "value": value,
            "low": low,
            "high": high,
            "against": "never",
            "alike": "x" * (name == "e"),
        }
        for name, value, low, high in (
            ("a", 0.2, 0.1, 0.3),
            ("b", -0.2, -0.3, -0.1),
            ("c", 0.0, -0.1, 0.1),
            ("d", 1.0, None, None),
            ("e", 0.0, 0.0, 0.0),
        )
    ]
    text = _printed(report.margins_report(pl.DataFrame(rows)))
    told = {"a": "RL is better", "b": "rules win", "c": "not told apart", "d": "one seed tells", "e": "does as x"}
    assert all(verdict in _row(text, f"│ {name} ") for name, verdict in told.items())


def test_what_is_looked_at_is_named_the_largest_share_first():
    table = made_up.importances().with_columns(changed=pl.when(pl.col("field") == "weekday").then(0.9).otherwise(0.1))
    assert "weekday 90%, engagement 10%" in _printed(report.importance_report(table))
    seldom = made_up.importances().with_columns(changed=pl.lit(0.004))
    assert "engagement <1%" in _printed(report.importance_report(seldom))
    still = made_up.importances().with_columns(changed=pl.lit(0.0))
    assert "always does the same" in _printed(report.importance_report(still))
