"""Who really asks, behind declared proxies: the socket's peer is the truth unless it is one of them (RFC 7239 8.1).

trust-and-identity 6.6: X-Forwarded-For is read from right to left, and its first value is never believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
MAX_HOPS = 32  # values of the header that are looked at


def parse_address(text: str) -> Address | None:
    """An address as a socket or a header writes it (port and brackets allowed); None when it is none.

    An IPv4 address mapped into IPv6 is the IPv4 one; a zone, which is any text (RFC 4007 11), is left out.
    """
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def is_one_of(address: Address | None, networks: Sequence[Network]) -> bool:
    """Whether an address lies in one of the networks."""
    return address is not None and any(
        address.version == network.version and address in network for network in networks
    )


def client_address(peer: str, forwarded: str | None, proxies: Sequence[Network]) -> str:
    """The address of the client. `peer`: of the socket; `forwarded`: X-Forwarded-For, its lines joined by commas.

    From right to left, declared proxies are passed over; the first other address is the client. A value that is
    no address ends the walk: the last good one counts.
    """
    address = parse_address(peer)
    if address is None or not is_one_of(address, proxies):
        return str(address) if address else peer
    for token in reversed((forwarded or "").split(",")[-MAX_HOPS:]):
        hop = parse_address(token)
        if hop is None:
            break
        address = hop
        if not is_one_of(hop, proxies):
            break
    return str(address)
