"""Who gets an answer of the health check, when the filter is on (trust-and-identity 6.5). Nothing else is filtered.

The rows, first match wins:

| situation | allowed | reason |
| --- | --- | --- |
| the filter is off | yes | off |
| the address is none (a proxy sent nonsense) | no | malformed |
| in `allowed` of the configuration | yes | allowed |
| in the list held, however old it is | yes | listed |
| list stale or none, `fail_open` | yes | stale-open |
| list stale or none, not `fail_open` | no | stale-closed |
| any other | no | unknown |

Stale: older than `list_stale` seconds, or of unknown age, as the list of the package is until a first download
succeeded. A box that never could download therefore answers everybody (with an alert) unless `fail_open` is false:
a wrong "hors service" is worse than an answered ping (FAQ H4). What is listed passes in either case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from healthcheck.client_address import Network, is_one_of, parse_address
from healthcheck.ip_list import AddressList

Reason = Literal["off", "malformed", "allowed", "listed", "stale-open", "stale-closed", "unknown"]

# "Better Uptime Bot Mozilla/5.0 …", since 2023 "Better Stack Better Uptime Bot Mozilla/5.0 …", as seen in public logs
_PROBE = re.compile(r"better[ _-]?(stack|uptime)", re.IGNORECASE)
_LOOKED_AT = 512  # characters of a user-agent


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether the address gets an answer, and the row that says so."""

    allowed: bool
    reason: Reason


@dataclass(frozen=True, slots=True)
class IpFilter:
    """The policy. `list_stale`: seconds; `allowed`: networks of the operator that pass as well."""

    enabled: bool = False
    list_stale: float = 48 * 3600
    fail_open: bool = True
    allowed: tuple[Network, ...] = ()

    def decide(self, address: str, listed: AddressList | None, age_seconds: float | None) -> Decision:
        """The row for a client's `address`. `age_seconds`: since the list was retrieved, None when nobody knows."""
        if not self.enabled:
            return Decision(True, "off")
        client = parse_address(address)
        if client is None:
            return Decision(False, "malformed")
        if is_one_of(client, self.allowed):
            return Decision(True, "allowed")
        if listed is not None and listed.contains(client):
            return Decision(True, "listed")
        if listed is None or age_seconds is None or age_seconds > self.list_stale:
            return Decision(True, "stale-open") if self.fail_open else Decision(False, "stale-closed")
        return Decision(False, "unknown")


def looks_like_probe(user_agent: str) -> bool:
    """Whether a client says that it is a probe of BetterStack. Anybody may: it opens nothing, it only makes us look
    whether the list has changed.
    """
    return _PROBE.search(user_agent[:_LOOKED_AT]) is not None
