"""A local Ray for work that runs side by side."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ray_with(jobs: int) -> Iterator[None]:
    """A Ray with at least `jobs` CPUs inside the block: the one that runs already, or one that is started here and ended.

    A smaller one, as training an agent starts for itself, would do the work one after another and is replaced.
    """
    import ray  # starting Ray costs seconds, which work in this process need not pay

    if ray.is_initialized() and ray.cluster_resources().get("CPU", 0) < jobs:
        ray.shutdown()
    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=jobs, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        if started:
            ray.shutdown()
