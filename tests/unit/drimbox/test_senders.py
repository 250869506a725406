"""Who may speak, at which door, and what is said of those who may not."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest

from drimbox.domain.senders import SenderProfile, admitted, speaking
from drimbox.entrypoints.mllp_admission import Peer, PeerRefused, Places, check_address, let_in
from drimbox.entrypoints.mllp_refusals import OTHERS, Refusal, Refusals
from drimbox.entrypoints.sender_check import sender_faults

PIN, OTHER_PIN = "a" * 64, "b" * 64


def profile(name: str = "RIS", *networks: str, **changes: Any) -> SenderProfile:
    """A sender of 10.0.0.5; each test changes one thing."""
    return SenderProfile(name, tuple(map(ip_network, networks or ("10.0.0.5",))), **changes)


# --- the profiles ---


def test_no_profile_admits_nobody() -> None:
    assert admitted((), "127.0.0.1") == ()
    with pytest.raises(PeerRefused, match="unknown address"):
        check_address((), "127.0.0.1")


@pytest.mark.parametrize(
    ("network", "address", "inside"),
    [
        ("10.0.0.5", "10.0.0.5", True),
        ("10.0.0.5", "10.0.0.50", False),
        ("10.0.0.0/24", "10.0.0.255", True),
        ("10.0.0.0/24", "10.0.1.0", False),
        ("10.0.0.5", "::ffff:10.0.0.5", True),
        ("2001:db8::/32", "2001:db8::1", True),
        ("2001:db8::/32", "10.0.0.5", False),
        ("fe80::/10", "fe80::1%eth0", True),
    ],
)
def test_a_sender_is_known_by_its_address(network: str, address: str, inside: bool) -> None:
    sender = profile("RIS", network)
    assert (admitted((sender,), address) == (sender,)) is inside


@pytest.mark.parametrize(
    ("pin", "shown", "enters"),
    [
        ("", None, True),
        ("", PIN, True),
        (PIN, PIN, True),
        (PIN, OTHER_PIN, False),
        (PIN, None, False),
    ],
)
def test_a_sender_with_a_pin_shows_that_certificate(pin: str, shown: str | None, enters: bool) -> None:
    sender = profile(certificate_sha256=pin)
    assert (admitted((sender,), "10.0.0.5", shown) == (sender,)) is enters


def test_the_first_sender_that_signs_so_speaks() -> None:
    strict = profile("strict", application="RIS", facility="CIM")
    by_name, anyone = profile("by name", application="RIS"), profile("anyone")
    assert speaking((strict, by_name, anyone), "RIS", "CIM") is strict
    assert speaking((strict, by_name, anyone), "RIS", "X") is by_name
    assert speaking((strict, by_name, anyone), "Y", "CIM") is anyone
    assert speaking((strict, by_name), "Y", "CIM") is None


# --- at the door ---


def test_the_peer_brings_the_senders_that_it_may_be() -> None:
    pinned, plain = profile("pinned", certificate_sha256=PIN), profile("plain")
    elsewhere = profile("elsewhere", "10.0.0.6")
    assert let_in((pinned, plain, elsewhere), "10.0.0.5") == Peer("10.0.0.5", None, (plain,))
    secure = let_in((pinned, plain, elsewhere), "10.0.0.5", PIN)
    assert (secure.senders, secure.door) == ((pinned, plain), "mllps")
    assert let_in((plain,), "10.0.0.5").door == "mllp"


def test_each_refusal_says_why() -> None:
    pinned = (profile(certificate_sha256=PIN),)
    check_address(pinned, "10.0.0.5")
    with pytest.raises(PeerRefused, match=r"^unknown address$"):
        let_in(pinned, "10.0.0.6", PIN)
    with pytest.raises(PeerRefused, match="speak TLS only"):
        let_in(pinned, "10.0.0.5")
    with pytest.raises(PeerRefused, match=f"^unknown certificate {OTHER_PIN}$"):
        let_in(pinned, "10.0.0.5", OTHER_PIN)


def test_places_are_counted_over_all_addresses() -> None:
    places = Places(2)
    places.take("a")
    places.take("b")
    with pytest.raises(PeerRefused, match="too many"):
        places.take("c")
    places.leave("a")
    places.take("c")


def test_one_address_does_not_take_the_last_places() -> None:
    places = Places(16)
    for _ in range(14):
        places.take("greedy")
    with pytest.raises(PeerRefused, match="too many"):
        places.take("greedy")
    places.take("second")
    places.take("third")
    with pytest.raises(PeerRefused, match="too many"):
        places.take("fourth")
    for _ in range(14):
        places.leave("greedy")
    places.take("greedy")


# --- what is told of refusals ---


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def told(note: Callable[[Refusals, Clock], None], **options: Any) -> list[Refusal]:
    """What `note` makes be told, once all of it was."""
    seen: list[Refusal] = []
    clock = Clock()
    refusals = Refusals(seen.append, clock=clock, **options)
    refusals.start()
    note(refusals, clock)
    refusals.stop()
    return seen


def test_a_scanner_makes_one_row_a_minute() -> None:
    def scan(refusals: Refusals, clock: Clock) -> None:
        for second in range(125):
            clock.now = second
            for _ in range(10):
                refusals.note("mllp", "10.9.9.9", "unknown address")

    assert told(scan) == [
        Refusal("mllp", "10.9.9.9", "unknown address", 0),
        Refusal("mllp", "10.9.9.9", "unknown address", 599),
        Refusal("mllp", "10.9.9.9", "unknown address", 599),
    ]


def test_both_doors_and_addresses_are_told_apart_where_it_matters() -> None:
    def note(refusals: Refusals, _clock: Clock) -> None:
        refusals.note("mllp", "a", "unknown address")
        refusals.note("mllps", "a", "unknown address")
        refusals.note("mllp", "b", "unknown address")
        refusals.note("mllps", "b", "not TLS")

    assert [(r.door, r.address, r.reason) for r in told(note)] == [
        ("mllp", "a", "unknown address"),
        ("mllp", "b", "unknown address"),
        ("mllps", "b", "not TLS"),
    ]


def test_a_crowd_of_addresses_is_told_together() -> None:
    def crowd(refusals: Refusals, clock: Clock) -> None:
        for number in range(100):
            refusals.note("mllp", f"10.0.0.{number}", "unknown address")
        clock.now = 61
        for number in range(96, 100):
            refusals.note("mllp", f"10.0.0.{number}", "unknown address")

    seen = told(crowd, capacity=3)
    assert [(refusal.address, refusal.repeated) for refusal in seen] == [
        ("10.0.0.0", 0),
        ("10.0.0.1", 0),
        ("10.0.0.2", 0),
        (OTHERS, 0),
        ("10.0.0.96", 0),
        ("10.0.0.97", 0),
        (OTHERS, 96),
    ]


def test_a_teller_that_fails_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    def tell(refusal: Refusal) -> None:
        if refusal.address == "a":
            raise ValueError("the SECRET of a")
        seen.append(refusal.address)

    refusals = Refusals(tell)
    refusals.start()
    refusals.note("mllp", "a", "not TLS")
    refusals.note("mllp", "b", "not TLS")
    refusals.stop()
    assert seen == ["b"]
    assert "mllp_refusal_not_told a: ValueError" in caplog.text
    assert "SECRET" not in caplog.text
    refusals.note("mllp", "c", "noted after the end: nobody waits")


# --- what `config check` says of senders ---


@pytest.mark.parametrize(
    ("sender", "host", "with_tls", "expected"),
    [
        (profile(), "10.0.0.1", False, None),
        (profile(certificate_sha256=PIN), "10.0.0.1", True, None),
        (profile(certificate_sha256=PIN), "10.0.0.1", False, "no mllp.tls_port"),
        (profile(), "127.0.0.1", False, "can reach mllp.host 127.0.0.1"),
        (profile("RIS", "0.0.0.0/0"), "127.0.0.1", False, None),
        (profile("RIS", "127.0.0.1", "10.0.0.5"), "127.0.0.1", False, None),
        (profile(), "::", False, "can reach mllp.host ::"),
        (profile("RIS", "2001:db8::5"), "0.0.0.0", False, "can reach mllp.host 0.0.0.0"),
        (profile("RIS", "::1"), "::1", False, None),
        (profile(), "drimbox.hospital.example", False, None),
    ],
)
def test_senders_that_never_get_in(
    sender: SenderProfile, host: str, with_tls: bool, expected: str | None
) -> None:
    faults = list(sender_faults([sender], host, with_tls))
    assert len(faults) == (expected is not None)
    assert all("mllp.senders.0 (RIS): can never get in:" in fault for fault in faults)
    assert all(str(expected) in fault for fault in faults)


@pytest.mark.parametrize(
    ("first", "second", "hidden"),
    [
        (profile("1"), profile("2"), True),
        (profile("1", "10.0.0.0/24"), profile("2", application="RIS"), True),
        (profile("1"), profile("2", certificate_sha256=PIN), True),
        (profile("1", application="RIS"), profile("2"), False),
        (profile("1", facility="CIM"), profile("2", application="RIS"), False),
        (profile("1", certificate_sha256=PIN), profile("2"), False),
        (profile("1"), profile("2", "10.0.0.5", "10.0.0.6"), False),
        (profile("1", "2001:db8::/32"), profile("2"), False),
    ],
)
def test_a_sender_hidden_by_one_before_it(first: SenderProfile, second: SenderProfile, hidden: bool) -> None:
    faults = list(sender_faults([first, second], "10.0.0.1", True))
    expected = "mllp.senders.1 (2): every message of it is taken for one of 1, which stands before it"
    reachable = [fault for fault in faults if "can never get in" not in fault]
    assert reachable == ([expected] if hidden else [])
