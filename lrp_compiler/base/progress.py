"""Progress on a terminal: a bar over rows, a spinner over stages. rich is imported only when something is shown."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .counted import pace


@contextmanager
def row_bar(rows: int, wanted: bool, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how many more rows are done; it moves a bar on stderr if one is `wanted`.

    Args:
        rows: how many there are.
        wanted: whether there is a bar.
        done: how many were done before.
    """
    if not wanted:
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """Rows per second, of late."""

        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{pace(task.speed)}/s")

    columns = ("explaining", BarColumn(), MofNCompleteColumn(), "rows", Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("explaining", total=rows, completed=done)
        yield lambda done: bar.advance(task, done)


@contextmanager
def stages(first: str) -> Iterator[Callable[[str], None] | None]:
    """Yield a function that is told the name of each stage when it starts; None where stderr is no terminal.

    Each stage has a line with a spinner and its time; the last one ends with the block.

    Args:
        first: the stage that starts with the block.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as lines:

        def finish() -> None:
            for task in lines.task_ids:
                lines.update(task, total=1, completed=1)

        def start(stage: str) -> None:
            finish()
            lines.add_task(stage, total=None)

        start(first)
        yield start
        finish()
