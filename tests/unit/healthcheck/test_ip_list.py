"""The probes' list: both forms, every rule of trust-and-identity 6.4, and whatever else may come instead of a list."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from healthcheck.ip_list import (
    MAX_BYTES,
    MAX_LINES,
    AddressList,
    ListRefused,
    check_change,
    parse_list,
)
from healthcheck.list_file import seed_list

FORBIDDEN = [
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *(
            "192.0.2.0/24",
            "192.168.0.0/16",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
        *("::/128", "::1/128", "fc00::/7", "fe80::/10", "ff00::/8", "2001:db8::/32"),
    )
]


def lines(count: int) -> list[str]:
    """Different addresses that a probe could have."""
    return [f"192.175.{48 + n // 200}.{1 + n % 200}" for n in range(count)]


def text(*entries: str) -> bytes:
    return "\n".join(entries).encode("utf-8")


def listed(body: bytes, address: str) -> bool:
    return parse_list(body).contains(ip_address(address))


@pytest.mark.parametrize(
    "body",
    [
        b"192.31.196.1\n2620:4f:8000::1\n",
        b"2620:4f:8000::1\n192.31.196.1",
        b"\xef\xbb\xbf192.31.196.1\r\n2620:4f:8000::1\r\n",
        b"# probes\n\n  192.31.196.1\t\n2620:4F:8000:0::1 # Sydney\n",
        b"192.31.196.1\n192.31.196.1\n::ffff:192.31.196.1\n192.31.196.1/32\n2620:4f:8000::1\n",
        b'{"eu": ["192.31.196.1"], "af": ["2620:4f:8000::1"], "new": []}',
        b' \n["192.31.196.1", " 2620:4f:8000::1 "]\n',
        b'\xef\xbb\xbf{"eu": ["192.31.196.1", "2620:4f:8000::1", "192.31.196.1"]}',
    ],
)
def test_every_form_of_the_same_list_is_the_same_list(body: bytes) -> None:
    found = parse_list(body)
    assert found.lines() == ("192.31.196.1", "2620:4f:8000::1")
    assert (found.count, found.invalid) == (2, 0)
    assert found == parse_list(b"192.31.196.1\n2620:4f:8000::1\n")
    assert found.sha256 == parse_list(found.as_text()).sha256


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        ("192.175.48.0/24", "192.175.48.255", "192.175.49.0"),
        ("192.175.0.0/16", "192.175.255.1", "192.176.0.0"),
        ("2620:4f:8000::/48", "2620:4f:8000:ffff::1", "2620:4f:8001::"),
        ("::ffff:192.175.48.0/120", "192.175.48.9", "192.175.49.9"),
        ("192.175.48.1", "192.175.48.1", "192.175.48.2"),
        ("2620:4f:8000::1", "2620:4f:8000::1", "2620:4f:8000::2"),
    ],
)
def test_networks_and_addresses(entry: str, inside: str, outside: str) -> None:
    assert listed(text(entry), inside)
    assert not listed(text(entry), outside)


def test_an_address_of_one_family_is_not_the_same_number_of_the_other() -> None:
    assert not listed(b"192.31.196.1", "::192.31.196.1")


def test_neighbours_collapse_and_still_count_each() -> None:
    found = parse_list(text("192.175.48.0", "192.175.48.1", "192.175.48.2/31", "192.175.48.3"))
    assert found.networks == (IPv4Network("192.175.48.0/30"),)
    assert found.count == 4


def test_invalid_entries_are_ignored_and_counted() -> None:
    found = parse_list(text(*lines(18), "probe.example", "192.175.48.7/24"))
    assert (found.count, found.invalid) == (18, 2)
    assert not found.contains(ip_address("192.175.48.200"))


NOT_A_LIST = [
    ("encoding", b"192.31.196.1\n\xff\xfe\n"),
    ("encoding", "192.31.196.1".encode("utf-16")),
    ("html", b"<!DOCTYPE html>\n192.31.196.1\n"),
    ("html", b" \n <html><title>Better Stack is under maintenance</title></html>"),
    ("too-large", b"#" * (MAX_BYTES + 1)),
    ("too-many", text(*lines(MAX_LINES), "192.31.196.1")),
    ("too-many", b"192.31.196.1" + b"\n#" * MAX_LINES),
    ("too-many", json.dumps({"eu": lines(MAX_LINES), "us": ["192.31.196.1"]}).encode()),
    ("empty", b""),
    ("empty", b"\xef\xbb\xbf"),
    ("empty", b"# nothing\n\n"),
    ("empty", b"{}"),
    ("empty", b'{"eu": []}'),
    ("invalid-entries", text(*lines(8), "garbage")),
    ("invalid-entries", b"ok"),
    ("invalid-entries", b"\x00\x01\x02"),
    ("invalid-entries", json.dumps(["", "#", " "]).encode()),
    ("invalid-entries", text("192.175.48.0/255.255.255.0")),
    ("invalid-entries", text("192.175.48.0/０")),
    ("invalid-entries", text("١٩٢.31.196.1")),
    ("invalid-entries", text("fe80::1%eth0")),
    *[
        ("special-address", text(*lines(20), str(network)))
        for network in FORBIDDEN
        if network.prefixlen >= 32
    ],
    *[("special-address", text(*lines(20), str(network[0]))) for network in FORBIDDEN],
    *[("special-address", text(*lines(20), str(network[-1]))) for network in FORBIDDEN],
    ("special-address", text("::ffff:10.0.0.1")),
    ("special-address", text("2002:c0a8:1::1")),
    ("special-address", text("192.0.0.0/16")),
    ("special-address", json.dumps({"eu": lines(5), "lab": ["192.168.1.1"]}).encode()),
    *[("too-wide", text(*lines(20), wide)) for wide in ("0.0.0.0/0", "::/0", "192.0.0.0/15", "2620::/31")],
    ("too-wide", text("::ffff:0.0.0.0/96")),
    ("json", b'{"eu": ["192.31.196.1"]'),
    ("json", b'{"eu": "192.31.196.1"}'),
    ("json", b'{"eu": {"paris": ["192.31.196.1"]}}'),
    ("json", b'{"eu": [["192.31.196.1"]]}'),
    ("json", b'{"eu": ["192.31.196.1"], "eu": ["192.31.196.2"]}'),
    ("json", b'{"eu": ["192.31.196.1", null]}'),
    ("json", b'{"eu": ["192.31.196.1"], "version": 1}'),
    ("json", b"[" + b"9" * 100_000 + b"]"),
    ("json", b"[NaN]"),
    ("json", b"[1e999999]"),
    ("json", b"[" * 100_000),
    ("json", b'{"a":' * 50_000),
    ("json", b'[{"ip": "192.31.196.1"}]'),
]


@pytest.mark.parametrize(("code", "body"), NOT_A_LIST, ids=lambda v: v if isinstance(v, str) else "")
def test_what_is_no_list_is_refused(code: str, body: bytes) -> None:
    with pytest.raises(ListRefused) as refused:
        parse_list(body)
    assert refused.value.code == code
    assert len(refused.value.reason) < 300


def test_every_violation_is_told() -> None:
    with pytest.raises(ListRefused) as refused:
        parse_list(text("10.0.0.1", "0.0.0.0/0", "x"))
    assert refused.value.code == "too-wide"
    assert refused.value.reason == (
        "1 networks are too wide: 0.0.0.0/0; 2 entries are not on the Internet: 0.0.0.0/0, 10.0.0.1;"
        " 1 of 3 entries are no addresses"
    )


def test_exactly_a_tenth_may_be_invalid() -> None:
    assert parse_list(text(*lines(9), "x")).invalid == 1
    with pytest.raises(ListRefused, match="2 of 19"):
        parse_list(text(*lines(17), "x", "x"))


def test_the_longest_list_is_taken() -> None:
    found = parse_list(text(*lines(MAX_LINES)))
    assert found.count == MAX_LINES
    assert found.contains(ip_address("192.175.97.200"))


def test_the_seed_list_is_usable() -> None:
    seed = seed_list()
    assert [sum(isinstance(n, kind) for n in seed.entries) for kind in (IPv4Network, IPv6Network)] == [17, 16]
    assert seed.invalid == 0


def of(count: int) -> AddressList:
    return parse_list(text(*lines(count)))


@pytest.mark.parametrize(
    ("old", "new", "refused"),
    [
        (None, 1, False),
        (34, 34, False),
        (34, 17, False),
        (34, 16, True),
        (3, 1, True),
        (2, 1, False),
        (1, 90, False),
    ],
)
def test_a_list_does_not_shrink_by_more_than_half(old: int | None, new: int, refused: bool) -> None:
    before = of(old) if old else None
    if not refused:
        check_change(before, of(new), None)
        return
    with pytest.raises(ListRefused) as refusal:
        check_change(before, of(new), of(new + 1).sha256)
    assert refusal.value.code == "shrunk"
    check_change(before, of(new), of(new).sha256)  # downloaded twice


def harmless(found: AddressList) -> bool:
    return not any(
        entry.version == bad.version and entry.overlaps(bad)  # type: ignore[arg-type]
        for entry in (*found.entries, *found.networks)
        for bad in FORBIDDEN
    )


NETWORKS: Callable[[], st.SearchStrategy[str]] = lambda: st.one_of(  # noqa: E731
    st.ip_addresses().map(str),
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)).map(lambda p: str(ip_network(p, strict=False))),
    st.tuples(st.ip_addresses(v=6), st.integers(0, 128)).map(lambda p: str(ip_network(p, strict=False))),
    st.ip_addresses(v=4).map(lambda a: f"::ffff:{a}"),
)


@given(st.lists(NETWORKS(), max_size=4), st.booleans(), st.integers(0, 2))
def test_no_forbidden_address_is_ever_accepted(entries: list[str], as_json: bool, good: int) -> None:
    entries = lines(good * 10) + entries
    body = json.dumps({"eu": entries}).encode() if as_json else text(*entries)
    try:
        found = parse_list(body)
    except ListRefused:
        return
    assert harmless(found)
    assert all(net.prefixlen >= {4: 16, 6: 32}[net.version] for net in found.entries)
    assert parse_list(found.as_text()) == found
    for entry in entries:
        address = ip_network(entry, strict=False).network_address
        mapped = getattr(address, "ipv4_mapped", None)
        assert found.contains(mapped or address)


@given(st.binary(max_size=200))
@example(b"\xef\xbb\xbf[")
@example(b'["\\ud800"]')
def test_octets_never_crash_the_reader(body: bytes) -> None:
    for prefix in (b"", b"192.31.196.1\n", b"[", b'{"eu":'):
        try:
            found = parse_list(prefix + body)
        except ListRefused as refused:
            assert refused.code and refused.reason
        else:
            assert found.count and harmless(found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | NETWORKS(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_any_json_is_a_list_or_refused(value: object) -> None:
    try:
        found = parse_list(json.dumps(value).encode())
    except ListRefused:
        return
    assert found.count and harmless(found)
