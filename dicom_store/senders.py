"""Who may call the DICOM door: by AE title, and where a row says so by address and TLS client certificate too.

A title is what a peer says of itself; an address narrows that down, a certificate proves it (PS3.15 B.9).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from dicom_store.sink import Peer

Network = IPv4Network | IPv6Network


class Misfit(Enum):
    """What of a peer does not fit."""

    TITLE = "nobody calls so"
    ADDRESS = "nobody of this title calls from there"
    CLEAR = "who has this title and address comes over TLS"
    CERTIFICATE = "who has this title and address has another certificate"


@dataclass(frozen=True, slots=True)
class Sender:
    """One row: who calls by `ae_title` (not padded) from one of the networks, with one of the certificates.

    `certificates`: SHA-256 of the DER, lower hexadecimal; who has one never speaks in clear. Empty means any.
    """

    ae_title: str
    networks: tuple[Network, ...] = ()
    certificates: frozenset[str] = frozenset()

    def is_at(self, address: str) -> bool:
        """Whether it may call from there. Raises ValueError when networks are to hold it and it is no address."""
        if not self.networks:
            return True
        caller = _address(address)
        return any(caller in network for network in self.networks)

    def shows(self, certificate_sha256: str | None) -> bool:
        """Whether it may come with this certificate; None in clear."""
        return not self.certificates or certificate_sha256 in self.certificates


def misfit(titles: Collection[str], senders: Sequence[Sender], peer: Peer) -> Misfit | None:
    """Why a peer may not call; None when it may. A title that has rows is admitted by them alone."""
    rows = [row for row in senders if row.ae_title == peer.ae_title]
    if not rows:
        return None if peer.ae_title in titles else Misfit.TITLE
    near = [row for row in rows if row.is_at(peer.address)]
    if not near:
        return Misfit.ADDRESS
    if any(row.shows(peer.certificate_sha256) for row in near):
        return None
    return Misfit.CERTIFICATE if peer.certificate_sha256 else Misfit.CLEAR


def callers(titles: Sequence[str], senders: Sequence[Sender], address: str) -> tuple[str, ...]:
    """The AE titles that may call in clear from an address."""
    known = dict.fromkeys((*titles, *(row.ae_title for row in senders)))
    return tuple(one for one in known if misfit(titles, senders, Peer(one, address, "")) is None)


def _address(text: str) -> IPv4Address | IPv6Address:
    """An IPv4 caller on an IPv6 socket is an IPv4 caller."""
    address = ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address
