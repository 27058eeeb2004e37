"""Two plain threads with one torch thread each: as fast as torch's own two, and not stalled when another process has a core."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Task = TypeVar("Task")
Result = TypeVar("Result")


@contextmanager
def single_torch_thread() -> Iterator[None]:
    """Inside the block torch and BLAS work in the thread that calls them, and in no other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


def in_two_threads(function: Callable[[Task], Result], tasks: Iterable[Task]) -> list[Result]:
    """Results of `function` for each task, in order; no gradients are recorded."""

    def work(task: Task) -> Result:
        with torch.no_grad():
            return function(task)

    # OpenMP counts threads per calling thread, so each worker has to be told.
    with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(work, tasks))
