"""The README is true: every command and every setting is in it, with its default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from drimbox.domain.hl7v2_grammar import TOLERANCES
from drimbox.entrypoints.cli import app
from drimbox.settings.whole import Settings

README = (Path(__file__).resolve().parent.parent.parent / "README.md").read_text("utf-8")


def commands(command: Any, prefix: str = "drimbox") -> list[str]:
    """Every command in full; typer brings a click of its own: a group is told by its commands."""
    if not (group := getattr(command, "commands", None)):
        return [prefix]
    return [name for key, sub in group.items() for name in commands(sub, f"{prefix} {key}")]


COMMANDS = commands(typer.main.get_command(app))


def test_commands_are_found() -> None:
    assert {"drimbox serve", "drimbox exams show"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
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


@pytest.mark.parametrize("defect", TOLERANCES)
def test_readme_has_every_defect_that_a_sender_may_not_be_forgiven(defect: str) -> None:
    assert f"`{defect}`" in README
