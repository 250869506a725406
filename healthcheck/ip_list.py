"""The published list of the probes' addresses: both forms read, by rules that refuse what cannot be one.

trust-and-identity 6.4. What is refused never replaces a list that is held; what is accepted lets somebody ask for
the health check, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Any, NoReturn

from healthcheck.client_address import Address, Network

MAX_BYTES = 1024 * 1024
MAX_LINES = 10_000
INVALID_SHARE = 10  # per cent of the entries that may be no address
WIDEST = {4: 16, 6: 32}  # shortest prefix: 0.0.0.0/0 and ::/0 would let everybody in, a /8 nearly
_ENTRY = re.compile(r"[0-9A-Fa-f:.]{2,45}(/[0-9]{1,3})?")
_QUOTED = 3  # entries that a reason names

#: where no probe on the Internet can be (IANA special-purpose registries, RFC 6890; documentation too). Not asked of
#: `ipaddress`, whose opinion of them changes with its version. AS112 and former 6to4 relays are ordinary addresses.
SPECIAL: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        *(
            "::/3",
            "4000::/2",
            "8000::/1",
        ),  # all that is no global unicast: loopback, fc00::/7, fe80::/10, ff00::/8
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
    )
)
_SPECIAL_RANGES = {
    version: [
        (int(network.network_address), int(network.broadcast_address))
        for network in SPECIAL
        if network.version == version
    ]
    for version in (4, 6)
}


class ListRefused(Exception):
    """These bytes are no usable list. `code`: a stable slug; `reason`: a sentence that quotes addresses only."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code, self.reason = code, reason


@dataclass(frozen=True, slots=True)
class AddressList:
    """Addresses and networks of the probes, each once, in order.

    `invalid`: entries that were ignored. `networks`: the same addresses in as few networks as can be. `sha256`: of
    `as_text`, so the same for the same content in whichever form and order it was published.
    """

    entries: tuple[Network, ...]
    invalid: int = 0
    networks: tuple[Network, ...] = field(init=False, repr=False, compare=False)
    sha256: str = field(init=False, repr=False, compare=False)
    _prefixes: tuple[tuple[int, int, frozenset[int]], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "entries", tuple(_ordered(self.entries)))
        put(self, "networks", tuple(_collapsed(self.entries)))
        put(self, "sha256", hashlib.sha256(self.as_text()).hexdigest())
        put(self, "_prefixes", _by_prefix(self.entries))

    @property
    def count(self) -> int:
        """How many distinct entries."""
        return len(self.entries)

    def contains(self, address: Address) -> bool:
        """Whether an address is listed: one look-up per prefix length in use, however long the list."""
        number = int(address)
        return any(
            version == address.version and number >> shift in heads
            for version, shift, heads in self._prefixes
        )

    def lines(self) -> tuple[str, ...]:
        """The entries as they are written: an address without its prefix."""
        return tuple(_written(network) for network in self.entries)

    def as_text(self) -> bytes:
        """One entry a line; `parse_list` reads the same list back."""
        return "".join(f"{line}\n" for line in self.lines()).encode("ascii")


def parse_list(body: bytes, *, max_bytes: int = MAX_BYTES, max_lines: int = MAX_LINES) -> AddressList:
    """The list that was published, as text or as JSON: recognised by its content, whatever its media type says.

    Text: an address or CIDR a line, blanks and what follows `#` skipped. JSON: an object of lists of texts, or such
    a list. Raises `ListRefused`: too-large, encoding, html, json, too-many, too-wide, special-address,
    invalid-entries, empty (6.4).
    """
    if len(body) > max_bytes:
        raise ListRefused("too-large", f"longer than {max_bytes} bytes")
    try:
        text = body.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ListRefused("encoding", "not UTF-8") from error
    if text.startswith("<"):
        raise ListRefused("html", "a page or XML, not a list")
    items = _of_json(text) if text[:1] in ("{", "[") else _of_lines(text)
    if len(items) > max_lines:
        raise ListRefused("too-many", f"more than {max_lines} lines")
    return _checked([_network(item) for item in items if item])


