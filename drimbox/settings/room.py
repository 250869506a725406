"""What every room of the settings is made of: frozen, unknown keys refused, types that several share."""

from __future__ import annotations

import os
import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

# systemd.exec(5), CREDENTIALS; where it is not set, as for an operator's commands, nothing is ever found there
CREDENTIALS_DIRECTORY = "CREDENTIALS_DIRECTORY"
NO_CREDENTIALS = Path("/nonexistent/credentials")
_CREDENTIAL = "credential:"


def _credential_path(value: object) -> object:
    """`credential:NAME` is the file of that name among the credentials that the service manager gave this process."""
    if not isinstance(value, str) or not value.startswith(_CREDENTIAL):
        return value
    name = value.removeprefix(_CREDENTIAL)
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
        raise ValueError(f"{_CREDENTIAL}NAME: letters, digits, dots, hyphens and underscores")
    return Path(os.environ.get(CREDENTIALS_DIRECTORY) or NO_CREDENTIALS) / name


PemFile = Annotated[Path, BeforeValidator(_credential_path)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


class ConfigurationError(Exception):
    """The configuration cannot be used; `faults` lists every fault, one sentence each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Room(BaseModel):
    """A room of the settings, or a row of one."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


def require_networks(value: tuple[str, ...]) -> tuple[str, ...]:
    """Addresses or networks (CIDR). Raises ValueError."""
    for address in value:
        ip_network(address, strict=False)
    return value


def require_fingerprint(value: str) -> str:
    """A SHA-256 in lower case without colons; empty stays empty. Raises ValueError."""
    plain = value.replace(":", "").lower()
    if plain and not re.fullmatch(r"[0-9a-f]{64}", plain):
        raise ValueError("must be a SHA-256 of 64 hexadecimal digits")
    return plain


def require_fingerprints(value: tuple[str, ...]) -> tuple[str, ...]:
    """Several, none of them empty. Raises ValueError."""
    if "" in value:
        raise ValueError("must be SHA-256 of 64 hexadecimal digits each")
    return tuple(map(require_fingerprint, value))


def is_loopback(host: str) -> bool:
    """Whether that is an address of this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
