"""The ports of the outside world and of its appliance: a fixed table of offsets, or free ones."""

from __future__ import annotations

import socket
from contextlib import ExitStack

HOST = "127.0.0.1"
#: port = base + row number
PORTS = (
    "dmp",
    "psc",
    "ans",
    "ans_crl",
    "betterstack",
    "control",
    "appliance_dicom",
    "appliance_mllp",
    "appliance_public",
    "appliance_internal",
    "appliance_mllp_tls",
    "syslog",
)


def assign_ports(base: int | None) -> dict[str, int]:
    """Name to port: consecutive from `base`, None = free ones. Raises ValueError for a bad base."""
    if base is None:
        return dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
    if not 1024 <= base <= 65536 - len(PORTS):
        raise ValueError(f"the port base must lie between 1024 and {65536 - len(PORTS)}")
    return {name: base + offset for offset, name in enumerate(PORTS)}


def _free_ports(count: int) -> list[int]:
    with ExitStack() as probes:  # all held at once, so that they differ
        bound = [probes.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in bound]
