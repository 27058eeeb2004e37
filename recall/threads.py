"""One thread for small matrix work."""

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import faiss  # noqa: F401  (its thread pools must be loaded before they are counted)
import numpy as np  # noqa: F401
from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> AbstractContextManager[Any]:
    """Limits BLAS and OpenMP to one thread inside a `with` block.

    The bits of a product may change with the number of threads, and for blocks of some hundred rows waking the others costs
    more than they save.
    """
    return _controller().limit(limits=1)
