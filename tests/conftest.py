"""Shared fixtures: official inputs, free ports, a scrubbed environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from pynetdicom import _config
from sqlalchemy import create_engine, text

from drimbox.adapters.database import Database
from drimbox.simulators.ports import free_ports
from fixtures.newest_database import newest_sqlite
from fixtures.quick_stage import logging_as_found

ROOT = Path(__file__).resolve().parent.parent

# Compiled modules are kept, whatever the environment says: without them each worker compiles all tests again, and each
# process that a test starts the whole product.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, nobody should wait for one at the end: those of stories, then those of few tests, each long."""
    counts = Counter(item.path for item in items)
    stories = (ROOT / "tests" / "flow", ROOT / "tests" / "faults")
    items.sort(key=lambda item: (item.path.parent not in stories, counts[item.path], str(item.path)))


@pytest.fixture(autouse=True)
def _scrubbed_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test depends on the developer's environment."""
    for name in list(os.environ):
        ours = name.startswith(("DRIMBOX_", "REQUESTS_", "SSL_")) or name.lower().endswith("_proxy")
        if ours and name != "DRIMBOX_OFFICIAL_DATA":
            monkeypatch.delenv(name)
    yield


@pytest.fixture(autouse=True)
def _logging_as_found() -> Iterator[None]:
    with logging_as_found():
        yield


@pytest.fixture(autouse=True)
def _pynetdicom_as_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """pynetdicom's options are process-wide: what one test's door or pusher sets must not reach the next."""
    for option in ("UNRESTRICTED_STORAGE_SERVICE", "LOG_HANDLER_LEVEL", "STORE_SEND_CHUNKED_DATASET"):
        monkeypatch.setattr(_config, option, getattr(_config, option))


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
        return free_ports(1)[0]

    return find


def _postgresql_binaries() -> Path | None:
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return installed[-1].parent if installed else None


@pytest.fixture(scope="session")
def postgresql(free_port: Callable[[], int]) -> Iterator[str]:
    """URL prefix of a real PostgreSQL server made for this session; skips where none is installed."""
    binaries = _postgresql_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    home = Path(tempfile.mkdtemp(prefix="drimbox-pg-"))
    account: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(home, "postgres")
        account = ["runuser", "-u", "postgres", "--"]
    port, data = free_port(), home / "data"
    run = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL, cwd=home)
    run([*account, binaries / "initdb", "-D", data, "-A", "trust", "-U", "drimbox", "--no-sync"])
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {home}"
    run([*account, binaries / "pg_ctl", "-D", data, "-l", home / "log", "-o", options, "-w", "start"])
    yield f"postgresql+psycopg://drimbox@127.0.0.1:{port}"
    run([*account, binaries / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"])
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, on each engine."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'drimbox.sqlite'}"
    return _create_database(request.getfixturevalue("postgresql"))


@pytest.fixture(params=["sqlite", "postgresql"])
def newest_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database of the newest revision with empty tables, on each engine."""
    if request.param == "sqlite":
        return f"sqlite:///{shutil.copy(newest_sqlite(), tmp_path)}"
    server: str = request.getfixturevalue("postgresql")
    return _create_database(server, request.getfixturevalue("newest_postgresql"))


@pytest.fixture(scope="session")
def newest_postgresql(postgresql: str) -> str:
    """Name of a database of that revision on that server, which nobody uses: a template."""
    url = _create_database(postgresql)
    database = Database(url)
    database.migrate()
    database.close()
    return url.rpartition("/")[2]


def _create_database(server: str, template: str = "template1") -> str:
    name = f"test_{uuid.uuid4().hex}"
    engine = create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    engine.dispose()
    return f"{server}/{name}"
