"""Environments of frozen tasks, as gymnasium makes them by name."""

from typing import Any

from gymnasium.vector import AutoresetMode

from envs.errors import ConfigurationError
from envs.event_log import EventLog
from envs.single_env import SlateEnv
from envs.slate_env import SlateVectorEnv
from envs.tasks.fingerprint import check_frozen
from envs.tasks.known import task_named
from envs.tasks.task import Task


def task_vector_env(
    num_envs: int = 1,
    *,
    task: str,
    users: str = "training",
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    event_log: EventLog | None = None,
    seed: int = 0,
    render_mode: str | None = None,
    **fixed: Any,
) -> SlateVectorEnv:
    """N users of a task, as `gymnasium.make_vec("driftrec/ML100K-Drift-v1", num_envs=64)` gives them.

    Args:
        num_envs: N.
        task: its name.
        users: "training", "evaluation" or "all"; scores are those of the evaluation users.
        autoreset_mode, event_log, seed, render_mode: as of `SlateVectorEnv`.
        **fixed: nothing else: the rest is the task's.

    Raises:
        ConfigurationError: if the task is no longer what it was, or an argument would change it.
    """
    return SlateVectorEnv(
        num_envs,
        **_arguments(task, users, fixed),
        autoreset_mode=autoreset_mode,
        event_log=event_log,
        seed=seed,
        render_mode=render_mode,
    )


def task_env(
    *,
    task: str,
    users: str = "training",
    event_log: EventLog | None = None,
    seed: int = 0,
    render_mode: str | None = None,
    **fixed: Any,
) -> SlateEnv:
    """One user of a task, as `gymnasium.make("driftrec/ML100K-Drift-v1")` gives it; arguments as of `task_vector_env`."""
    return SlateEnv(**_arguments(task, users, fixed), event_log=event_log, seed=seed, render_mode=render_mode)


def _arguments(name: str, users: str, fixed: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `SlateVectorEnv` that the task fixes."""
    task: Task = task_named(name)
    if fixed:
        raise ConfigurationError(
            f"task '{task.name}' fixes {', '.join(sorted(fixed))}; leave it out, or make driftrec/Slate-v0, which fixes nothing."
        )
    check_frozen(task)
    return {
        "world": task.make_world(),
        "candidate_source": task.candidate_source(),
        "users": task.users(users),
        "slate_size": task.slate_size,
        "num_candidates": task.num_candidates,
        "history_size": task.history_size,
        "reward_weights": task.reward_weights,
    }
