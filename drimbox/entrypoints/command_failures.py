"""What stops a command: said in one line on stderr, exit 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer

Words = Mapping[type[BaseException], Callable[[Any], str]]


def say(text: str) -> None:
    """To whoever sits at the terminal; what a program reads is on stdout."""
    typer.echo(f"drimbox: {text}", err=True)


@contextmanager
def told(words: Words) -> Iterator[None]:
    """Failures of a command become the words of the first row that they are of; those of no row pass."""
    try:
        yield
    except tuple(words) as error:
        say(next(row(error) for kind, row in words.items() if isinstance(error, kind)))
        raise typer.Exit(1) from error
