"""Who may send reports, and what each sender is forgiven: one profile per RIS or interface engine (hl7-mss 7.1).

Empty means nobody: an address that no profile names is refused before a byte of content is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from drimbox.domain.report_states import StatePolicy

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class SenderProfile:
    """One sender. `networks`: where it may call from; `application`, `facility`: MSH-3.1 and MSH-4.1, empty = any.

    `certificate_sha256`: of the DER of its TLS client certificate, lower hexadecimal; a sender that has one never
    speaks in clear. `not_tolerated`: defects (`hl7v2_grammar.TOLERANCES`) for which its messages are refused.
    `receipts`: host and port of its own MLLP door for business acknowledgements.
    """

    name: str
    networks: tuple[Network, ...]
    application: str = ""
    facility: str = ""
    certificate_sha256: str = ""
    not_tolerated: frozenset[str] = frozenset()
    states: StatePolicy = field(default_factory=StatePolicy)
    receipts: tuple[str, int] | None = None


def admitted(
    senders: Iterable[SenderProfile], address: str, certificate_sha256: str | None = None
) -> tuple[SenderProfile, ...]:
    """The senders that may speak from this address; `certificate_sha256`: of the TLS peer, None in clear."""
    caller = _address(address)
    return tuple(
        sender
        for sender in senders
        if any(caller in network for network in sender.networks)
        and sender.certificate_sha256 in ("", certificate_sha256)
    )


def speaking(senders: Iterable[SenderProfile], application: str, facility: str) -> SenderProfile | None:
    """The first of the senders that signs its messages so (MSH-3.1, MSH-4.1); None when none does."""
    for sender in senders:
        if sender.application in ("", application) and sender.facility in ("", facility):
            return sender
    return None


def _address(text: str) -> IPv4Address | IPv6Address:
    """An IPv4 caller on an IPv6 socket is an IPv4 caller."""
    address = ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address
