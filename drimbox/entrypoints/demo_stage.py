"""The stage of the demo: the running world, its processes and addresses, and how to wait for it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import requests

from drimbox.simulators.ports import free_ports

START_SECONDS = 40.0
STOP_SECONDS = 25.0

Found = TypeVar("Found")


class StepFailed(Exception):
    """A step of the story did not hold; the message says what was seen."""


@dataclass
class Stage:
    """The running world: processes, addresses, and what the steps hand to each other."""

    directory: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    world: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    late: list[Path] = field(default_factory=list)
    study: str = ""
    kos: str = ""

    @property
    def config(self) -> str:
        """The appliance's configuration file."""
        return str(self.directory / "drimbox.toml")

    def control(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Ask the simulators' control port; returns the JSON answer."""
        url = f"{self.world['control']}{path}"
        answer = requests.get(url, timeout=10) if body is None else requests.post(url, json=body, timeout=10)
        answer.raise_for_status()
        return answer.json()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a `drimbox` process; its log goes to `<command>.log`."""
        with (self.directory / f"{arguments[0]}.log").open("a", encoding="utf-8") as log:
            process = subprocess.Popen(  # noqa: S603 our own interpreter and names
                [sys.executable, "-m", "drimbox", *arguments], stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.processes.append(process)
        return process

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `drimbox` command on the appliance's configuration."""
        return subprocess.run(  # noqa: S603 our own interpreter and names
            [sys.executable, "-m", "drimbox", *arguments, "--config", self.config],
            capture_output=True,
            text=True,
            check=False,
        )

    def ask(self, *arguments: str) -> Any:
        """The JSON that a `drimbox` command prints, None when it prints none."""
        done = self.run(*arguments, "--json")
        return json.loads(done.stdout) if done.stdout else None

    def stop(self) -> None:
        """Stop every process, the newest first."""
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


@contextmanager
def open_stage(directory: Path) -> Iterator[Stage]:
    """A stage whose processes end with it."""
    stage = Stage(directory)
    try:
        yield stage
    finally:
        stage.stop()


def start_world(stage: Stage, *options: str) -> str:
    """Start the simulators and read where they are; `options` of `drimbox simulate`."""
    process = stage.start("simulate", "--dir", str(stage.directory), *options)
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        raise StepFailed("the simulators did not start")
    stage.world = json.loads((stage.directory / "simulators.json").read_text("utf-8"))
    return f"DMP, Pro Santé Connect and lists listen; control on {stage.world['control']}"


def start_appliance(stage: Stage) -> str:
    """Start every door and the worker, and wait until they listen."""
    stage.start("serve", "--config", stage.config)
    doors = stage.world["appliance"]
    places = [(doors[name]["host"], doors[name]["port"]) for name in ("dicom", "mllp")]
    for address in (doors["public"], doors["internal"]):
        host, _, port = address.split("/")[2].rpartition(":")
        places.append((host, int(port)))
    for host, port in places:
        wait_for(lambda h=host, p=port: listens(h, p), START_SECONDS, f"nothing listens on {host}:{port}")  # type: ignore[misc]
    url, authority = f"{doors['public']}/studies/1.2.3", stage.world["ca"]
    wait_for(lambda: _exchanges(url, authority), START_SECONDS, "the whitelist does not name the appliance")
    return f"DICOM {places[0][1]}, MLLP {places[1][1]}, public {doors['public']}; named by the whitelist"


def wait_for(look: Callable[[], Found | None], seconds: float, otherwise: str) -> Found:
    """What `look` finds, asked again until it finds something. Raises `StepFailed` after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        time.sleep(0.1)
    raise StepFailed(f"{otherwise} after {seconds:.0f} s")


def free_port() -> int:
    """A TCP port of the loopback that was free a moment ago."""
    return free_ports(1)[0]


def _exchanges(url: str, authority: str) -> bool | None:
    """True once the public door asks for a token: before the first whitelist it refuses everybody (503)."""
    return True if requests.get(url, verify=authority, timeout=10).status_code == 401 else None


def listens(host: str, port: int) -> bool | None:
    """True when somebody accepts connections there, None when not."""
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return None
    return True
