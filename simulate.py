"""Simulates users fitted to interaction logs, and compares recommenders on them.

Examples:

    python simulate.py                                        the whole path on MovieLens 100K, some five minutes
    python simulate.py --fast                                 every stage, small, in under a minute
    python simulate.py --agents my_file.py:MyAgent,mmr,ppo    an agent of your own beside known ones
    python simulate.py --recall als=0.8,two_tower=0.2         candidates by several recall channels
    python simulate.py --dataset path/to/ml-latest-small      your own ratings.csv and movies.csv
    python simulate.py --resume results/compare-...           go on with a run that was interrupted
    python simulate.py fit                                    how well the users fit their log
    python simulate.py fit --ablation                         what each term of the user model buys
    python simulate.py fidelity                               how like the log's users the simulated ones are
    python simulate.py sensitivity                            what 'A beats B' rests on
    python simulate.py rankers                                supervised rankers: held-out rows, simulated users
    python simulate.py verdict                                does reinforcement learning beat what is supervised?
    python simulate.py updates                                when to update the models: tuned rules against RL
    python simulate.py plot RUN [RUN ...]                     draw saved runs again, or several together
    python simulate.py export RUN                             trajectories of a run as Parquet, or for Minari

compare is the subcommand where none is named. `python simulate.py SUBCOMMAND --help` lists the options of each.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console

from agents.updates.study import update_figures
from envs.errors import ConfigurationError, DriftrecError
from envs.logs import load_log
from envs.logs.schema import InteractionLog
from envs.users.ablation import ablation, ablation_figures, evolution_gain
from envs.users.fit import FitConfig
from envs.users.measure import likelihood_reports
from envs.users.models import fit_user_model
from envs.users.protocol import UserModel
from envs.users.resampling import drawn_users, log_of_users
from envs.world import World, WorldConfig, build_world
from evaluation.export import export_minari, export_parquet
from evaluation.fidelity.report import fidelity_likelihoods, survival_sentence
from evaluation.fidelity.study import Study, fidelity_report
from evaluation.figures import save_figures
from evaluation.options import (
    NOT_PART_OF_A_RUN,
    CompareOptions,
    DataOptions,
    ExportOptions,
    FidelityOptions,
    FitOptions,
    PlotOptions,
    RankerOptions,
    SensitivityOptions,
    UpdateOptions,
    VerdictOptions,
    chosen_command,
    parsed_options,
)
from evaluation.population_report import population_figures, population_report, population_table
from evaluation.progress import progress
from evaluation.ranking.growth import growth_study
from evaluation.ranking.report import growth_figures, growth_tables, ranker_figures, ranker_tables
from evaluation.ranking.study import ranker_study
from evaluation.recall_report import RECALL_TABLE, channel_figures, channels_table, tell_channels
from evaluation.report import (
    ablation_table,
    changed_sentence,
    comparison_table,
    likelihood_table,
    make_console,
    parameter_table,
    print_figures,
)
from evaluation.runs import Run
from evaluation.sensitivity import (
    ASSUMPTIONS,
    parsed_pairs,
    sensitivity_figures,
    sensitivity_report,
    sensitivity_table,
)
from evaluation.serving.report import answer, correlation_table, loop_table, serving_figures, serving_tables
from evaluation.serving.study import serving_study
from evaluation.summary import changed_conclusions
from evaluation.training import run_comparison, under_user_models
from evaluation.units import fitted_agents, named_agents
from evaluation.updates.arena import UpdateArena
from evaluation.updates.quick import judge_habits
from evaluation.updates.report import policies_table, study_figures, study_tables
from evaluation.updates.study import STUDY, study_updates
from evaluation.updates.summary import points_table, summary_table
from evaluation.verdict.arena import arenas_of
from evaluation.verdict.contenders import contenders_of
from evaluation.verdict.finals import measure_bounds
from evaluation.verdict.jobs import Workshop
from evaluation.verdict.report import bounds_table, verdict_figures, verdict_tables
from evaluation.verdict.study import bounds_of, reach_verdict, shared_minutes
from evaluation.verdict.worlds import Fitted, entries
from recall import MergedRecall
from recall.embedding import EmbeddingRecall
from recall.quality import leave_last_out


# ------------------------------------------------------------------------------------------------------------ subcommands
def compare(options: CompareOptions) -> None:
    """Log → fitted users → world → recall → training → comparison → model updates → tables and plots."""
    options = options.sized()
    specs = options.specs()
    named_agents(specs)
    world_config, comparison, training = options.world(), options.comparison(), options.training()
    console = make_console()
    log = read_log(options, console)
    run = open_run(options, "compare", options.resume)

    console.rule("users")
    config = fit_config(log, options, console)
    user_model = fit_user_model(options.user_model, log, config)
    likelihoods = likelihood_reports(log, config, user_model=options.user_model)
    console.print(likelihood_table(likelihoods))
    console.print(parameter_table(parameters(user_model)))

    console.rule("agents")
    world = build_world(log, user_model, world_config)
    comparison = comparison.within(world)
    recall = options.recall_stage().fit(world.policy_log)
    result = run_comparison(
        specs,
        world,
        recall,
        run,
        comparison=comparison,
        training=training,
        jobs=options.jobs,
        ray_address=options.ray_address,
        console=console,
    )
    figures: dict[str, Any] = {}
    judged = options.recall_stage()
    if isinstance(judged, MergedRecall):
        # a recall of its own, since the one that serves has learnt each user's last item
        judged.fit(leave_last_out(world.policy_log).log)
        tell_channels(judged, world.policy_log, comparison.serving.num_candidates, run)
        console.print(channels_table(run.table(RECALL_TABLE)))
        figures |= channel_figures(run.table(RECALL_TABLE))
    if options.user_model_seeds > 1:
        worlds, plain = refitted_worlds(log, options, config), result.summary()
        with progress("user models", len(worlds)) as report:
            result = under_user_models(result, specs, worlds, recall, run, comparison, training, report=report)
        changed = changed_conclusions(plain, result.summary())
        console.print(changed_sentence(changed, len(worlds)))
        figures |= {"conclusions_changed_by_user_models": len(changed)}
    console.print(comparison_table(result.summary()))
    figures |= likelihood_figures(likelihoods) | result.figures() | {"num_user_models": options.user_model_seeds}

    if options.update_seeds:
        console.rule("model updates")
        days = judge_habits(run, world, options)
        summary = summary_table(days)
        run.write_table("updates_summary", summary)
        run.write_table("updates_points", points_table(days))
        console.print(policies_table(summary))
        figures |= update_figures(summary)
    finish(run, figures, console)


def fit(options: FitOptions) -> None:
    """Log → users, static factorisation and popularity, as logged and shuffled inside visits → likelihoods, parameters."""
    console = make_console()
    log = read_log(options, console)
    run = open_run(options, "fit")
    config = fit_config(log, options, console, search=options.search or None)
    likelihoods = likelihood_reports(log, config, shuffled=True, user_model=options.user_model)
    console.print(likelihood_table(likelihoods))
    gain = evolution_gain(log, config)
    console.print(survival_sentence(gain))
    user_model = fit_user_model(options.user_model, log, config)
    console.print(parameter_table(parameters(user_model)))
    figures = gain.figures()
    if options.ablation:
        rows = ablation(log, config)
        console.print(ablation_table(rows))
        run.write_table("ablation", pl.DataFrame([asdict(row) for row in rows]))
        figures |= ablation_figures(rows)
    run.write_table("likelihoods", pl.DataFrame([{"model": name, **row} for name, row in likelihoods.items()]))
    run.write_table("parameters", pl.DataFrame(parameters(user_model), infer_schema_length=None))
    finish(run, likelihood_figures(likelihoods) | engagement_figures(user_model) | figures, console)


def fidelity(options: FidelityOptions) -> None:
    """Log → users → free-running lives beside held-out ones → distances over their floor, two-sample tests, plots."""
    console = make_console()
    log = read_log(options, console)
    run = open_run(options, "fidelity", options.resume)
    config = fit_config(log, options, console)
    likelihoods = likelihood_reports(log, config, shuffled=True, user_model="dien")
    likelihoods |= likelihood_reports(log, config, shuffled=True, user_model=options.user_model)
    console.print(likelihood_table(likelihoods))
    gain = evolution_gain(log, config)
    console.print(survival_sentence(gain))
    user_model = fit_user_model(options.user_model, log, config)
    report = fidelity_report(Study.of(log, user_model, options.fidelity(config.max_events)), run, progress)
    for table in report.tables():
        console.print(table)
    population = drawn_beside_fitted(log, user_model, options, run)
    console.print(population_table(population))
    figures = population_figures(population) | fidelity_likelihoods(likelihoods) | gain.figures() | report.figures()
    finish(run, figures, console)


def sensitivity(options: SensitivityOptions) -> None:
    """Log → users → agents → the same comparison under every assumed parameter's plausible range → table and plot."""
    pairs = parsed_pairs(options.pairs)
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    named_agents(names)
    console = make_console()
    log = read_log(options, console)
    run = open_run(options, "sensitivity", options.resume)
    user_model = fit_user_model(options.user_model, log, fit_config(log, options, console))
    world = build_world(log, user_model, options.world())
    comparison = options.comparison().within(world)
    recall = EmbeddingRecall(seed=options.seed).fit(world.policy_log)
    agents = fitted_agents(names, world, recall, run, comparison, options.training_requests(), options.seed)
    with progress("worlds", 1 + 2 * len(ASSUMPTIONS)) as report:
        table = sensitivity_table(agents, pairs, log, user_model, options.world(), recall, comparison, run, report)
    run.write_table("sensitivity", table)
    console.print(sensitivity_report(table))
    finish(run, sensitivity_figures(table), console)


