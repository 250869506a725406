"""Shared fixtures: official inputs, free ports, a scrubbed environment."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _scrubbed_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test depends on the developer's environment."""
    for name in list(os.environ):
        if name.startswith(("DRIMBOX_", "REQUESTS_", "SSL_")) or name.lower().endswith("_proxy"):
            if name != "DRIMBOX_OFFICIAL_DATA":
                monkeypatch.delenv(name)
    yield


@pytest.fixture(scope="session")
def official() -> Path:
    """Directory of the official inputs (real documents of the ecosystem); skips where they are absent."""
    path = Path(os.environ.get("DRIMBOX_OFFICIAL_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip("official inputs are absent: set DRIMBOX_OFFICIAL_DATA")
    return path


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A function that gives a TCP port of the loopback that was free a moment ago."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find
