"""Work that runs side by side as Ray tasks, on this machine or on a cluster."""

import logging
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from envs.errors import ConfigurationError, DriftrecError
from envs.loading import own_modules

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
    let_own_classes_travel()
    try:
        yield
    finally:
        if started:
            ray.shutdown()


def let_own_classes_travel(*kinds: type) -> None:
    """From now on, objects of classes in users' own files take these classes along to Ray's workers, which have not loaded them.

    Args:
        kinds: further agents' classes, which a user may have imported in another way; those of this package need not travel.
    """
    from ray import cloudpickle

    others = [sys.modules[kind.__module__] for kind in kinds if kind.__module__.partition(".")[0] != "agents"]
    for module in (*own_modules(), *others):
        cloudpickle.register_pickle_by_value(module)


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

    let_own_classes_travel()
    edges = [count * shard // shards for shard in range(shards + 1)]
    kept = ray.put(shared)
    task = ray.remote(num_cpus=1, max_retries=REPLACEMENTS)(work)
    calls = [(kept, edges[shard], edges[shard + 1]) for shard in range(shards)]
    return in_order(task, calls, lambda shard, result: finished(edges[shard + 1] - edges[shard]))


def in_order(
    task: Any, calls: Sequence[tuple[Any, ...]], finished: Callable[[int, Any], None] = lambda place, result: None
) -> list[Any]:
    """What `as_finished` yields, in the order of the calls; `finished` is told of each, as it is done."""
    results: dict[int, Any] = {}
    for place, result in as_finished(task, calls):
        results[place] = result
        finished(place, result)
    return [results[place] for place in range(len(calls))]


def as_finished(task: Any, calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
    """Calls a Ray task once for each tuple of arguments and yields its place among them and its result when it is done.

    No more calls are handed to Ray than it has CPUs, so that after a failure or an interruption little is under way. That
    little goes on until it is done or Ray ends: `ray.cancel` ends the whole process ("Tried to complete task that was not
    pending", Ray 2.60) where it meets a task that is just being handed over.

    Args:
        task: what `ray.remote` made of a function.
        calls: arguments, in the order in which they are begun.

    Raises:
        DriftrecError: what a task raised; any other error comes as Ray's RayTaskError.
    """
    import ray
    from ray.exceptions import RayTaskError

    at_once = max(1, int(ray.cluster_resources().get("CPU", 1)))
    running: dict[Any, int] = {}
    begun = 0
    while begun < len(calls) or running:
        while begun < len(calls) and len(running) < at_once:
            running[task.remote(*calls[begun])] = begun
            begun += 1
        (done,), _ = ray.wait(list(running), num_returns=1)
        try:
            result = ray.get(done)
        except RayTaskError as error:
            if isinstance(error.cause, DriftrecError):
                raise error.cause from None
            raise
        yield running.pop(done), result
