"""The client's address behind declared proxies: a table of what was sent and who it therefore is."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from healthcheck.client_address import client_address, parse_address

PROXIES = [ip_network("10.0.0.0/8"), ip_network("127.0.0.1"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", None, "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # not a proxy: its word does not count
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.2.3.4, 198.51.100.1", "198.51.100.1"),  # never the first value
        ("10.0.0.1", "1.2.3.4, 198.51.100.1, 10.9.9.9", "198.51.100.1"),
        ("10.0.0.1", "10.1.1.1, 10.2.2.2", "10.1.1.1"),
        ("10.0.0.1", "1.2.3.4, nonsense", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4, nonsense, 10.2.2.2", "10.2.2.2"),
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.1", '"[2001:db8::1]:4711"', "2001:db8::1"),
        ("10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("fd00::1", "2001:db8::1", "2001:db8::1"),
        ("", "198.51.100.1", ""),
    ],
)
def test_who_asks(peer: str, forwarded: str | None, client: str) -> None:
    assert client_address(peer, forwarded, PROXIES) == client


@given(st.text(max_size=200))
def test_a_stranger_never_becomes_another(forwarded: str) -> None:
    assert client_address("203.0.113.9", forwarded, PROXIES) == "203.0.113.9"


@given(st.text(max_size=200))
def test_any_header_of_a_proxy_gives_an_address(forwarded: str) -> None:
    assert parse_address(client_address("10.0.0.1", forwarded, PROXIES)) is not None


def test_only_the_last_hops_are_walked() -> None:
    assert client_address("10.0.0.1", ",".join(["1.2.3.4"] + ["10.0.0.2"] * 1000), PROXIES) == "10.0.0.2"
