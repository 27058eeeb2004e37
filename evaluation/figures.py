"""Figures of runs: lays the plots out, one run alone or several side by side on shared axes, and writes PNGs."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import polars as pl
from matplotlib.figure import Figure

from envs.artefacts import written_whole
from envs.errors import ArtefactError
from evaluation import plots
from evaluation.fidelity.plots import fidelity_page
from evaluation.plot_style import GREY, blank_figure, house_style
from evaluation.ranking.growth import GROWTH
from evaluation.ranking.plots import growth_page, pairs_page
from evaluation.runs import Run
from evaluation.serving.plots import correlation_page, feedback_page, serving_page
from evaluation.serving.report import loop_estimates
from evaluation.summary import num_users_and_seeds
from evaluation.updates.plots import (
    decay_page,
    front_page,
    importance_page,
    shown_policies,
    timeline_page,
    watched_page,
)
from evaluation.updates.plots import learning_page as update_learning_page
from evaluation.updates.plots import margins_page as updates_margins_page
from evaluation.verdict.plots import learning_page, long_term_page, margins_page, tradeoff_page, verdict_page

TRACED_PANELS = 3
"""Number of users in the figure of interests."""
REFERENCES = ("constant", "mf")
"""Baselines whose level the learning curves show, where they are in the run."""


def save_figures(runs: Run | Sequence[Run], folder: Path | None = None) -> list[Path]:
    """Draws every figure that the runs' tables allow, a column of panels for each run.

    Args:
        runs: one run, or several to be drawn together.
        folder: where the PNGs go; None for the plots folder of a single run.

    Returns:
        Paths of the PNGs: comparison, tradeoff, interest, learning, updates, updates_front, updates_margins,
        updates_importance, updates_decay, updates_learning, updates_monitoring, fidelity, sensitivity, rankers,
        ranker_pairs, growth_amount, growth_delay, growth_labels, serving, offline_vs_simulated, feedback, verdict,
        verdict_margins, verdict_tradeoff, verdict_long_term, verdict_learning.

    Raises:
        ArtefactError: if a table is damaged, or no run has any table to draw.
    """
    several = [runs] if isinstance(runs, Run) else list(runs)
    if folder is None:
        folder = several[0].plot_path("any").parent
    saved = []
    with house_style():
        for name, draw, table in _FIGURES:
            having = [run for run in several if run.has_table(table)]
            figure = draw(having, _titles(having)) if having else None
            if figure is not None:
                saved.append(_save(figure, folder / f"{name}.png"))
    if not saved:
        names = ", ".join(f"'{run.folder}'" for run in several)
        raise ArtefactError(f"{names} holds no table to draw; finish the run with --resume first.")
    return saved


def _titles(runs: Sequence[Run]) -> list[str]:
    """What each run's column is called; a single run needs no name. Runs of the same name take their parent's too."""
    names = [run.folder.resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [f"{run.folder.resolve().parent.name}/{run.folder.resolve().name}" for run in runs]
    return names if len(runs) > 1 else [""]


def _save(figure: Figure, path: Path) -> Path:
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png")
    return path


def _comparison(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """Reward and engagement with intervals; one row of panels a run, so that bars of all runs share their scale."""
    summaries = [run.table("summary") for run in runs]
    scaled = all("normalised_reward" in summary["metric"] for summary in summaries)
    metric = "normalised_reward" if scaled else "reward"
    height = max(0.3 * max(summary["agent"].n_unique() for summary in summaries), 1.6)
    figure = blank_figure(9, 0.9 + (height + 0.7) * len(runs))
    panels = figure.subplots(len(runs), 2, squeeze=False, sharex="col")
    for row, (summary, title) in enumerate(zip(summaries, titles, strict=True)):
        last = row == len(runs) - 1
        left, right = panels[row]
        plots.bars(summary, left, metric, legend=last)
        order = [label.get_text() for label in left.get_yticklabels()]
        plots.bars(summary, right, "engagement", order, legend=False)
        right.set_yticklabels([])
        for axes in panels[row]:
            _prefix(axes, title)
            if not last:
                axes.set_xlabel("")
    users, seeds = num_users_and_seeds(summaries[0])
    _footnote(figure, f"Whiskers: 95 % intervals over {users} users{_seeds_told(seeds)}.")
    return figure


def _seeds_told(seeds: int) -> str:
    return f" and {seeds} training seeds" if seeds > 1 else ", a single training seed"


def _tradeoff(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """Engagement against diversity, a panel for each run."""
    figure = blank_figure(7 * len(runs), 4.8)
    panels = figure.subplots(1, len(runs), squeeze=False, sharex=True, sharey=True)[0]
    for axes, run, title in zip(panels, runs, titles, strict=True):
        plots.tradeoff(run.table("summary"), axes)
        _prefix(axes, title)
    return figure


def _interest(runs: Sequence[Run], titles: Sequence[str]) -> Figure | None:
    """The longest lives of the first run under two of its policies: users down, policies across."""
    trajectories = runs[0].table("interest")
    seed = trajectories["training_seed"].min()
    trajectories = trajectories.filter(pl.col("training_seed") == seed)
    policies = _two_policies(trajectories["agent"].unique(maintain_order=True).to_list())
    trajectories = trajectories.filter(pl.col("agent").is_in(policies))
    lives = trajectories.group_by("user", "agent").agg(pl.col("request").max())
    shortest = lives.group_by("user").agg(pl.col("request").min(), pl.len()).filter(pl.col("len") == len(policies))
    users = shortest.sort(["request", "user"], descending=[True, False])["user"].head(TRACED_PANELS).to_list()
    if not users:
        return None
    shown = trajectories.filter(pl.col("user").is_in(users))
    categories = plots.top_categories(shown)
    figure = blank_figure(4.4 * len(policies) + 1, 1.75 * len(users) + 0.6)
    panels = figure.subplots(len(users), len(policies), squeeze=False, sharey=True, sharex="row")
    for number, (row, user) in enumerate(zip(panels, users, strict=True)):
        for axes, policy in zip(row, policies, strict=True):
            plots.interest(shown.filter((pl.col("user") == user) & (pl.col("agent") == policy)), axes, categories)
            axes.set_title(f"user {user} under {policy}")
            if axes is not row[0]:
                axes.set_ylabel("")
            if number < len(users) - 1:
                axes.set_xlabel("")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right center")
    return figure


def _two_policies(agents: Sequence[str]) -> list[str]:
    """A learner's or the oracle's policy beside the plainest: the pair in which a difference can be expected."""
    wanted = [name for name in ("mf", "popular", "random") if name in agents][:1]
    wanted += [name for name in ("ppo", "dqn", "oracle_lookahead", "oracle_myopic", "mmr") if name in agents][:1]
    return list(dict.fromkeys([*wanted, *agents]))[:2]


def _learning(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """Learning curves, a panel for each run."""
    figure = blank_figure(7 * len(runs), 4.6)
    panels = figure.subplots(1, len(runs), squeeze=False, sharey=True)[0]
    for axes, run, title in zip(panels, runs, titles, strict=True):
        curves = run.table("learning")
        references = None
        if run.has_table("summary"):
            levels = run.table("summary").filter(
                (pl.col("metric") == "reward_per_request") & pl.col("versus").is_null()
            )
            references = levels.filter((pl.col("role") == "initial") | pl.col("agent").is_in(REFERENCES))
        plots.learning_curves(curves, axes, references)
        _prefix(axes, title)
    return figure


def _updates(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """Engagement and update marks over the days of the first run's scenarios."""
    run, chosen = runs[0], {}
    if run.has_table("updates_margins"):
        met = run.table("updates_margins").filter(pl.col("trained_on") == "")
        chosen = dict(met.select("scenario", "rl").iter_rows())
    return timeline_page(run.table("updates"), shown_policies(run.table("updates_points"), chosen))


