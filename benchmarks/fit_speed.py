"""How the cost of fitting the user model grows with the rows of the log, items and passes held fixed.

Run: python -m benchmarks.fit_speed          (about six minutes on one core)

Fits generated logs of 1,682 items and about 100 events a user by two passes, embeddings of 32. Seconds are of the processor,
so that other work on the machine does not count. Training takes every event. The later stages estimate some scalars each
(`envs.users.calibration`, `envs.users.block_weights`, `envs.users.taste_traits`) and look at no more than a fixed number of
events times items, so beyond that number only training, the heads and the test likelihood cost more;
`fit_s_per_further_million_rows` is what these cost, from the last two sizes. Prints the figures last, and writes them to
results/fit_speed.json and the curve to results/fit_speed.png.
"""

import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from envs.artefacts import save_json
from envs.logs.synthetic import SyntheticConfig, generate_log
from envs.users.fit import FitConfig, fit_interest_model
from evaluation.plot_style import BLUE, GREY, house_style

USERS = (250, 500, 1_000, 2_000, 4_000, 12_000)
EVENTS_PER_USER = 100
NUM_ITEMS = 1_682
PASSES = 2


def fit_cost(users: int) -> tuple[int, float]:
    """(rows of a generated log of that many users, processor seconds of its fit)."""
    config = SyntheticConfig(
        num_users=users, events_per_user=EVENTS_PER_USER, num_items=NUM_ITEMS, num_categories=19, with_exposures=False
    )
    log, _ = generate_log(config, seed=0)
    begin = time.process_time()
    fit_interest_model(log, FitConfig(epochs=PASSES, patience=PASSES), progress=False)
    return len(log), time.process_time() - begin


def plot_fit_cost(rows: list[int], seconds: list[float], axes: Axes) -> Axes:
    """Seconds over rows, and what they would be if they grew with the rows as from nothing to the smallest log."""
    thousands = np.array(rows) / 1e3
    proportional = seconds[0] / thousands[0] * thousands
    axes.plot(np.append(0, thousands), np.append(0, proportional), color=GREY, linewidth=1)
    axes.plot(thousands, seconds, "o-", color=BLUE, linewidth=1)
    axes.annotate(
        "in proportion to\nthe smallest log",
        (0.7 * thousands[-1], 0.7 * proportional[-1]),
        xytext=(-8, 4),
        textcoords="offset points",
        color=GREY,
        ha="right",
        va="bottom",
    )
    axes.set(xlabel="rows of the log, thousands", ylabel="seconds of one core", xlim=(0, None), ylim=(0, None))
    axes.set_title("The fit's cost grows no faster than the rows")
    axes.text(
        0, -0.26, f"python -m benchmarks.fit_speed, {NUM_ITEMS:,} items, {PASSES} passes, seed 0",
        transform=axes.transAxes, color=GREY, fontsize=7,
    )  # fmt: skip
    return axes


def main() -> None:
    """Fits logs of growing size, prints figures and draws the curve."""
    rows: list[int] = []
    seconds: list[float] = []
    fit_cost(USERS[0])  # what is compiled and loaded on first use is not the fit's
    for users in USERS:
        count, cost = fit_cost(users)
        rows.append(count)
        seconds.append(cost)
        print(f"{count:,} rows: {cost:.1f} s", file=sys.stderr)
    figures = {f"fit_s_per_million_rows_{n}": 1e6 * cost / n for n, cost in zip(rows, seconds, strict=True)}
    # 1 where doubling the rows doubles the cost
    figures["fit_growth_exponent"] = float(np.polyfit(np.log(rows), np.log(seconds), 1)[0])
    # beyond the events that the later stages look at
    figures["fit_s_per_further_million_rows"] = 1e6 * (seconds[-1] - seconds[-2]) / (rows[-1] - rows[-2])
    save_json(Path("results/fit_speed.json"), figures)
    with house_style():
        figure, axes = plt.subplots(figsize=(4.5, 3.2))
        plot_fit_cost(rows, seconds, axes)
        figure.savefig("results/fit_speed.png")
    for name, value in figures.items():
        print(f"{name}: {value:.2f}")


if __name__ == "__main__":
    main()