def rankers(options: RankerOptions) -> None:
    """Log → rankers fitted to its earlier rows → ranks, probabilities, pairs and growth on the later ones → tables, plots."""
    parts, study = options.chosen_parts(), options.study()
    console = make_console()
    log = read_log(options, console)
    if options.debias and log.propensity is None and "serving" not in parts:
        raise ConfigurationError(
            f"--debias weighs by the chance with which rows were shown, which log '{log.name}' does not tell; "
            "leave it out, or add serving to --parts, whose simulated requests tell it."
        )
    run = open_run(options, "rankers", options.resume)
    figures: dict[str, float] = {}
    if "offline" in parts:
        console.rule("held-out rows")
        found = ranker_study(log, study, run, progress)
        for table in ranker_tables(found):
            console.print(table)
        figures |= ranker_figures(found)
    if "growth" in parts:
        console.rule("amount of data, delay, wrong labels")
        growth = growth_study(log, study, run, progress)
        for table in growth_tables(growth):
            console.print(table)
        figures |= growth_figures(growth)
    if "serving" in parts:
        console.rule("against the users")
        figures |= pipelines_against_users(log, options, run, console)
    finish(run, figures, console)


def pipelines_against_users(
    log: InteractionLog, options: RankerOptions, run: Run, console: Console
) -> dict[str, float]:
    """Pipelines of all rankers and re-rankers serve users of several models → tables → figures."""
    config, users = options.serving(), fit_config(log, options, console)
    world = WorldConfig(days=config.days, seed=config.seed)
    worlds = {name: build_world(log, fit_user_model(name, log, users), world) for name in config.user_models}
    serving, correlations, rounds = serving_study(worlds, config, run, progress)
    channels = run.table(RECALL_TABLE)
    for table in (
        channels_table(channels),
        *serving_tables(serving),
        correlation_table(correlations),
        loop_table(rounds),
    ):
        console.print(table)
    console.print(answer(correlations))
    return channel_figures(channels) | serving_figures(serving, correlations, rounds)


