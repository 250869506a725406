"""docs/logs.md is true: every action that a log line may have is in it with its level, and nothing else is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ROW = re.compile(r"^\| `([a-z0-9_]+)` \| ([a-z, ]+) \|", re.M)
ACTION = re.compile(r"[a-z]+(_[a-z0-9]+)+")
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
# Callables that are handed to parts which know no logger: their level is chosen in bootstrap and entrypoints.
SPEAKERS = {"log", "say", "alarm", "_log", "_say", "tell", "_named"}
# Said through a variable: the name of the doors, or the event of the list of probes in lower case.
COMPOSED = {
    *("dicom_refused", "mllp_refused", "dicom_refusal_not_told", "mllp_refusal_not_told"),
    *("mllp_accept", "mllp_closed", "report_kept", "retrieval_served", "retrieval_cut", "retrieval_refused"),
}


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for package in ("drimbox", "dicom_store", "whitelist", "healthcheck"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if "simulators" not in path.parts and "versions" not in path.parts:
                yield path, ast.parse(path.read_text("utf-8"))


def words(node: ast.expr) -> Iterator[str]:
    """The actions that an argument may be."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and ACTION.fullmatch(node.value):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from words(node.body)
        yield from words(node.orelse)


def said() -> Iterator[tuple[str, str | None]]:
    """(action, level where the call says it)."""
    for _, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):  # `extra` of the standard library's logging
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "action":
                        yield from ((word, None) for word in words(value))
            if not isinstance(node, ast.Call):
                continue
            for keyword in node.keywords:
                if keyword.arg == "action":
                    yield from ((word, None) for word in words(keyword.value))
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if node.args and (name in LEVELS or name in SPEAKERS):
                yield from ((word, LEVELS.get(name)) for word in words(node.args[0]))


SAID = list(said())
TABLE = {
    action: set(levels.split(", "))
    for action, levels in ROW.findall((ROOT / "docs/logs.md").read_text("utf-8"))
}
HEALTH_EVENTS = {action for action in TABLE if action.startswith("health_list_")} - {one for one, _ in SAID}


def test_every_action_is_in_the_table() -> None:
    assert {action for action, _ in SAID} | COMPOSED <= set(TABLE)


def test_the_table_invents_nothing() -> None:
    assert set(TABLE) - HEALTH_EVENTS == {action for action, _ in SAID} | COMPOSED
    source = (ROOT / "healthcheck/list_keeper.py").read_text("utf-8")
    assert [action for action in sorted(HEALTH_EVENTS) if action.upper() not in source] == []


def test_levels_are_those_of_the_code() -> None:
    assert [
        (action, level) for action, level in SAID if level is not None and level not in TABLE[action]
    ] == []
