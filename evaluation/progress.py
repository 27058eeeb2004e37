"""Progress bars of the script, silent where nobody watches."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich import progress as bars_of_rich
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Takes a title and a total, yields a function to call with the number done so far; `progress` is one."""


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number done so far; shows a bar on the error stream if that is a terminal."""
    console = Console(stderr=True)
    with bars_of_rich.Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(title, total=total)
        yield lambda done: bars.update(task, completed=done)


@contextmanager
def comparison_progress(
    console: Console | None, total: int, done: int
) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """(report, finished): one line that says what is being done, on a terminal; nothing elsewhere."""
    console = console or Console(stderr=True)
    columns = (
        TextColumn("comparing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", style="dim"),
    )
    with bars_of_rich.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("", total=total, completed=done)
        yield (lambda text: bars.update(bar, description=text)), (lambda: bars.advance(bar))
