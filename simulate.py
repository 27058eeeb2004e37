"""Simulates users fitted to interaction logs, and compares recommenders on them.

Examples:

    python simulate.py                                        the whole path on MovieLens 100K, some five minutes
    python simulate.py --fast                                 every stage, small, in under a minute
    python simulate.py --agents my_file.py:MyAgent,mmr,ppo    an agent of your own beside known ones
    python simulate.py --dataset path/to/ml-latest-small      your own ratings.csv and movies.csv
    python simulate.py --resume results/compare-...           go on with a run that was interrupted
    python simulate.py fit                                    how well the users fit their log
    python simulate.py updates                                when to update the models: three rules and a DQN
    python simulate.py plot RUN [RUN ...]                     draw saved runs again, or several together

compare is the subcommand where none is named. `python simulate.py SUBCOMMAND --help` lists the options of each.
"""

import json
import os
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import polars as pl
import tyro
from rich.console import Console
from rich.progress import Progress

from agents.loading import agent_names
from agents.updates.dqn import UpdateDQN, UpdateDQNOptions
from agents.updates.environment import UpdateConfig
from agents.updates.rules import DEFAULT_RULES, UpdatePolicy, rule
from agents.updates.study import is_untrained, run_update_study, summarise_updates, update_figures
from envs.errors import ConfigurationError, DriftrecError
from envs.logs import load_log
from envs.logs.schema import InteractionLog
from envs.measures import RewardWeights
from envs.users.fit import FitConfig, fit_or_load
from envs.users.measure import likelihood_reports
from envs.world import World, WorldConfig, build_world
from evaluation.comparison import ComparisonConfig, ServingConfig, split_users
from evaluation.figures import save_figures
from evaluation.report import (
    comparison_table,
    likelihood_table,
    make_console,
    parameter_table,
    print_figures,
    updates_table,
)
from evaluation.runs import Run
from evaluation.training import TrainingConfig, named_agents, run_comparison
from recall.embedding import EmbeddingRecall

# ---------------------------------------------------------------------------------------------------------------- options
NOT_PART_OF_A_RUN = ("out", "resume", "config", "jobs")
"""Options that say where and how a run is made, not what it computes."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Options that every subcommand but `plot` has."""

    dataset: str = "ml-100k"
    """'ml-100k' (fetched once and cached), 'synthetic', or a folder with ratings.csv and movies.csv, or with u.data."""
    skip_bad_rows: bool = False
    """Leave corrupt rows out and count them, instead of stopping at the first."""
    seed: int = 0
    """Seed of everything random."""
    fast: bool = False
    """Every stage, but small: a look at how it works, not at who wins."""
    out: Path | None = None
    """Folder of the run; by default results/<subcommand>-<date>-<time>."""
    config: Path | None = None
    """TOML or JSON file with options (also the config.json of an earlier run); the command line has precedence."""


