from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from envs.errors import ArtefactError
from evaluation import plots
from evaluation.figures import save_figures
from evaluation.plot_style import house_style
from evaluation.runs import Run
from evaluation.summary import initial_name

NUMBERS = {"value": pl.Float64, "low": pl.Float64, "high": pl.Float64}


def summary_of(roles, value=lambda metric, place: 1.0 + place, untrained=()):
    """A summary with all metrics that are drawn, of agents with the given roles."""
    rows = []
    for place, (agent, role) in enumerate(roles.items()):
        for metric in ("reward", "normalised_reward", "engagement", "diversity", "freshness"):
            figure = value(metric, place)
            interval = (
                {"low": figure - 0.1, "high": figure + 0.1} if figure is not None else {"low": None, "high": None}
            )
            label = {"agent": agent, "role": role, "untrained": agent in untrained, "metric": metric, "versus": None}
            rows.append({**label, "value": figure, **interval, "num_users": 10, "num_seeds": 1})
    return pl.DataFrame(rows, schema_overrides={**NUMBERS, "versus": pl.String})


ROLES = {
    "mf": "baseline",
    "oracle_myopic": "oracle",
    "ppo": "learner",
    initial_name("ppo"): "initial",
    "dqn": "learner",
}
MANY = {f"agent_number_{number}": "baseline" for number in range(25)}
SUMMARIES = {
    "usual": summary_of(ROLES, untrained=("dqn",)),
    "one": summary_of({"mf": "baseline"}),
    "many": summary_of(MANY),
    "missing": summary_of(ROLES, value=lambda metric, place: None if place == 2 or metric == "freshness" else 1.0),
    "all missing": summary_of(ROLES, value=lambda metric, place: None),
    "equal": summary_of(ROLES, value=lambda metric, place: 0.0),
}
CURVES = pl.DataFrame(
    [
        {"agent": agent, "training_seed": seed, "requests": float(step + 1 + seed), "reward": float(step)}
        for agent in ("ppo", "dqn")
        for seed in (0, 1)
        for step in range(5)
    ]
)
REFERENCES = pl.DataFrame(
    [{"agent": initial_name("ppo"), "role": "initial", "value": 1.0}, {"agent": "mf", "role": "baseline", "value": 2.0}]
)
INTEREST = pl.DataFrame(
    [
        {
            "agent": agent,
            "role": "baseline",
            "training_seed": 0,
            "user": user,
            "request": request,
            "visit": request // 3,
        }
        | {"day": float(request // 3), "category": f"kind {kind}", "share": (kind + 1) / 36}
        for agent in ("mf", "ppo")
        for user in (3, 4)
        for request in range(9)
        for kind in range(8)
    ]
)


@pytest.fixture
def axes():
    figure = Figure()
    FigureCanvasAgg(figure)
    with house_style():
        yield figure.subplots()
    figure.canvas.draw()


def told(axes):
    return axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()


@pytest.mark.parametrize("name", SUMMARIES)
@pytest.mark.parametrize("metric", ["reward", "normalised_reward", "engagement"])
def test_bars_of_any_table(axes, name, metric):
    assert plots.bars(SUMMARIES[name], axes, metric) is axes
    title, unit, _ = told(axes)
    assert title and unit
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert sorted(shown) == sorted(set(SUMMARIES[name].filter(pl.col("role") != "initial")["agent"]))


@pytest.mark.parametrize("name", SUMMARIES)
def test_tradeoff_of_any_table(axes, name):
    assert plots.tradeoff(SUMMARIES[name], axes) is axes
    assert all(told(axes))


def test_bars_have_the_values_and_intervals_of_the_table(axes):
    plots.bars(SUMMARIES["usual"], axes, "reward", order=["ppo", "mf", "dqn", "oracle_myopic"])
    assert [bar.get_width() for bar in axes.patches] == [3.0, 1.0, 5.0, 2.0]
    ends = [
        container.lines[2][0].get_segments()[0][:, 0].tolist()
        for container in axes.containers
        if hasattr(container, "lines")
    ]
    assert np.allclose(ends, [[2.9, 3.1], [0.9, 1.1], [4.9, 5.1], [1.9, 2.1]])


def test_oracles_are_hatched_untrained_agents_pale_and_beginnings_shown(axes):
    plots.bars(SUMMARIES["usual"], axes, "reward", order=["ppo", "mf", "dqn", "oracle_myopic"])
    hatches = [bar.get_hatch() for bar in axes.patches]
    assert hatches[3] and not any(hatches[:3])
    assert [bar.get_alpha() < 1 for bar in axes.patches] == [False, False, True, False]
    notes = [text.get_text() for text in axes.texts]
    assert sum("untrained" in note for note in notes) == 1 and "untrained" in notes[2]
    diamonds = [line for line in axes.lines if line.get_marker() == "D"]
    assert [line.get_xdata()[0] for line in diamonds] == [4.0]


def test_labels_of_points_apart_do_not_overlap(axes):
    rng = np.random.default_rng(0)
    places = {(metric, place): rng.random() for metric in ("diversity", "engagement") for place in range(12)}
    roles = {f"agent_{number}": "baseline" for number in range(12)}
    plots.tradeoff(summary_of(roles, value=lambda metric, place: places.get((metric, place), 0.5)), axes)
    axes.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 12
    assert not any(boxes[i].overlaps(boxes[j]) for i in range(12) for j in range(i))


def test_labels_of_a_crowd_stand_apart_with_lines_to_their_points(axes):
    rng = np.random.default_rng(1)
    # thirteen of seventeen agents in a corner, as where little was learnt
    places = {(metric, place): rng.normal(0.68, 0.02) for metric in ("diversity", "engagement") for place in range(17)}
    places |= {(metric, place): rng.random() for metric in ("diversity", "engagement") for place in range(4)}
    roles = {f"an_agent_{number}": "learner" if number else "baseline" for number in range(17)}
    plots.tradeoff(
        summary_of(roles, value=lambda metric, place: places.get((metric, place), 0.5), untrained=("an_agent_3",)), axes
    )
    axes.figure.canvas.draw()
    written = [text for text in axes.texts if text.get_text()]
    boxes = [text.get_window_extent() for text in written]
    assert sorted(text.get_text() for text in written) == sorted(f"{name}{'*' * (name[-2:] == '_3')}" for name in roles)
    assert not any(boxes[i].overlaps(boxes[j]) for i in range(17) for j in range(i))
    assert any(text.arrow_patch is not None for text in axes.texts)
    assert "* untrained: not above that policy" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_interest_fills_up_to_one_and_marks_visits(axes):
    one = INTEREST.filter((pl.col("agent") == "mf") & (pl.col("user") == 3))
    assert plots.interest(one, axes) is axes
    assert all(told(axes))
    assert len(axes.collections) == 7
    top = max(path.vertices[:, 1].max() for path in axes.collections[-1].get_paths())
    assert top == pytest.approx(1)
    assert sorted(line.get_xdata()[0] for line in axes.lines) == [0, 3, 6]


def test_interest_of_a_single_request(axes):
    plots.interest(INTEREST.filter((pl.col("request") == 0) & (pl.col("user") == 3) & (pl.col("agent") == "mf")), axes)


def test_top_categories_are_the_largest_in_order():
    assert plots.top_categories(INTEREST, 3) == ["kind 7", "kind 6", "kind 5"]


def test_learning_curves_have_means_and_levels(axes):
    assert plots.learning_curves(CURVES, axes, REFERENCES) is axes
    assert all(told(axes))
    thick = [line for line in axes.lines if line.get_label() == "ppo"]
    # seeds are shifted by one request: at 2 the first is at 1.0, the second at 0.0
    assert thick[0].get_xdata()[0] == 2 and thick[0].get_ydata()[0] == 0.5
    before, mf = "before training, in the agent's colour", "mf (evaluation users)"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ppo", "dqn", before, mf]
    dotted = [line for line in axes.lines if line.get_linestyle() == ":" and len(line.get_ydata())]
    assert [(line.get_ydata()[0], line.get_color()) for line in dotted] == [(1, thick[0].get_color())]


def test_many_learning_curves_can_be_told_apart(axes):
    names = [f"agent {number}" for number in range(15)]
    one = CURVES.filter((pl.col("agent") == "ppo") & (pl.col("training_seed") == 0))
    plots.learning_curves(pl.concat([one.with_columns(agent=pl.lit(name)) for name in names]), axes)
    looks = {(line.get_color(), line.get_marker()) for line in axes.lines}
    assert len(looks) == len(names)


def test_a_learning_curve_of_one_point_or_of_none(axes):
    plots.learning_curves(CURVES.head(1), axes)
    plots.learning_curves(CURVES.clear(), axes)


@pytest.fixture
def run(tmp_path):
    run = Run.create(tmp_path / "first", "compare", {})
    tables = {"summary": SUMMARIES["usual"], "learning": CURVES, "interest": INTEREST}
    for name, table in tables.items():
        run.write_table(name, table)
    return run


def test_every_figure_of_a_run_is_written(run):
    paths = save_figures(run)
    assert [path.name for path in paths] == [
        "comparison.png",
        "tradeoff.png",
        "interest.png",
        "learning.png",
    ]
    assert all(path.parent == run.folder / "plots" and path.read_bytes()[:4] == b"\x89PNG" for path in paths)


def test_several_runs_are_drawn_together(run, tmp_path):
    other = Run.create(tmp_path / "second", "compare", {})
    other.write_table("summary", SUMMARIES["one"])
    paths = save_figures([run, other], tmp_path / "both")
    assert len(paths) == 4 and all(path.parent == tmp_path / "both" for path in paths)
    assert not (run.folder / "plots").exists()


def test_a_run_with_nothing_to_draw_is_refused(tmp_path):
    run = Run.create(tmp_path / "empty", "compare", {})
    with pytest.raises(ArtefactError, match="no table to draw"):
        save_figures(run)


def test_colours_can_be_told_apart_in_grey():
    """Luminance (Rec. 709) of the colours that roles have differs by a twentieth at least."""
    rgb = [[int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)] for colour in plots.ROLE_COLOURS.values()]
    grey = sorted(np.array(rgb) @ [0.2126, 0.7152, 0.0722])
    assert all(above - below > 0.05 for below, above in pairwise(grey))
