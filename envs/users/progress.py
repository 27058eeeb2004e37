"""A progress bar for fits, silent where nobody watches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress


@contextmanager
def fit_progress(title: str, steps: int, show: bool = True) -> Iterator[Callable[[], None]]:
    """Yields a function to call after each of `steps` steps; shows a bar on the error stream if that is a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (show and console.is_terminal)) as bar:
        task = bar.add_task(title, total=steps)
        yield lambda: bar.advance(task)