def verdict(options: VerdictOptions) -> None:
    """Log → users → worlds → what oracles gain → the same search for all → finals on fresh users → tables and plots."""
    config = options.verdict()
    contenders_of(config)
    console = make_console()
    log = read_log(options, console)

    @cache
    def model(name: str) -> UserModel:
        return fit_user_model(name, log, users)

    def fitted(name: str) -> Fitted:
        return lambda: (log, model(name))

    worlds = entries(
        options.world_specs(),
        options.user_models(),
        log.name,
        fitted,
        options.world(),
        options.scale().satiation_users,
    )
    run = open_run(options, "verdict", options.resume)
    users = fit_config(log, options, console)
    arenas = arenas_of(worlds, config, run, progress)
    workshop = Workshop(arenas, run, progress, options.jobs)
    with workshop.open():
        console.rule("bounds")
        measure_bounds(workshop)
        console.print(bounds_table(bounds_of(run, list(arenas))))
        console.rule("search and finals")
        found = reach_verdict(workshop, arenas, config, run)
    for table in verdict_tables(found, shared_minutes(run)):
        console.print(table)
    finish(run, verdict_figures(found), console)


def updates(options: UpdateOptions) -> None:
    """Log → users → scenarios → decay, tuned and trained policies, judged in fresh worlds, hindsight → tables and plots."""
    config = options.study()
    console = make_console()
    log = read_log(options, console)
    run = open_run(options, "updates", options.resume)
    user_model = fit_user_model(options.user_model, log, fit_config(log, options, console))
    arena = UpdateArena.of(log, user_model, config, run)
    workshop = Workshop({STUDY: arena}, run, progress, options.jobs)
    with workshop.open():
        found = study_updates(workshop, arena)
    for table in study_tables(found):
        console.print(table)
    finish(run, study_figures(found), console)


