"""SIGKILL of `drimbox whitelist refresh` at random moments: the list in force stays one that was verified.

The publisher signs the list anew for every request, so that each retrieval archives, names and proves another one.
Most kills fall between the request and the end, where everything is written.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from drimbox.bootstrap import lay_foundation
from drimbox.membership import make_mesh
from drimbox.settings.whole import load_settings
from drimbox.simulators.appliance_files import drimbox_toml
from drimbox.simulators.faults import Faults
from drimbox.simulators.lists import LIST_PATH, AnsPublisher, ClearPublisher
from drimbox.simulators.ports import assign_ports
from drimbox.simulators.server import serve_wsgi, tls_context
from fixtures.kept_pki import kept_pki
from whitelist.decision import State

EARLY = 4  # one kill in so many: anywhere after the start of the process
PATIENCE = 60.0


class Publishing:
    """The ANS with another list at each request; `asked` is set when one is requested."""

    def __init__(self, directory: Path) -> None:
        self.pki = kept_pki(directory / "pki")
        self.asked = threading.Event()
        self._publisher = AnsPublisher(self.pki, Faults(), lambda: datetime.now(UTC))

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        self._publisher._current = None
        self.asked.set()
        return self._publisher(environ, start)


@pytest.fixture
def publishing(tmp_path: Path) -> Publishing:
    return Publishing(tmp_path)


@pytest.fixture
def config(tmp_path: Path, publishing: Publishing) -> Iterator[Path]:
    pki, ports = publishing.pki, assign_ports(None)
    path = tmp_path / "drimbox.toml"
    path.write_text(drimbox_toml(tmp_path, ports, pki), "utf-8")
    (tmp_path / "appliance").mkdir()
    foundation = lay_foundation(load_settings(path))
    foundation.database.migrate()
    foundation.database.close()
    tls = tls_context(pki.path("ans_server"), pki.key("ans_server"))
    servers = [
        serve_wsgi(publishing, "127.0.0.1", ports["ans"], tls),
        serve_wsgi(ClearPublisher(pki, lambda: datetime.now(UTC)), "127.0.0.1", ports["ans_crl"]),
    ]
    assert load_settings(path).whitelist.url.endswith(LIST_PATH)
    yield path
    for server in servers:
        server.stop()


def command(config: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "drimbox", "whitelist", *words, "--json", "--config", str(config)]


def run(config: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        command(config, *words), capture_output=True, check=False, timeout=PATIENCE, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)  # nothing else is on standard output
    return found


@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.soak)])
def test_a_retrieval_killed_anywhere_loses_nothing(config: Path, publishing: Publishing, kills: int) -> None:
    started = time.monotonic()
    first = run(config, "refresh")
    whole = time.monotonic() - started
    assert (first["before"], first["after"]) == ("NEVER", "CURRENT")
    chance = random.Random(20261122)
    in_force, seen = first["report"]["signed_at"], set()
    for kill in range(kills):
        publishing.asked.clear()
        process = subprocess.Popen(
            command(config, "refresh"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if kill % EARLY == 0:
            time.sleep(chance.uniform(0, whole))
        else:
            assert publishing.asked.wait(PATIENCE)
            time.sleep(chance.uniform(0, 0.25 * whole))
        process.kill()
        seen.add(process.wait(PATIENCE))
        snapshot = make_mesh(load_settings(config)).current()
        assert (snapshot.state, snapshot.warnings) == (State.CURRENT, ())
        assert snapshot.trusted is not None
        shown = run(config, "show") if kill % 5 == 4 else None
        if shown is not None:
            assert (shown["state"], shown["alert"], shown["warnings"]) == ("CURRENT", "none", [])
            assert shown["list"]["signed_at"] >= in_force[:19]  # never an older list than one in force
            in_force = shown["list"]["signed_at"]
    assert -9 in seen
    last = run(config, "refresh")
    assert (last["before"], last["after"], last["error"]) == ("CURRENT", "CURRENT", None)
    assert Path(last["proof"]).is_file()
    reports = {path.name.split(".report")[0] for path in _lists(config).glob("*.report.json")}
    assert last["list"].removesuffix(".xml") in reports


def _lists(config: Path) -> Path:
    return load_settings(config).storage.root / "whitelist" / "lists"
