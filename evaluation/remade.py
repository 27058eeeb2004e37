"""Makes again what a finished run was about: its world, recall and comparison, from the options that it keeps."""

from dataclasses import dataclass, fields

from envs.candidate_source import CandidateSource
from envs.errors import ArtefactError
from envs.logs import load_log
from envs.tasks import Task, task_named
from envs.tasks.fingerprint import check_frozen
from envs.users.models import fit_user_model
from envs.world import World, build_world
from evaluation.comparison import ComparisonConfig, ServingConfig
from evaluation.options import CompareOptions
from evaluation.runs import Run


@dataclass(frozen=True)
class Remade:
    """What agents met in a run."""

    world: World
    candidate_source: CandidateSource
    comparison: ComparisonConfig
    task: Task | None
    """The frozen task that the run is about, if it is about one."""


def remade(run: Run) -> Remade:
    """From the options of a run of `compare` or of the scores of a task; fits come from the cache where they are there.

    Raises:
        ArtefactError: if the run is of another command, or its options are not those of this version.
        LogError: if its log cannot be read any more.
        ConfigurationError: if a file that it names has gone, or its task is not what it was.
    """
    if run.subcommand == "task_scores":
        task = task_named(str(run.config.get("task")))
        check_frozen(task)
        return Remade(task.make_world(), task.candidate_source(), task_comparison(task), task)
    if run.subcommand != "compare":
        raise ArtefactError(
            f"'{run.folder}' is a run of '{run.subcommand}'; only runs of 'compare', and of benchmarks.task_scores, tell "
            "of whole lives."
        )
    unknown = set(run.config) - {field.name for field in fields(CompareOptions)}
    if unknown:
        raise ArtefactError(
            f"run '{run.folder}' has options that this version does not know ({', '.join(sorted(unknown))}); make it again."
        )
    options = CompareOptions(**run.config)
    log = load_log(options.dataset, skip_bad_rows=options.skip_bad_rows, seed=options.seed, columns=options.columns)
    user_model = fit_user_model(options.user_model, log, options.choose_fit(log).config)
    world = build_world(log, user_model, options.world())
    recall = options.recall_stage().fit(world.policy_log)
    return Remade(world, recall, options.comparison().within(world), None)


def task_comparison(task: Task, record_events: bool = True) -> ComparisonConfig:
    """Whom agents serve in a task: all evaluation users, under the draws of a comparison with the task's seed."""
    return ComparisonConfig(
        seed=task.split_seed,
        serving=ServingConfig(
            slate_size=task.slate_size, num_candidates=task.num_candidates, reward_weights=task.reward_weights
        ),
        traced_users=0,
        record_events=record_events,
    )
