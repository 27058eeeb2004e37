"""The tasks that there are. Nothing here may change once it is published: a change is a new task with a higher version."""

from difflib import get_close_matches

from envs.errors import ConfigurationError
from envs.measures import RewardWeights
from envs.tasks.frozen_users import FrozenUsers
from envs.tasks.task import Task
from envs.world import WorldConfig
from envs.worlds import DriftWorld, LogWorld

_ML100K = FrozenUsers(file="ml-100k-v1.npz", dataset="ml-100k")
_SATIATION = FrozenUsers(file="satiation-v1.npz")

TASKS = {
    task.name: task
    for task in (
        Task(
            name="ML100K-v1",
            summary="Users fitted to MovieLens 100K, a fifth of whose films is born during the month.",
            world=LogWorld(name="ml100k", fitted=_ML100K),
        ),
        Task(
            name="ML100K-Clicks-v1",
            summary="The same users; only clicks count.",
            world=LogWorld(name="ml100k", fitted=_ML100K),
            reward_weights=RewardWeights(diversity=0.0, freshness=0.0),
        ),
        Task(
            name="ML100K-Drift-v1",
            summary="The same users, whose interests wander five times as fast, and five more items born every day.",
            world=DriftWorld(name="drift", fitted=_ML100K),
        ),
        Task(
            name="Satiation-v1",
            summary="Generated users whom popular items tire of everything for days: what is shown now decides what is liked next.",
            world=LogWorld(name="satiation", fitted=_SATIATION),
        ),
        Task(
            name="Satiation-Small-v1",
            summary="The same users for ten days, slates of 5 out of 20: for first steps and for tests, without a download.",
            world=LogWorld(name="satiation", fitted=_SATIATION, config=WorldConfig(days=10)),
            slate_size=5,
            num_candidates=20,
            requests=10_000,
        ),
    )
}
"""Name -> task."""


def task_named(name: str) -> Task:
    """The task of that name, with or without 'driftrec/' before it.

    Raises:
        ConfigurationError: if there is none.
    """
    short = name.removeprefix("driftrec/")
    if short not in TASKS:
        close = get_close_matches(short, TASKS, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise ConfigurationError(f"there is no task '{name}': {hint}known are {', '.join(TASKS)}.")
    return TASKS[short]
