"""`python -m envs.tasks` lists the frozen tasks and checks each; `--freeze NAME` writes down the fingerprint of a new one."""

import argparse
import sys
from collections.abc import Sequence

from envs.errors import DriftrecError
from envs.tasks.fingerprint import check_frozen, freeze
from envs.tasks.known import TASKS, task_named


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 2 where a task is not what it was."""
    parser = argparse.ArgumentParser(prog="python -m envs.tasks", description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="tasks to check; all by default")
    parser.add_argument("--freeze", metavar="TASK", help="a task of envs/tasks/known.py that has no fingerprint yet")
    options = parser.parse_args(arguments)
    try:
        if options.freeze:
            freeze(task_named(options.freeze))
        for name in [options.freeze] if options.freeze else options.tasks or TASKS:
            task = task_named(name)
            check_frozen(task)
            print(f"{task.id}: as it was frozen. {task.summary}")
    except DriftrecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