def _updates_front(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """Engagement against cost in the first run's scenarios."""
    return front_page(runs[0].table("updates_points"))


def _updates_margins(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """Margins of the first run's learnt update policies."""
    return updates_margins_page(runs[0].table("updates_margins"))


def _updates_importance(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """What the first run's learnt update policies look at."""
    return importance_page(runs[0].table("updates_importance"))


def _updates_decay(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """Decay of the first run's frozen models."""
    return decay_page(runs[0].table("updates_decay"))


def _updates_monitoring(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """What monitoring shows of the first run's scenarios."""
    return watched_page(runs[0].table("updates_monitoring"))


def _updates_learning(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """Learning curves of the first run's update policies."""
    return update_learning_page(runs[0].table("updates_learning"))


def _fidelity(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """The page of the first run."""
    names = ("distances", "curves", "two_sample", "scores", "importances")
    return fidelity_page(*[runs[0].table(name) for name in names])


def _sensitivity(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """Differences under each assumption, a panel for each pair of the first run."""
    table = runs[0].table("sensitivity")
    pairs = list(table.select("first", "second").unique(maintain_order=True).iter_rows())
    rows = len(table) // len(pairs)
    figure = blank_figure(5 * len(pairs) + 2, 0.28 * rows + 1.2)
    panels = figure.subplots(1, len(pairs), squeeze=False, sharey=True)[0]
    for axes, (first, second) in zip(panels, pairs, strict=True):
        plots.differences(table.filter((pl.col("first") == first) & (pl.col("second") == second)), axes)
    return figure


def _rankers(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """Measures of the first run's rankers, a panel for each measure."""
    table = runs[0].table("rankers")
    shown = {
        "ndcg10": "NDCG@10, last item among all unseen",
        "auc": "AUC, is the last row liked?",
        "auc20": "AUC, rows of the last 20 %",
        "ndcg10_cut": "NDCG@10, after one cut in time",
    }
    shown = {name: title for name, title in shown.items() if name in table["measure"]}
    figure = blank_figure(4.2 * len(shown), 0.3 * table["ranker"].n_unique() + 1.2)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (name, title) in zip(panels, shown.items(), strict=True):
        plots.points(table.filter(pl.col("measure") == name).sort("value"), axes)
        axes.set_title(title)
    seeds = int(table["training_seeds"].to_numpy().max())
    told = f" and {seeds} training seeds" if seeds > 1 else "; one training seed"
    _footnote(figure, f"Whiskers: 95 % intervals, users resampled{told}.")
    return figure


def _ranker_pairs(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """Differences between all rankers of the first run."""
    return pairs_page(runs[0].table("ranker_pairs"))


def _growth(kind: str, runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """Quality of the first run's rankers under each level of what is varied."""
    return growth_page(runs[0].table("ranker_growth"), kind)


def _serving(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """Outcomes of the first run's pipelines."""
    return serving_page(runs[0].table("serving"))


def _offline_vs_simulated(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """Offline measure against outcome of the first run's pipelines."""
    return correlation_page(runs[0].table("serving"), runs[0].table("serving_correlations"))


def _feedback(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """Feedback loops of the first run."""
    return feedback_page(loop_estimates(runs[0].table("feedback")))


def _verdict(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """Rewards of the first run's finalists in all worlds."""
    return verdict_page(runs[0].table("verdict_summary"))


def _verdict_margins(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """Margins of the first run's best RL agents."""
    return margins_page(runs[0].table("verdict_margins"), runs[0].table("verdict_bounds"))


def _verdict_tradeoff(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """What the first run's best contenders give under other rewards."""
    return tradeoff_page(runs[0].table("verdict_points"), runs[0].table("verdict_volumes"))


def _verdict_long_term(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """What lasts of the first run's policies."""
    return long_term_page(runs[0].table("verdict_entropy"), runs[0].table("verdict_summary"))


def _verdict_learning(runs: Sequence[Run], titles: Sequence[str]) -> Figure:
    """Learning curves of the first run's finalists."""
    return learning_page(runs[0].table("verdict_learning"), runs[0].table("verdict_summary"))


def _prefix(axes: plots.Axes, title: str) -> None:
    if title:
        axes.set_title(f"{title}: {axes.get_title(loc='left')}")


def _footnote(figure: Figure, text: str) -> None:
    figure.supxlabel(text, fontsize=7.5, color=GREY, x=0.01, ha="left")


_FIGURES: tuple[tuple[str, Callable[[Sequence[Run], Sequence[str]], Figure | None], str], ...] = (
    ("comparison", _comparison, "summary"),
    ("tradeoff", _tradeoff, "summary"),
    ("interest", _interest, "interest"),
    ("learning", _learning, "learning"),
    ("updates", _updates, "updates_points"),
    ("updates_front", _updates_front, "updates_points"),
    ("updates_margins", _updates_margins, "updates_margins"),
    ("updates_importance", _updates_importance, "updates_importance"),
    ("updates_decay", _updates_decay, "updates_decay"),
    ("updates_learning", _updates_learning, "updates_learning"),
    ("updates_monitoring", _updates_monitoring, "updates_monitoring"),
    ("fidelity", _fidelity, "distances"),
    ("sensitivity", _sensitivity, "sensitivity"),
    ("rankers", _rankers, "rankers"),
    ("ranker_pairs", _ranker_pairs, "ranker_pairs"),
    *((f"growth_{kind}", partial(_growth, kind), "ranker_growth") for kind in GROWTH),
    ("serving", _serving, "serving"),
    ("offline_vs_simulated", _offline_vs_simulated, "serving_correlations"),
    ("feedback", _feedback, "feedback"),
    ("verdict", _verdict, "verdict_summary"),
    ("verdict_margins", _verdict_margins, "verdict_margins"),
    ("verdict_tradeoff", _verdict_tradeoff, "verdict_volumes"),
    ("verdict_long_term", _verdict_long_term, "verdict_entropy"),
    ("verdict_learning", _verdict_learning, "verdict_learning"),
)
"""Name of the PNG, what draws it, and the table that it needs."""
