"""A bar on a terminal for what takes long; nothing where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


@dataclass
class Bar:
    """Bytes to do, and bytes done; `begin` may be called again when there is more to do."""

    progress: Progress
    title: str
    total: int = 0

    def __post_init__(self) -> None:
        self._task = self.progress.add_task(self.title, total=0)

    def begin(self, size: int) -> None:
        """So many bytes more."""
        self.total += size
        self.progress.update(self._task, total=self.total)

    def done(self, size: int) -> None:
        """So many bytes are done."""
        self.progress.advance(self._task, size)


@contextmanager
def bar(title: str) -> Iterator[Bar]:
    """On standard error, when that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True
    ) as shown:
        yield Bar(shown, title)


@contextmanager
def steps(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Things instead of bytes: what is given is called when one more is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=Console(stderr=True), disable=not sys.stderr.isatty() or total < 2, transient=True
    ) as shown:
        task = shown.add_task(title, total=total)
        yield lambda: shown.advance(task)
