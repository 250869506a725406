"""Senders of reports that can never get in, for `drimbox config check`. Opens nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network

from drimbox.domain.senders import Network, SenderProfile

_LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1"))


def sender_faults(senders: Sequence[SenderProfile], host: str, with_tls: bool) -> Iterator[str]:
    """One sentence for each reason. `host`: address that the doors listen on; `with_tls`: there is a TLS door."""
    for number, sender in enumerate(senders):
        name = f"mllp.senders.{number} ({sender.name})"
        if sender.certificate_sha256 and not with_tls:
            yield f"{name}: can never get in: it has a certificate_sha256, and there is no mllp.tls_port"
        if not any(_reaches(network, host) for network in sender.networks):
            yield f"{name}: can never get in: none of its addresses can reach mllp.host {host}"
        hidden_by = next((one for one in senders[:number] if _covers(one, sender)), None)
        if hidden_by is not None:
            yield f"{name}: every message of it is taken for one of {hidden_by.name}, which stands before it"


def _reaches(network: Network, host: str) -> bool:
    """Whether a caller of this network can connect to the host; of a host name nothing is said."""
    try:
        address = ip_address(host)
    except ValueError:
        return True
    if network.version != address.version:
        return False
    return not address.is_loopback or any(_overlap(network, loopback) for loopback in _LOOPBACK)


def _covers(first: SenderProfile, second: SenderProfile) -> bool:
    """Whether the first is chosen wherever the second could be (`domain.senders.admitted`, `speaking`)."""
    return (
        first.certificate_sha256 in ("", second.certificate_sha256)
        and first.application in ("", second.application)
        and first.facility in ("", second.facility)
        and all(any(_within(one, wide) for wide in first.networks) for one in second.networks)
    )


def _overlap(one: Network, other: Network) -> bool:
    return _within(one, other) or _within(other, one)


def _within(one: Network, wide: Network) -> bool:
    return one.version == wide.version and one.subnet_of(wide)  # type: ignore[arg-type]
