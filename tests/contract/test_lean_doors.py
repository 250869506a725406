"""The doors do not carry what only conversions use: three web processes fit in 200 MB."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from drimbox.__main__ import LEAN, NOT_FOR_DOORS
from drimbox.entrypoints.supervisor import DOORS

RUN = """
import json, sys
from drimbox.__main__ import main
try:
    main()
finally:
    json.dump([name for name, module in sys.modules.items() if module is not None], sys.stderr)
"""


@pytest.mark.parametrize(("command", "expected"), [("web", set()), ("kos", set(NOT_FOR_DOORS))])
def test_a_door_loads_nothing_for_pixels(command: str, expected: set[str]) -> None:
    run = [sys.executable, "-c", RUN, command, "--help"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True)
    loaded = set(json.loads(done.stderr))
    assert "pydicom" in loaded
    assert loaded & set(NOT_FOR_DOORS) == expected
    assert "alembic" not in loaded
    assert ("drimbox.entrypoints.exams_cli" in loaded) is bool(expected)


def test_every_door_is_lean() -> None:
    assert set(DOORS) <= LEAN
