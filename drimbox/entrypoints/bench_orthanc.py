"""Orthanc as the peer of a benchmark: the machine's own, or another one that a command starts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from drimbox.entrypoints.bench_wado_clients import ENVIRONMENT, LOOPBACK
from drimbox.entrypoints.demo_stage import free_port, wait_for

DEBIAN: Sequence[str] = ("Orthanc",)
START_SECONDS = 40.0


@dataclass(frozen=True)
class Orthanc:
    """A running one: its REST interface, its DICOM port, its process."""

    base: str
    dicom: int
    process: int

    def version(self, what: str = "system") -> str:
        """Of the server, or of the plugin at that path."""
        return str(requests.get(f"{self.base}/{what}", timeout=10).json()["Version"])


@contextmanager
def open_orthanc(
    directory: Path,
    options: Mapping[str, Any],
    *,
    command: Sequence[str] = DEBIAN,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Orthanc]:
    """An Orthanc as a child with an empty store in `directory`; `options` of its configuration beside the ports.

    `command`: starts it, its configuration file comes last (`chroot /srv/trixie Orthanc`: it must see
    `directory` under the same name). Raises `StepFailed` when it does not listen.
    """
    directory.mkdir(parents=True)
    http, dicom = free_port(), free_port()
    store = str(directory / "storage")
    ports = {"HttpPort": http, "DicomPort": dicom, "StorageDirectory": store, "IndexDirectory": store}
    fixed = {
        "Name": "bench",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "SslEnabled": False,
    }
    configuration = directory / "orthanc.json"
    configuration.write_text(json.dumps({**fixed, **ports, **options}), "utf-8")
    base = f"http://{LOOPBACK}:{http}"
    with (directory / "orthanc.log").open("w", encoding="utf-8") as log:
        child = subprocess.Popen(  # noqa: S603 our own names
            [*command, str(configuration)], stdout=log, stderr=log, env={**ENVIRONMENT, **(environment or {})}
        )
    try:
        wait_for(lambda: _listens(f"{base}/system"), START_SECONDS, "Orthanc does not listen")
        yield Orthanc(base, dicom, child.pid)
    finally:
        child.terminate()
        child.wait()


def _listens(url: str) -> bool | None:
    try:
        return True if requests.get(url, timeout=10).status_code == 200 else None
    except requests.ConnectionError:
        return None