def plot(options: PlotOptions) -> None:
    """Saved runs → plots."""
    runs = [Run.open(folder) for folder in options.runs]
    folder = options.out or (None if len(runs) == 1 else Path("results/plots"))
    for path in save_figures(runs, folder):
        print(path)


def export(options: ExportOptions) -> None:
    """A run's event logs → the same lives, once more → Parquet files or Minari data sets."""
    run = Run.open(options.run)
    if options.format == "minari":
        made: Sequence[Any] = export_minari(run, options.out, options.named())
    else:
        made = export_parquet(run, options.out or run.folder / "exported", options.named())
    for name in made:
        print(name)


# ------------------------------------------------------------------------------------------------------ parts they share
def open_run(options: DataOptions, subcommand: str, resume: Path | None = None) -> Run:
    """The run folder: a new one, or the one to go on with."""
    config = {name: value for name, value in asdict(options).items() if name not in NOT_PART_OF_A_RUN}
    run = Run.resume(resume, subcommand, config) if resume else Run.create(options.out, subcommand, config)
    print(f"run folder: {run.folder}", file=sys.stderr)
    return run


def read_log(options: DataOptions, console: Console) -> InteractionLog:
    """The log, and a line that says what is in it."""
    log = load_log(options.dataset, skip_bad_rows=options.skip_bad_rows, seed=options.seed, columns=options.columns)
    left_out = f", {log.skipped_rows:,} corrupt rows left out" if log.skipped_rows else ""
    console.print(
        f"log '{log.name}': {len(log):,} rows, {len(log.users):,} users, {len(log.catalogue):,} items, "
        f"{log.catalogue.num_categories} categories{left_out}"
    )
    return log


def fit_config(log: InteractionLog, options: DataOptions, console: Console, search: bool | None = None) -> FitConfig:
    """How users are fitted, which is told where it was searched for."""
    choice = options.choose_fit(log, search)
    if choice.tried:
        console.print(choice.sentence())
    return choice.config


