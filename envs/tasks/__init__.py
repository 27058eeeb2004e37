"""Frozen, versioned tasks: environments under a name that always means the same users, items, requests and rewards.

`task.py` says what a task fixes, `known.py` which there are, `frozen_users.py` keeps fitted users as files, `fingerprint.py` tells
whether a task is still the one that was frozen, `environments.py` makes environments for gymnasium. docs/tasks.md has the scores.
Importing `envs` registers the tasks.
"""

from envs.tasks.known import TASKS, task_named
from envs.tasks.task import Task

__all__ = ["TASKS", "Task", "task_named"]
