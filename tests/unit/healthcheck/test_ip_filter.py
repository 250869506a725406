"""Who gets an answer: the table of situations, each with its answer (trust-and-identity 6.5)."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from healthcheck.ip_filter import Decision, IpFilter, looks_like_probe
from healthcheck.ip_list import AddressList, parse_list

HOUR = 3600.0
LIST = parse_list(b"192.31.196.1\n192.175.48.0/28\n2620:4f:8000::1\n")
SHUT = {"fail_open": False}
OPEN: dict[str, bool] = {}


@pytest.mark.parametrize(
    ("policy", "address", "listed", "age", "allowed", "reason"),
    [
        # filter off: nothing else counts
        ({"enabled": False}, "198.51.100.7", LIST, 0.0, True, "off"),
        ({"enabled": False}, "nonsense", None, None, True, "off"),
        ({"enabled": False, "fail_open": False}, "198.51.100.7", None, None, True, "off"),
        # a fresh list
        (OPEN, "192.31.196.1", LIST, HOUR, True, "listed"),
        (OPEN, "192.175.48.15", LIST, HOUR, True, "listed"),
        (OPEN, "2620:4f:8000::1", LIST, HOUR, True, "listed"),
        (OPEN, "2620:4F:8000:0:0:0:0:1", LIST, HOUR, True, "listed"),
        (OPEN, "::ffff:192.31.196.1", LIST, HOUR, True, "listed"),
        (OPEN, "192.31.196.2", LIST, HOUR, False, "unknown"),
        (OPEN, "192.175.48.16", LIST, HOUR, False, "unknown"),
        (OPEN, "2620:4f:8000::2", LIST, HOUR, False, "unknown"),
        (OPEN, "127.0.0.1", LIST, HOUR, False, "unknown"),
        (SHUT, "192.31.196.1", LIST, HOUR, True, "listed"),
        (SHUT, "192.31.196.2", LIST, HOUR, False, "unknown"),
        # how old is stale
        (OPEN, "192.31.196.2", LIST, 48 * HOUR, False, "unknown"),
        (OPEN, "192.31.196.2", LIST, 48 * HOUR + 1, True, "stale-open"),
        (SHUT, "192.31.196.2", LIST, 48 * HOUR + 1, False, "stale-closed"),
        ({"list_stale": 60.0}, "192.31.196.2", LIST, 61.0, True, "stale-open"),
        # of unknown age (the package's list), or none: as stale
        (OPEN, "192.31.196.2", LIST, None, True, "stale-open"),
        (SHUT, "192.31.196.2", LIST, None, False, "stale-closed"),
        (OPEN, "192.31.196.2", None, None, True, "stale-open"),
        (SHUT, "192.31.196.2", None, None, False, "stale-closed"),
        (SHUT, "192.31.196.2", None, 0.0, False, "stale-closed"),
        # what is listed passes, however old the list
        (OPEN, "192.31.196.1", LIST, 90 * 24 * HOUR, True, "listed"),
        (SHUT, "192.31.196.1", LIST, 90 * 24 * HOUR, True, "listed"),
        (SHUT, "192.31.196.1", LIST, None, True, "listed"),
        # the operator's own
        ({"allowed": (ip_network("10.0.0.0/8"),)}, "10.9.9.9", LIST, HOUR, True, "allowed"),
        ({"allowed": (ip_network("10.0.0.0/8"),)}, "::ffff:10.9.9.9", LIST, HOUR, True, "allowed"),
        ({"allowed": (ip_network("fd00::/8"),), **SHUT}, "fd00::9", None, None, True, "allowed"),
        ({"allowed": (ip_network("10.0.0.0/8"),)}, "11.9.9.9", LIST, HOUR, False, "unknown"),
        # no address: refused, even where everybody is let in
        (OPEN, "", LIST, HOUR, False, "malformed"),
        (OPEN, "nonsense", None, None, False, "malformed"),
        (OPEN, "192.31.196.01", LIST, HOUR, False, "malformed"),
        (SHUT, "192.31.196.1.1", LIST, HOUR, False, "malformed"),
        (OPEN, "192.31.196.1, 192.31.196.1", LIST, HOUR, False, "malformed"),
    ],
)
def test_the_table(
    policy: dict[str, object],
    address: str,
    listed: AddressList | None,
    age: float | None,
    allowed: bool,
    reason: str,
) -> None:
    subject = IpFilter(**{"enabled": True, **policy})  # type: ignore[arg-type]
    assert subject.decide(address, listed, age) == Decision(allowed, reason)  # type: ignore[arg-type]


def test_the_filter_is_off_by_default() -> None:
    assert IpFilter().decide("198.51.100.7", LIST, 0.0).reason == "off"


@given(st.text(max_size=60), st.sampled_from([None, 0.0, 1e9]), st.booleans(), st.sampled_from([None, LIST]))
def test_no_text_crashes_the_filter(
    address: str, age: float | None, fail_open: bool, held: AddressList | None
) -> None:
    decision = IpFilter(enabled=True, fail_open=fail_open).decide(address, held, age)
    assert decision.allowed == (decision.reason in ("listed", "stale-open"))


@pytest.mark.parametrize(
    ("user_agent", "is_probe"),
    [
        ("Better Stack Better Uptime Bot Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36", True),
        ("Better Uptime Bot Mozilla/5.0 (Windows NT 10.0; Win64; x64)", True),
        ("Mozilla/5.0 (compatible; BetterUptime Bot)", True),
        ("betterstack/2", True),
        ("BETTER-STACK", True),
        ("Apache-HttpClient/4.5.14 (Java/1.7.0_352)", False),
        ("Mozilla/5.0 (compatible; UptimeRobot/2.0)", False),
        ("a better day", False),
        ("", False),
        ("x" * 600 + "Better Stack", False),
    ],
)
def test_what_a_probe_calls_itself(user_agent: str, is_probe: bool) -> None:
    assert looks_like_probe(user_agent) is is_probe
