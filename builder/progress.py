"""What a build shows while it works: one bar per stage. Knows rich; refuses to know what a stage does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

Advance = Callable[[int], None]


class Reporter:
    """Prints to a console; a quiet one (`Reporter.silent()`) prints nothing."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @classmethod
    def silent(cls) -> Reporter:
        return cls(Console(quiet=True))

    @contextmanager
    def stage(self, label: str, total: int | None = None) -> Iterator[Advance]:
        """A bar that the yielded call advances; without a total it pulses until the stage ends."""
        columns = (SpinnerColumn(), TextColumn("{task.description:<10}"), BarColumn(), TaskProgressColumn())
        with Progress(*columns, TimeElapsedColumn(), console=self.console) as progress:
            task = progress.add_task(label, total=total)
            yield lambda amount: progress.advance(task, amount)
            done = progress.tasks[0].total or 1
            progress.update(task, total=done, completed=done)

    def show(self, table: Table) -> None:
        self.console.print(table)

    def note(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
