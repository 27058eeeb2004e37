"""The look of all figures: colours, settings, legends and labels that keep clear of the data."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

BLUE, VERMILLION, GREEN, ORANGE, SKY, PINK, YELLOW = [
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#E69F00",
    "#56B4E9",
    "#CC79A7",
    "#F0E442",
]
GREY, PALE, INK = "#8A8A8A", "#D0D0D0", "#262626"
CYCLE = (BLUE, VERMILLION, GREEN, ORANGE, PINK, SKY, YELLOW)
HALO = [patheffects.withStroke(linewidth=2, foreground="white")]

PANELS_IN_A_LINE = 3
"""Of a page with a panel for each world or scenario."""
LEGEND_DROP = 38
"""Points between the x axis and a legend below it: room for tick labels and the axis label."""

Point = tuple[float, float]


@contextmanager
def house_style() -> Iterator[None]:
    """Matplotlib settings of all figures."""
    settings: dict[Any, Any] = {
        "figure.dpi": 150,
        "savefig.dpi": 150,
        "figure.constrained_layout.use": True,
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GREY,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "hatch.linewidth": 0.6,
    }
    with mpl.rc_context(settings):
        yield


def legend_below(axes: Axes, handles: list[Any] | None = None) -> None:
    """The legend under the x label, in as many columns as fit, so that it covers no data."""
    if handles is None:
        handles, _ = axes.get_legend_handles_labels()
    if handles:
        below = axes.transAxes + ScaledTranslation(0, -LEGEND_DROP / 72, axes.figure.dpi_scale_trans)
        axes.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0, 0),
            bbox_transform=below,
            ncols=2,
            borderaxespad=0,
            columnspacing=1.2,
        )


def place_labels(axes: Axes, points: list[Point], labels: list[str], lines: list[tuple[Point, Point]]) -> None:
    """Writes a label beside each point where it covers neither points, whiskers nor other labels, as far as possible.

    Each label takes the best of twelve places around its point, in order; those nearest to the figure's edges go first. In a crowd
    it stands further off, with a line to its point.
    """
    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    frame = axes.get_window_extent(renderer)
    pixels = [tuple(axes.transData.transform(point)) for point in points]
    taken: list[tuple[float, ...]] = [(x - 6, y - 6, x + 6, y + 6) for x, y in pixels]
    ends = axes.transData.transform(np.reshape(lines, (-1, 2))).reshape(-1, 4) + np.array([-1, -1, 1, 1])
    whiskers = ends[np.isfinite(ends).all(axis=1)]
    scale = axes.figure.dpi / 72
    angles = np.radians([0, 180, 90, 270, 30, 150, 330, 210, 60, 120, 240, 300])
    reaches = (7.0, 14.0, 28.0, 45.0, 65.0, 90.0)
    places = [(reach * np.cos(angle), reach * np.sin(angle)) for reach in reaches for angle in angles]
    for number in sorted(range(len(points)), key=lambda index: -abs(pixels[index][0] - frame.x0 - frame.width / 2)):
        if not labels[number]:
            continue
        text = axes.annotate(
            labels[number], points[number], (0, 0), textcoords="offset points", fontsize=8, zorder=5, path_effects=HALO
        )
        extent = text.get_window_extent(renderer)
        box: tuple[float, ...] = tuple(extent.extents)
        best, least = (places[0], [0.0, 0.5], box), np.inf
        for across, up in places:
            # how far along the text its anchor lies: 0 left or bottom, 1 right or top
            anchor = [0.5 if abs(part) < 3 else 0.0 if part > 0 else 1.0 for part in (across, up)]
            left = pixels[number][0] + scale * across - anchor[0] * extent.width
            bottom = pixels[number][1] + scale * up - anchor[1] * extent.height
            box = (left, bottom, left + extent.width, bottom + extent.height)
            others = np.array(taken[:number] + taken[number + 1 :]).reshape(-1, 4)
            hidden = _overlap(box, whiskers) + 10 * _overlap(box, others)
            hidden += extent.width * extent.height - _overlap(box, np.array([frame.extents]))
            hidden += max(0.0, np.hypot(across, up) - 14) * extent.height * 0.1
            if hidden < least:
                best, least = ((across, up), anchor, box), hidden
            if least < 1e-6:
                break
        position, anchor, box = best
        horizontal, vertical = {0.0: "left", 0.5: "center", 1.0: "right"}, {0.0: "bottom", 0.5: "center", 1.0: "top"}
        text.set(ha=horizontal[anchor[0]], va=vertical[anchor[1]], position=position)
        if np.hypot(*position) > 15:
            leader: dict[str, Any] = {"arrowstyle": "-", "color": GREY, "lw": 0.5, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", points[number], position, textcoords="offset points", arrowprops=leader, zorder=2.5)
        taken.append(box)


def _overlap(box: tuple[float, ...], others: NDArray[np.float64]) -> float:
    """Area in pixels that a box (left, bottom, right, top) shares with others [M, 4], added up."""
    shared = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(np.maximum(shared, 0).prod(axis=1).sum())


def blank_figure(width: float, height: float) -> Figure:
    """A figure of so many inches that needs no window."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def panels_page(number: int, width: float, height: float, rest: float = 0.0) -> tuple[Figure, list[Axes]]:
    """A figure with `number` panels of one size, in lines, and `rest` inches beside them in height."""
    columns = min(number, PANELS_IN_A_LINE)
    lines = -(-number // columns)
    figure = blank_figure(width * columns, height * lines + rest)
    panels = list(figure.subplots(lines, columns, squeeze=False).ravel())
    for axes in panels[number:]:
        axes.set_visible(False)
    return figure, panels[:number]
