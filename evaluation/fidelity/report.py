"""Tables of the fidelity report for the terminal."""

from collections.abc import Mapping

import polars as pl
from rich.table import Table

from envs.users.ablation import EvolutionGain

SHUFFLE_SENTENCE = (
    "Only what survives the shuffle may be called evolving interest, the rest is the order of the rating page."
)
_TITLES = {"real": "floor", "model": "user model", "static": "static", "popularity": "popularity"}


def distances_table(distances: pl.DataFrame) -> Table:
    """One row for each aspect: the floor, and distance and ratio to the floor of each source.

    Args:
        distances: as `evaluation.fidelity.distances.distance_table` makes it.
    """
    table = Table(title="Distances between halves of users, means over random halvings", title_justify="left")
    table.caption = (
        "Floor: real users against other real users (95 % of halvings). Others: users of one half, simulated, against "
        "the real users of the other half; in brackets the distance over the floor."
    )
    table.caption_justify = "left"
    table.add_column("aspect", no_wrap=True)
    table.add_column("unit", overflow="fold", max_width=18)
    for heading in _TITLES.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for (title, unit), rows in distances.group_by("title", "unit", maintain_order=True):
        of = {row["source"]: row for row in rows.iter_rows(named=True)}
        cells = []
        for source in _TITLES:
            row = of.get(source)
            if row is None:
                cells.append("–")
            elif source == "real":
                cells.append(f"{row['distance']:.3f} ({row['low']:.3f} to {row['high']:.3f})")
            else:
                cells.append(f"{row['distance']:.3f}" + (f" ({row['ratio']:.1f})" if row["ratio"] is not None else ""))
        table.add_row(str(title), str(unit), *cells)
    return table


def two_sample_table(tests: pl.DataFrame) -> Table:
    """One row for each classifier two-sample test.

    Args:
        tests: as `evaluation.fidelity.study.two_sample_tests` makes it.
    """
    table = Table(title="Telling real from simulated users: AUC, 95 % interval over users", title_justify="left")
    table.caption = (
        "0.5: cannot be told apart. Folds by user. The second and third rows show what the classifiers can find."
    )
    table.caption_justify = "left"
    for heading in ("real users against", "classifier"):
        table.add_column(heading, no_wrap=True)
    table.add_column("AUC", justify="right")
    table.add_column("interval", justify="right")
    for row in tests.iter_rows(named=True):
        name = row["test"].replace("model", "user model")
        table.add_row(name, row["classifier"], f"{row['auc']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}")
    return table


def importances_table(importances: pl.DataFrame, most: int = 12) -> Table:
    """Where the user model is told apart: the statistics whose permutation costs the trees most AUC.

    Args:
        importances: as `evaluation.fidelity.study.two_sample_tests` makes it.
        most: rows to show.
    """
    table = Table(title="Where simulated users are told apart", title_justify="left")
    table.caption = (
        "Importance: loss of AUC when the statistic is permuted among users, ± its standard error over folds."
    )
    table.caption_justify = "left"
    table.add_column("statistic", no_wrap=True)
    for heading in ("importance", "real, mean (sd)", "simulated, mean (sd)"):
        table.add_column(heading, justify="right")
    for row in importances.head(most).iter_rows(named=True):
        table.add_row(
            row["statistic"],
            f"{row['importance']:.4f} ± {row['error']:.4f}",
            f"{row['real']:.3f} ({row['real_sd']:.3f})",
            f"{row['simulated']:.3f} ({row['simulated_sd']:.3f})",
        )
    return table


def fidelity_likelihoods(likelihoods: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Masked test negative log-likelihoods as flat figures, nats per event."""
    names = {
        "nll_parametric": "evolving",
        "nll_dien": "dien",
        "nll_popularity": "popularity",
        "nll_static": "static",
        "nll_parametric_shuffled": "evolving, shuffled",
        "nll_dien_shuffled": "dien, shuffled",
    }
    return {figure: likelihoods[name]["masked"] for figure, name in names.items() if name in likelihoods}


def survival_sentence(gain: EvolutionGain) -> str:
    """How much of what evolution buys survives shuffling inside visits, and what may be claimed."""

    def told(estimate: tuple[float, float, float]) -> str:
        return "{:.3f} ({:.3f} to {:.3f})".format(*estimate)

    return (
        f"Against the same model fitted with nothing that moves, evolution buys {told(gain.as_logged)} nats an event as logged and "
        f"{told(gain.shuffled)} with events shuffled inside visits; {told(gain.lost)} do not survive. {SHUFFLE_SENTENCE}"
    )
