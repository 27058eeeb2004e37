"""Kernels: functions over rows of arrays that numba compiles at their first call, and that threads share without a trace.

Nothing in a kernel mixes rows, so `over_rows` may share rows out to any number of threads without changing a bit. Compiled
code is kept on disk by numba (beside the module, else in the user's cache folder) for the next process.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Lock
from typing import Annotated, Any, TypeVar, get_type_hints

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

ROWS_PER_THREAD = 1024
"""Fewest rows for which another thread is worth its start."""
PIECES_PER_THREAD = 3
"""Pieces into which rows are cut for each thread."""
VECTOR_LANES = 8
"""Rows of a table whose length is a multiple of this are summed without a rest, some 1.3 times as fast."""

# Types of a kernel's arguments. Arrays that are only read may be read-only, as those are that Ray shares.
Float = Annotated[float | np.float32, types.float32]
Bits = Annotated[np.uint64, types.uint64]
Int = Annotated[int, types.int64]
Bytes1 = Annotated[NDArray[np.uint8], types.Array(types.uint8, 1, "C", readonly=True)]
Bytes2 = Annotated[NDArray[np.uint8], types.Array(types.uint8, 2, "C", readonly=True)]
Flags2 = Annotated[NDArray[np.int8], types.Array(types.int8, 2, "C", readonly=True)]
Longs1 = Annotated[NDArray[np.int64], types.Array(types.int64, 1, "C", readonly=True)]
Longs2 = Annotated[NDArray[np.int64], types.Array(types.int64, 2, "C", readonly=True)]
Ints1 = Annotated[NDArray[np.int32], types.Array(types.int32, 1, "C", readonly=True)]
Ints2 = Annotated[NDArray[np.int32], types.Array(types.int32, 2, "C", readonly=True)]
Floats1 = Annotated[NDArray[np.float32], types.Array(types.float32, 1, "C", readonly=True)]
Floats2 = Annotated[NDArray[np.float32], types.Array(types.float32, 2, "C", readonly=True)]
Doubles1 = Annotated[NDArray[np.float64], types.Array(types.float64, 1, "C", readonly=True)]
# arrays that a kernel changes
Bytes2Out = Annotated[NDArray[np.uint8], types.Array(types.uint8, 2, "C")]
Flags1Out = Annotated[NDArray[np.bool_], types.Array(types.boolean, 1, "C")]
Flags2Out = Annotated[NDArray[np.int8], types.Array(types.int8, 2, "C")]
Longs1Out = Annotated[NDArray[np.int64], types.Array(types.int64, 1, "C")]
Ints1Out = Annotated[NDArray[np.int32], types.Array(types.int32, 1, "C")]
Ints2Out = Annotated[NDArray[np.int32], types.Array(types.int32, 2, "C")]
Floats1Out = Annotated[NDArray[np.float32], types.Array(types.float32, 1, "C")]
Floats2Out = Annotated[NDArray[np.float32], types.Array(types.float32, 2, "C")]
Floats3Out = Annotated[NDArray[np.float32], types.Array(types.float32, 3, "C")]
Doubles1Out = Annotated[NDArray[np.float64], types.Array(types.float64, 1, "C")]


Part = TypeVar("Part")

_COMPILING = Lock()


class Kernel:
    """Decorates a function (begin, end, *arguments) -> None whose annotations are the types above.

    It is compiled once, for these types and no others: an array of another type is refused by numba.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.__doc__ = function.__doc__
        hints = get_type_hints(function, include_extras=True)
        hints.pop("return")
        self._signature = types.void(*(hint.__metadata__[0] for hint in hints.values()))
        self._dispatcher = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
        self._is_compiled = False

    def __call__(self, *arguments: Any) -> None:
        if not self._is_compiled:
            with _COMPILING:
                if not self._is_compiled:
                    self._dispatcher.compile(self._signature)
                    self._dispatcher.disable_compile()
                    self._is_compiled = True
        self._dispatcher(*arguments)


def threads() -> int:
    """Threads that kernels may use: OMP_NUM_THREADS where it is set (Ray sets it for its workers), else all cores."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdigit() and int(told) > 0 else len(os.sched_getaffinity(0))


_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    global _pool
    _pool = None


# a forked child has no threads; without this it would wait for those of its parent
os.register_at_fork(after_in_child=_forget_pool)


def over_rows(kernel: Callable[..., None], count: int, *arguments: Any) -> None:
    """Runs `kernel` (begin, end, *arguments) on rows 0 to `count`, shared out to threads where there are many."""
    workers = min(threads(), count // ROWS_PER_THREAD)
    if workers < 2:
        kernel(0, count, *arguments)
        return
    pieces = min(count // ROWS_PER_THREAD, PIECES_PER_THREAD * workers)
    bounds = pairwise(count * piece // pieces for piece in range(pieces + 1))
    over_parts(lambda piece: kernel(*piece, *arguments), bounds, workers)


def over_parts(work: Callable[[Part], None], parts: Iterable[Part], workers: int | None = None) -> None:
    """Runs `work` on each of `parts` in `workers` threads, by default as many as kernels may use.

    Threads take parts as they come, so that one that the system holds up holds up no other.
    """
    global _pool
    waiting = deque(parts)
    helpers = min(workers or threads(), len(waiting)) - 1
    if _pool is None and helpers > 0:
        _pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="driftrec-kernel")

    def work_off() -> None:
        while True:
            try:
                part = waiting.popleft()
            except IndexError:
                return
            work(part)

    begun = [_pool.submit(work_off) for _ in range(helpers)] if _pool is not None else []
    work_off()
    for other in begun:
        if not other.cancel():
            other.result()