def check_change(old: AddressList | None, new: AddressList, pending_sha256: str | None) -> None:
    """Whether `new` may follow `old` (None = nothing that was ever downloaded), 6.4.

    `pending_sha256`: of a list that was refused as shrunk at an earlier download: the same again is meant so.
    Raises `ListRefused` shrunk when more than half of the entries would go.
    """
    if old is None or new.count * 2 >= old.count or new.sha256 == pending_sha256:
        return
    raise ListRefused("shrunk", f"{new.count} entries instead of {old.count}: to be downloaded twice")


def _of_lines(text: str) -> list[str]:
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    if not any(lines):
        raise ListRefused("empty", "no address at all")
    return lines


def _of_json(text: str) -> list[str]:
    try:
        value = json.loads(
            text,
            object_pairs_hook=_without_repetition,
            parse_int=_no_number,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except (ValueError, RecursionError) as error:
        raise ListRefused("json", "not JSON, or not of a list of addresses") from error
    groups = list(value.values()) if isinstance(value, dict) else [value]
    if not all(isinstance(group, list) for group in groups):
        raise ListRefused("json", "not an object of lists")
    items = [item for group in groups for item in group]
    if not all(isinstance(item, str) for item in items):
        raise ListRefused("json", "something else than texts in a list")
    return [item.strip() or "-" for item in items]


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is repeated")
    return found


def _no_number(text: str) -> NoReturn:
    """Before it is converted: a number has no place here, and a huge one takes long."""
    raise ValueError("a number")


def _network(text: str) -> Network | None:
    """An entry, IPv4-mapped ones as IPv4; None when it is none (host bits below a prefix: nobody knows which)."""
    if not _ENTRY.fullmatch(text):
        return None
    try:
        network = ip_network(text)
    except ValueError:
        return None
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        return IPv4Network((int(mapped), network.prefixlen - 96))
    return network


def _checked(found: Sequence[Network | None]) -> AddressList:
    networks = {network for network in found if network is not None}
    invalid = sum(network is None for network in found)
    wide = [network for network in networks if network.prefixlen < WIDEST[network.version]]
    special = [network for network in networks if _is_special(network)]
    rules = (
        (bool(wide), "too-wide", f"{len(wide)} networks are too wide: {_some(wide)}"),
        (
            bool(special),
            "special-address",
            f"{len(special)} entries are not on the Internet: {_some(special)}",
        ),
        (
            invalid * 100 > len(found) * INVALID_SHARE,
            "invalid-entries",
            f"{invalid} of {len(found)} entries are no addresses",
        ),
        (not networks, "empty", "no address at all"),
    )
    broken = [(code, reason) for holds, code, reason in rules if holds]
    if broken:
        raise ListRefused(broken[0][0], "; ".join(reason for _, reason in broken))
    return AddressList(tuple(networks), invalid)


def _is_special(network: Network) -> bool:
    first, last = int(network.network_address), int(network.broadcast_address)
    return any(first <= end and last >= start for start, end in _SPECIAL_RANGES[network.version])


def _some(networks: Iterable[Network]) -> str:
    found = [_written(network) for network in _ordered(networks)]
    return ", ".join(found[:_QUOTED]) + ("…" if len(found) > _QUOTED else "")


def _ordered(networks: Iterable[Network]) -> list[Network]:
    return sorted(set(networks), key=lambda n: (n.version, int(n.network_address), n.prefixlen))


def _collapsed(networks: Iterable[Network]) -> list[Network]:
    four = [network for network in networks if isinstance(network, IPv4Network)]
    six = [network for network in networks if isinstance(network, IPv6Network)]
    return [*collapse_addresses(four), *collapse_addresses(six)]


def _by_prefix(networks: Iterable[Network]) -> tuple[tuple[int, int, frozenset[int]], ...]:
    """Per version and prefix length: how far an address is shifted to be compared, and with what."""
    heads: dict[tuple[int, int], set[int]] = {}
    for network in networks:
        shift = network.max_prefixlen - network.prefixlen
        heads.setdefault((network.version, shift), set()).add(int(network.network_address) >> shift)
    return tuple((version, shift, frozenset(found)) for (version, shift), found in heads.items())


def _written(network: Network) -> str:
    single = network.prefixlen == network.max_prefixlen
    return str(network.network_address if single else network)