def engagement_figures(user_model: UserModel) -> dict[str, float]:
    """How well the engagement head predicts the test part, as flat figures; none where the log has no engagement."""
    report = getattr(user_model, "fit_report", {})
    if not report.get("engagement_unit"):
        return {}
    low, high = report["rating_calibration_interval"]
    return {
        "engagement_rmse": report["rating_rmse"],
        "engagement_calibration_error": report["rating_calibration_error"],
        "engagement_calibration_error_low": low,
        "engagement_calibration_error_high": high,
    }


def parameters(user_model: UserModel) -> list[dict[str, Any]]:
    """The table of parameters of a user model; empty where it keeps none."""
    table: list[dict[str, Any]] = getattr(user_model, "table", [])
    return table


def refitted_worlds(
    log: InteractionLog, options: CompareOptions, config: FitConfig
) -> dict[int, Callable[[], tuple[World, NDArray[np.int64]]]]:
    """Number -> what makes the world of a user model fitted to users drawn with replacement, and the users of the world whom it
    knows: the drawn ones of the log, and all that come from its population."""

    def world(number: int) -> tuple[World, NDArray[np.int64]]:
        source = drawn_users(len(log.users), options.seed + number)
        made = build_world(log, fit_user_model(options.user_model, log_of_users(log, source), config), options.world())
        simulated = made.simulated_users
        return made, np.append(
            np.flatnonzero(source == np.arange(len(log.users))), simulated[simulated >= len(log.users)]
        )

    return {number: partial(world, number) for number in range(1, options.user_model_seeds + 1)}


def drawn_beside_fitted(log: InteractionLog, user_model: UserModel, options: FidelityOptions, run: Run) -> pl.DataFrame:
    """How like the log's users the drawn ones are, from the run folder if it is there already."""
    if not run.has_table("population"):
        drawn = min(len(log.users), 50 if options.fast else 1_000)
        world = build_world(log, user_model, WorldConfig(drawn_users=drawn, seed=options.seed))
        run.write_table("population", population_report(world, options.seed))
    return run.table("population")


def likelihood_figures(likelihoods: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Test negative log-likelihoods as flat figures, nats per event."""
    return {
        f"nll_{name.replace(', ', '_')}{suffix}": report[kind]
        for name, report in likelihoods.items()
        for kind, suffix in (("masked", ""), ("unmasked", "_unmasked"))
    }


def finish(run: Run, figures: Mapping[str, Any], console: Console) -> None:
    """Draws the plots the run has tables for, writes and prints its figures."""
    run.write_figures(figures)
    drawable = (
        "summary",
        "updates",
        "distances",
        "sensitivity",
        "rankers",
        "ranker_growth",
        "serving",
        "verdict_summary",
    )
    drawn = save_figures(run) if any(run.has_table(name) for name in drawable) else []
    console.rule("figures")
    print_figures(figures)
    console.print(f"run folder: {run.folder}" + (f", plots: {run.folder / 'plots'}" if drawn else ""))


# ------------------------------------------------------------------------------------------------------- the command line
COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "compare": (CompareOptions, compare),
    "fit": (FitOptions, fit),
    "fidelity": (FidelityOptions, fidelity),
    "sensitivity": (SensitivityOptions, sensitivity),
    "rankers": (RankerOptions, rankers),
    "verdict": (VerdictOptions, verdict),
    "updates": (UpdateOptions, updates),
    "plot": (PlotOptions, plot),
    "export": (ExportOptions, export),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand; returns the exit code: 0, 2 for wrong input (one sentence, no traceback), 130 when interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        name, rest = chosen_command(given, tuple(COMMANDS))
        options_type, command = COMMANDS[name]
        command(parsed_options(options_type, rest, name, __doc__ if name == "compare" else None))
    except DriftrecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\ninterrupted; what was finished is kept. The same command with --resume RUN goes on "
            "(compare, updates, fidelity, sensitivity, rankers, verdict).",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
