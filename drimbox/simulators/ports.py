"""The ports of the outside world and of its appliance: a fixed table of offsets, or free ones."""

from __future__ import annotations

import secrets
import socket
from contextlib import ExitStack

HOST = "127.0.0.1"
LOWEST, HIGHEST = 10_240, 32_767  # the ports of clients begin at 32,768
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
        return dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    if not 1024 <= base <= 65536 - len(PORTS):
        raise ValueError(f"the port base must lie between 1024 and {65536 - len(PORTS)}")
    return {name: base + offset for offset, name in enumerate(PORTS)}


def free_ports(count: int) -> list[int]:
    """So many ports of the loopback that were free a moment ago; Linux gives none of their range to a client."""
    with ExitStack() as probes:  # all held at once, so that they differ
        found: list[int] = []
        while len(found) < count:
            port = LOWEST + secrets.randbelow(HIGHEST - LOWEST + 1)
            try:
                probes.enter_context(socket.create_server((HOST, port)))
            except OSError:
                continue
            found.append(port)
        return found
