"""Who may come in by an MLLP door: by address before anything is read, then by TLS client certificate (hl7-mss 7.1)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from drimbox.domain.senders import SenderProfile, admitted

RESERVE = 8  # one place in so many is kept for addresses that have no connection yet


class PeerRefused(Exception):
    """A connection is closed before a byte of content is read; the text is the reason, never content."""


class PeerLeft(PeerRefused):
    """The peer went away in the middle of something; so it also looks when a door that stops ends the reading."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who was let in. `senders`: the profiles that it may speak for, at least one.

    `certificate_sha256`: of the DER of its TLS client certificate, lower hexadecimal; None in clear.
    """

    address: str
    certificate_sha256: str | None
    senders: tuple[SenderProfile, ...]

    @property
    def door(self) -> str:
        """How the trace and the inbox name the door it came in by."""
        return "mllp" if self.certificate_sha256 is None else "mllps"


def check_address(senders: Iterable[SenderProfile], address: str) -> None:
    """Raises `PeerRefused` when no profile, whatever its certificate, names this address."""
    if not any(admitted((sender,), address, sender.certificate_sha256) for sender in senders):
        raise PeerRefused("unknown address")


def let_in(senders: tuple[SenderProfile, ...], address: str, certificate_sha256: str | None = None) -> Peer:
    """The peer at `address`; `certificate_sha256`: verified by TLS, None in clear. Raises `PeerRefused`."""
    check_address(senders, address)
    own = admitted(senders, address, certificate_sha256)
    if not own:
        known_by_tls = "the senders of this address speak TLS only"
        raise PeerRefused(
            known_by_tls if certificate_sha256 is None else f"unknown certificate {certificate_sha256}"
        )
    return Peer(address, certificate_sha256, own)


class Places:
    """The connections that may be open at once, all doors together.

    One in `RESERVE` is kept for addresses that have none: one sender alone cannot shut the others out.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """Connections that are open now."""
        with self._lock:
            return self._taken.total()

    def take(self, address: str) -> None:
        """Raises `PeerRefused` when there is none left for this address."""
        with self._lock:
            reserved = self._maximum // RESERVE if self._taken[address] else 0
            if self._taken.total() >= self._maximum - reserved:
                raise PeerRefused("too many connections")
            self._taken[address] += 1

    def leave(self, address: str) -> None:
        """Give a place back."""
        with self._lock:
            self._taken[address] -= 1
            self._taken += Counter()  # forgets the addresses that have none
