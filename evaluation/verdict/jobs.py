"""Jobs of a study: each leaves a table when it is done, written last, and is not done again.

Successive halving by Ray Tune was looked at and left: `Tuner.restore` brings back trials, searcher and callbacks but not the
scheduler (Ray 2.60, `TuneController.save_to_dir`), so a search that is cut short forgets its rungs; `HyperBandScheduler`
spreads the configurations over brackets instead of halving one set; and ASHA's cuts hang on which trial is done first, so that
seeds would not reproduce. A rung of jobs as Ray tasks, cut when all are done, has none of this.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from agents.side_by_side import as_finished, ray_with
from evaluation.progress import Progress
from evaluation.runs import Run


@dataclass(frozen=True)
class Job:
    """Something to be done in an arena: what all jobs of one world share, of a verdict `evaluation.verdict.arena.Arena`."""

    world: str
    """Key of the arena."""
    table: str
    """What it writes last; it is done where the run has that."""
    work: Callable[..., None]
    """(arena, table, *arguments); a function of a module, so that it pickles."""
    arguments: tuple[Any, ...] = ()


class Workshop:
    """Does jobs one after another, or side by side as Ray tasks.

    Args:
        arenas: by key.
        run: has the tables.
        progress: shows how far each stage is.
        jobs: side by side; 1 does all in this process.
    """

    def __init__(self, arenas: Mapping[str, Any], run: Run, progress: Progress, jobs: int) -> None:
        self.arenas, self.run, self._progress, self._jobs = arenas, run, progress, jobs
        self._shared: dict[str, Any] = {}

    @contextmanager
    def open(self) -> Iterator[None]:
        """Ray runs inside the block, if jobs are done side by side."""
        if self._jobs == 1:
            yield
            return
        import ray

        with ray_with(self._jobs):
            self._shared = {key: ray.put(arena) for key, arena in self.arenas.items()}
            yield
            self._shared = {}

    def do(self, title: str, jobs: Sequence[Job]) -> None:
        """Does those that are not done yet; `title` names the stage.

        Raises:
            DriftrecError: what a job raised. Those that were done stay so.
        """
        missing = [job for job in jobs if not self.run.has_table(job.table)]
        with self._progress(title, len(jobs)) as report:
            report(len(jobs) - len(missing))
            for done, _ in enumerate(self._one_by_one(missing), start=len(jobs) - len(missing) + 1):
                report(done)

    def _one_by_one(self, jobs: Sequence[Job]) -> Iterator[None]:
        if not self._shared:
            for job in jobs:
                job.work(self.arenas[job.world], job.table, *job.arguments)
                yield
            return
        import ray

        task = ray.remote(num_cpus=1)(_do)
        for _ in as_finished(task, [(self._shared[job.world], job) for job in jobs]):
            yield


def _do(arena: Any, job: Job) -> None:
    """What a Ray task does."""
    job.work(arena, job.table, *job.arguments)
