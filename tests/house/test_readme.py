"""The README is true: every command and every setting is in it, with its default."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from click import Command, Group

from drimbox.entrypoints.cli import app
from drimbox.settings import Settings

README = (Path(__file__).resolve().parent.parent.parent / "README.md").read_text("utf-8")


def commands(command: Command, prefix: str = "drimbox") -> list[str]:
    if not isinstance(command, Group):
        return [prefix]
    return [name for key, sub in command.commands.items() for name in commands(sub, f"{prefix} {key}")]


@pytest.mark.parametrize("command", commands(typer.main.get_command(app)))
def test_readme_has_every_command(command: str) -> None:
    assert f"`{command}" in README


@pytest.mark.parametrize(
    "setting",
    [
        f"{room}.{key}"
        for room, field in Settings.model_fields.items()
        for key in field.annotation.model_fields
    ],
)
def test_readme_has_every_setting(setting: str) -> None:
    assert f"`{setting}`" in README
