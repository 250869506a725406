"""The test plays systemd: each door as a process of its own, with a socket that hears what it says of itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from drimbox.entrypoints import waiting
from drimbox.entrypoints.notify import VARIABLES
from drimbox.entrypoints.supervisor import LIFELINE, Supervisor
from drimbox.settings.whole import Settings, load_settings
from drimbox.simulators.appliance_files import drimbox_toml
from drimbox.simulators.ports import HOST, assign_ports
from fixtures.kept_pki import kept_pki

PATIENCE = 60.0
WATCHDOG = 2.0  # seconds
STARTED = b"READY=1"
LIVES = b"WATCHDOG=1"
ENDS = b"STOPPING=1"
PORTS: dict[str, Callable[[Settings], list[int]]] = {
    "dicom": lambda settings: [settings.dicom.port, settings.dicom.tls_port],
    "mllp": lambda settings: [settings.mllp.port, settings.mllp.tls_port],
    "web": lambda settings: [settings.web.public_port, settings.web.internal_port],
    "worker": lambda _: [],
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("managed")
    pki = kept_pki(directory / "pki")
    (directory / "appliance").mkdir()
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    secure = {"certificate": pki.path("appliance_server"), "key": pki.key("appliance_server")}
    secure["client_authority"] = pki.authority
    lines = [f"tls_port = {port}", *(f'tls_{name} = "{file}"' for name, file in secure.items())]
    text = drimbox_toml(directory, assign_ports(None), pki)
    path = directory / "drimbox.toml"
    path.write_text(text.replace("[dicom]\n", "\n".join(["[dicom]", *lines, ""])), "utf-8")
    return path


@dataclass
class Managed:
    """A process, and what it tells."""

    process: subprocess.Popen[bytes]
    ear: socket.socket
    log: Path

    def hear(self, seconds: float) -> bytes | None:
        """The next words, None when there are none in time."""
        self.ear.settimeout(seconds)
        try:
            return self.ear.recv(4096)
        except TimeoutError:
            return None

    def silence(self) -> None:
        """Wait until no more words come, which must be before it would be taken for dead."""
        deadline = time.monotonic() + WATCHDOG * 4
        while self.hear(WATCHDOG) is not None:
            assert time.monotonic() < deadline, "still alive"

    def end(self) -> int:
        """Its exit status, after it said that it ends and then nothing more."""
        self.process.send_signal(signal.SIGTERM)
        words = [self.hear(PATIENCE)]
        while words[-1] == LIVES:
            words.append(self.hear(PATIENCE))
        assert words[-1] == ENDS
        status = self.process.wait(PATIENCE)
        assert self.hear(0.1) is None
        return status

    def complaints(self) -> list[str]:
        lines = [json.loads(line) for line in self.log.read_text("utf-8").splitlines()]
        return [str(line) for line in lines if line["level"] not in ("debug", "info")]


@contextmanager
def managed(door: str, config: Path, name: str, log: Path) -> Iterator[Managed]:
    """`name`: as systemd writes it, `@` for the abstract namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear, log.open("wb") as output:
        ear.bind(name.replace("@", "\0", 1))
        environment = {**os.environ, "NOTIFY_SOCKET": name, "WATCHDOG_USEC": str(int(WATCHDOG * 1e6))}
        command = [sys.executable, "-m", "drimbox", door, "--config", str(config)]
        process = subprocess.Popen(command, env=environment, stderr=output)
        try:
            yield Managed(process, ear, log)
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


def who_must_live(door: str, pid: int) -> list[int]:
    """The process itself; of the web door, which is alive when all its processes are, also the last of them."""
    if door != "web":
        return [pid]
    return [pid, int(Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()[-1])]


@pytest.mark.parametrize("door", PORTS)
def test_a_door_says_when_it_is_ready_alive_and_ending(door: str, config: Path, tmp_path: Path) -> None:
    abstract = door in ("mllp", "worker")
    name = f"@drimbox-{uuid.uuid4().hex}" if abstract else str(tmp_path / "notify")
    with managed(door, config, name, tmp_path / "log") as service:
        assert service.hear(PATIENCE) == STARTED, service.log.read_text("utf-8")
        for port in PORTS[door](load_settings(config)):
            socket.create_connection((HOST, port), 5).close()
        assert [service.hear(WATCHDOG) for _ in range(3)] == [LIVES] * 3
        for pid in who_must_live(door, service.process.pid):
            os.kill(pid, signal.SIGSTOP)
            service.silence()
            os.kill(pid, signal.SIGCONT)
            assert service.hear(WATCHDOG) == LIVES
        assert service.end() == 0
        if door in ("dicom", "mllp"):  # nobody is told of our own knocks; the others find no whitelist
            assert service.complaints() == []


def test_a_door_that_cannot_listen_is_never_ready(config: Path, tmp_path: Path) -> None:
    with socket.create_server((HOST, load_settings(config).dicom.port)):
        with managed("dicom", config, str(tmp_path / "notify"), tmp_path / "log") as service:
            assert service.process.wait(PATIENCE) != 0
            assert service.hear(0.1) is None


def test_a_knock_asks_more_than_a_listening_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "KNOCK_SECONDS", 0.2)
    with socket.create_server((HOST, 0)) as listener:  # and nobody who accepts
        port = listener.getsockname()[1]
        assert not waiting.opens(HOST, port)
    assert not waiting.opens(HOST, port)


def test_a_supervised_door_leaves_the_word_to_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The socket is for the main process of a unit: `drimbox serve` passes it to no child."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "1")
    said, config = tmp_path / "said", tmp_path / "drimbox.toml"

    def enter(door: str, path: Path) -> int:
        said.write_text(json.dumps([door, str(path), {**os.environ}]))
        return 7

    supervisor = Supervisor(config, enter, ["dicom"])
    child = supervisor._children[0]
    supervisor._start(child, 0.0)
    assert os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) == 7
    door, path, environment = json.loads(said.read_text())
    assert (door, path) == ("dicom", str(config))
    assert LIFELINE in environment
    assert not set(VARIABLES) & set(environment)