@dataclass(frozen=True, kw_only=True)
class WorldOptions(DataOptions):
    """How the world is made in which users live."""

    days: int = 30
    """Horizon of a life in days (at most 10 with --fast)."""
    held_back_share: float = 0.2
    """Share of the catalogue that is withheld from policies and born during the run."""
    popular_click_rate: float = 0.2
    """Click rate of popular slates on day 0; sets how willing users are to consume nothing (assumed)."""
    fresh_days: float = 14.0
    """Items younger than this count as fresh."""

    def world(self) -> WorldConfig:
        """The part of the options that makes the world."""
        return WorldConfig(
            days=min(self.days, 10) if self.fast else self.days,
            held_back_share=self.held_back_share,
            popular_click_rate=self.popular_click_rate,
            fresh_days=self.fresh_days,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class CompareOptions(WorldOptions):
    """Compares agents on the same simulated users: fit, recall, training, comparison, model updates, plots."""

    agents: str = ",".join(agent_names())
    """Names, or file.py:Class for an agent of your own, separated by commas."""
    users: int | None = None
    """Evaluation users, at most (default 400, or 16 with --fast); none of them is met in training."""
    requests: int | None = None
    """Simulated requests that each agent that trains may spend (default 40,000, or 2,048 with --fast)."""
    training_seeds: int = 1
    """Number of times that each agent is trained, with seeds counted up from --seed."""
    diversity_weight: float = RewardWeights.diversity
    """Worth of the diversity of a consumed item, in clicks."""
    freshness_weight: float = RewardWeights.freshness
    """Worth of a consumed item being fresh, in clicks."""
    update_seeds: int | None = None
    """Seeds of the model-update rules (default 3, or 1 with --fast); 0 leaves them out."""
    jobs: int = 2 if (os.cpu_count() or 1) > 1 else 1
    """Agents and seeds trained side by side, as Ray tasks."""
    resume: Path | None = None
    """Folder of an interrupted run to go on with; give the other options as before."""

    def sized(self) -> "CompareOptions":
        """The options with sizes filled in."""
        small = self.fast
        return replace(
            self,
            users=self.users if self.users is not None else (16 if small else 400),
            requests=self.requests if self.requests is not None else (2_048 if small else 40_000),
            update_seeds=self.update_seeds if self.update_seeds is not None else (1 if small else 3),
        )

    def comparison(self) -> ComparisonConfig:
        """The part of the options that says whom the agents serve."""
        weights = RewardWeights(diversity=self.diversity_weight, freshness=self.freshness_weight)
        return ComparisonConfig(users=self.users, seed=self.seed, serving=ServingConfig(reward_weights=weights))

    def training(self) -> TrainingConfig:
        """The part of the options that says what the agents learn from."""
        seeds = tuple(range(self.seed, self.seed + self.training_seeds))
        return TrainingConfig(requests=self.requests or 0, seeds=seeds)


@dataclass(frozen=True, kw_only=True)
class FitOptions(DataOptions):
    """Fits the user model and its baselines, as logged and shuffled inside visits, and prints what was found."""


@dataclass(frozen=True, kw_only=True)
class UpdateOptions(WorldOptions):
    """Compares rules of updating the models with a DQN that learns when to update."""

    update_seeds: int | None = None
    """Seeds that each policy is judged on (default 5, or 2 with --fast); none of them is met in training."""
    episodes: int | None = None
    """Episodes of `days` days that the DQN learns from (default 80, or 4 with --fast)."""
    jobs: int = 2 if (os.cpu_count() or 1) > 1 else 1
    """Episodes judged side by side, as Ray tasks."""
    resume: Path | None = None
    """Folder of an interrupted run to go on with; give the other options as before."""

    def sized(self) -> "UpdateOptions":
        """The options with sizes filled in."""
        return replace(
            self,
            update_seeds=self.update_seeds if self.update_seeds is not None else (2 if self.fast else 5),
            episodes=self.episodes if self.episodes is not None else (4 if self.fast else 80),
        )


@dataclass(frozen=True, kw_only=True)
class PlotOptions:
    """Draws saved runs again, one alone or several side by side."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs."""
    out: Path | None = None
    """Folder for the plots; by default the plots folder of a single run, or results/plots for several."""


# ------------------------------------------------------------------------------------------------------------ subcommands
def compare(options: CompareOptions) -> None:
    """Log → fitted users → world → recall → training → comparison → model updates → tables and plots."""
    options = options.sized()
    specs = [spec.strip() for spec in options.agents.split(",") if spec.strip()]
    named_agents(specs)
    world_config, comparison, training = options.world(), options.comparison(), options.training()
    console = make_console()
    log = read_log(options, console)
    run = open_run(options, "compare", options.resume)

    console.rule("users")
    user_model = fit_or_load(log, fit_config(options))
    likelihoods = likelihood_reports(log, fit_config(options))
    console.print(likelihood_table(likelihoods))
    console.print(parameter_table(user_model.table))

    console.rule("agents")
    world = build_world(log, user_model, world_config)
    recall = EmbeddingRecall(seed=options.seed).fit(world.policy_log)
    result = run_comparison(
        specs, world, recall, run, comparison=comparison, training=training, jobs=options.jobs, console=console
    )
    console.print(comparison_table(result.summary()))
    figures = likelihood_figures(likelihoods) | result.figures()

    if options.update_seeds:
        console.rule("model updates")
        days = judge_updates(run, world, update_config(options), {name: rule(name) for name in DEFAULT_RULES}, options)
        summary = summarise_updates(days)
        run.write_table("updates_summary", summary)
        console.print(updates_table(summary))
        figures |= update_figures(summary)
    finish(run, figures, console)


def fit(options: FitOptions) -> None:
    """Log → users, static factorisation and popularity, as logged and shuffled inside visits → likelihoods, parameters."""
    console = make_console()
    log = read_log(options, console)
    run = open_run(options, "fit")
    likelihoods = likelihood_reports(log, fit_config(options), shuffled=True)
    console.print(likelihood_table(likelihoods))
    console.print(
        "Only what survives the shuffle may be called evolving interest; the rest is the order of the rating page."
    )
    user_model = fit_or_load(log, fit_config(options))
    console.print(parameter_table(user_model.table))
    run.write_table("likelihoods", pl.DataFrame([{"model": name, **row} for name, row in likelihoods.items()]))
    run.write_table("parameters", pl.DataFrame(user_model.table, infer_schema_length=None))
    finish(run, likelihood_figures(likelihoods), console)


def updates(options: UpdateOptions) -> None:
    """Log → users → world → rules and a DQN that learns when to update → table and plots."""
    options = options.sized()
    console = make_console()
    log = read_log(options, console)
    run = open_run(options, "updates", options.resume)
    world = build_world(log, fit_or_load(log, fit_config(options)), options.world())
    config = update_config(options)
    dqn = train_update_dqn(run, world, config, options)
    policies: dict[str, UpdatePolicy] = {name: rule(name) for name in DEFAULT_RULES} | {"dqn": dqn}
    days = judge_updates(run, world, config, policies, options)
    summary = summarise_updates(days)
    run.write_table("updates_summary", summary)
    console.print(updates_table(summary, untrained=["dqn"] if is_untrained(summary, "dqn") else []))
    finish(run, update_figures(summary) | {"untrained_dqn": int(is_untrained(summary, "dqn"))}, console)


def plot(options: PlotOptions) -> None:
    """Saved runs → plots."""
    runs = [Run.open(folder) for folder in options.runs]
    folder = options.out or (None if len(runs) == 1 else Path("results/plots"))
    for path in save_figures(runs, folder):
        print(path)


# ------------------------------------------------------------------------------------------------------ parts they share
def open_run(options: DataOptions, subcommand: str, resume: Path | None = None) -> Run:
    """The run folder: a new one, or the one to go on with."""
    config = {name: value for name, value in asdict(options).items() if name not in NOT_PART_OF_A_RUN}
    run = Run.resume(resume, subcommand, config) if resume else Run.create(options.out, subcommand, config)
    print(f"run folder: {run.folder}", file=sys.stderr)
    return run


def read_log(options: DataOptions, console: Console) -> InteractionLog:
    """The log, and a line that says what is in it."""
    log = load_log(options.dataset, skip_bad_rows=options.skip_bad_rows, seed=options.seed)
    left_out = f", {log.skipped_rows:,} corrupt rows left out" if log.skipped_rows else ""
    console.print(
        f"log '{log.name}': {len(log):,} rows, {len(log.users):,} users, {len(log.catalogue):,} items, "
        f"{log.catalogue.num_categories} categories{left_out}"
    )
    return log


def fit_config(options: DataOptions) -> FitConfig:
    """How users are fitted; one pass over each user's first events only with --fast."""
    return FitConfig(seed=options.seed, epochs=1, max_events=60) if options.fast else FitConfig(seed=options.seed)


def update_config(options: WorldOptions) -> UpdateConfig:
    """Traffic of the model-update runs; the horizon is the world's, five days at most with --fast."""
    return UpdateConfig(days=min(options.days, 5) if options.fast else options.days)


def train_update_dqn(run: Run, world: World, config: UpdateConfig, options: UpdateOptions) -> UpdateDQN:
    """The learnt update policy, from the run folder if it is there already."""
    path = run.agent_path("update_dqn")
    if path.exists():
        return UpdateDQN.load(path)
    episodes = options.episodes or 1
    users, _ = split_users(world, options.seed)
    with progress("training the DQN, days", episodes * config.days) as report:
        dqn = UpdateDQN(UpdateDQNOptions(episodes=episodes), seed=options.seed).fit(world, config, report, users)
    curve = pl.DataFrame(dqn.learning_curve_, schema=["requests", "reward"])
    run.write_table(
        "learning", curve.select(pl.lit("dqn").alias("agent"), pl.lit(options.seed).alias("training_seed"), pl.all())
    )
    dqn.save(path)
    return dqn


def judge_updates(
    run: Run, world: World, config: UpdateConfig, policies: Mapping[str, UpdatePolicy], options: Any
) -> pl.DataFrame:
    """Days of all update policies on the same seeds and on users that none was trained on, from the run folder if there."""
    if run.has_table("updates"):
        return run.table("updates")
    seeds = range(options.seed, options.seed + options.update_seeds)
    _, users = split_users(world, options.seed)
    with progress("model updates, days", len(policies) * len(seeds) * config.days) as report:
        days = run_update_study(world, config, policies, seeds, report, 1 if options.fast else options.jobs, users)
    run.write_table("updates", days)
    return days


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number done so far; shows a bar on the error stream if that is a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(title, total=total)
        yield lambda done: bars.update(task, completed=done)


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
    drawn = save_figures(run) if any(run.has_table(name) for name in ("summary", "updates")) else []
    console.rule("figures")
    print_figures(figures)
    console.print(f"run folder: {run.folder}" + (f", plots: {run.folder / 'plots'}" if drawn else ""))


# ------------------------------------------------------------------------------------------------------- the command line
COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "compare": (CompareOptions, compare),
    "fit": (FitOptions, fit),
    "updates": (UpdateOptions, updates),
    "plot": (PlotOptions, plot),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand; returns the exit code: 0, 2 for wrong input (one sentence, no traceback), 130 when interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = given.pop(0) if given and given[0] in COMMANDS else "compare"
    options_type, command = COMMANDS[name]
    try:
        if given and not given[0].startswith("-") and name != "plot":
            raise ConfigurationError(f"there is no subcommand '{given[0]}'; known are {', '.join(COMMANDS)}.")
        defaults = options_type(**_file_options(given, options_type)) if name != "plot" else None
        description = __doc__ if name == "compare" else options_type.__doc__
        command(
            tyro.cli(options_type, args=given, default=defaults, prog=f"simulate.py {name}", description=description)
        )
    except DriftrecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; finished agents are kept. The same command with --resume RUN goes on.", file=sys.stderr)
        return 130
    return 0


def _file_options(arguments: Sequence[str], options_type: type) -> dict[str, Any]:
    """Options from the file that `--config` names; the command line is read on top of them."""
    path = next(
        (
            argument.partition("=")[2] if "=" in argument else following
            for argument, following in zip(arguments, [*arguments[1:], ""], strict=True)
            if argument.partition("=")[0] == "--config"
        ),
        None,
    )
    if not path:
        return {}
    try:
        text = Path(path).read_text()
        content = tomllib.loads(text) if path.endswith(".toml") else json.loads(text)
    except OSError as error:
        raise ConfigurationError(f"--config '{path}' cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise ConfigurationError(f"--config '{path}' is neither TOML (.toml) nor JSON: {error}.") from error
    content = content.get("config", content) if isinstance(content, dict) else {}
    known = {field.name for field in fields(options_type)}
    for option in content:
        if option.replace("-", "_") not in known:
            raise ConfigurationError(
                f"--config '{path}' has an unknown option '{option}'; known are {', '.join(sorted(known))}."
            )
    return {option.replace("-", "_"): value for option, value in content.items()}


if __name__ == "__main__":
    sys.exit(main())
