"""Work that runs side by side as Ray tasks, on this machine or on a cluster."""

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from envs.errors import ConfigurationError, DriftrecError

Result = TypeVar("Result")

REPLACEMENTS = 3
"""How often a shard is begun anew, elsewhere, when the worker that did it has died."""


@contextmanager
def ray_with(jobs: int, address: str | None = None) -> Iterator[None]:
    """A Ray with at least `jobs` CPUs inside the block: the one that runs already, or one that is started here and ended.

    A smaller one, as training an agent starts for itself, would do the work one after another and is replaced.

    Args:
        jobs: tasks side by side.
        address: of a running cluster ("auto" or "host:port"), whose machines have driftrec installed; None stays on this
            machine.

    Raises:
        ConfigurationError: if no cluster answers at the address.
    """
    import ray  # starting Ray costs seconds, which work in this process need not pay

    if ray.is_initialized() and address is None and ray.cluster_resources().get("CPU", 0) < jobs:
        ray.shutdown()
    started = not ray.is_initialized()
    if started and address is not None:
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"--ray-address is '{address}', where no Ray cluster answers ({error}); "
                "start one with 'ray start --head', or leave the option out."
            ) from error
    elif started:
        ray.init(num_cpus=jobs, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        if started:
            ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError where nobody listens at "host:port": Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def in_shards(
    work: Callable[[Any, int, int], Result],
    shared: Any,
    count: int,
    shards: int,
    finished: Callable[[int], None] = lambda rows: None,
) -> list[Result]:
    """Does `work(shared, begin, end)` for each of `shards` parts of 0 to `count`, as tasks of the Ray that runs.

    What is counter-based gives the same bits in shards as in one piece, so a shard whose worker dies is simply done again.

    Args:
        work: a function that pickles; it sees `shared` read-only.
        shared: what all shards need, sent to each machine once.
        count: users, or whatever the shards are cut from.
        shards: number of parts.
        finished: is told the size of each part that is done.

    Returns:
        the results in the order of the parts.

    Raises:
        DriftrecError: what a task raised.
    """
    import ray
    from ray.exceptions import RayTaskError

    edges = [count * shard // shards for shard in range(shards + 1)]
    kept = ray.put(shared)
    task = ray.remote(num_cpus=1, max_retries=REPLACEMENTS)(work)
    tasks = {task.remote(kept, edges[shard], edges[shard + 1]): shard for shard in range(shards)}
    results: dict[int, Result] = {}
    waiting = list(tasks)
    try:
        while waiting:
            (done,), waiting = ray.wait(waiting, num_returns=1)
            try:
                shard = tasks[done]
                results[shard] = ray.get(done)
            except RayTaskError as error:
                if isinstance(error.cause, DriftrecError):
                    raise error.cause from None
                raise
            finished(edges[shard + 1] - edges[shard])
    finally:
        for unfinished in waiting:
            ray.cancel(unfinished, force=True)
    return [results[shard] for shard in range(shards)]
