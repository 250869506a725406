"""accounts: who is recognised, who is let in, and what a password costs."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_store.status import HttpRefusal
from drimbox.domain.accounts import (
    CHALLENGE,
    MAX_AUTHORIZATION,
    Account,
    Caller,
    Credentials,
    Right,
    admit,
    certified,
    decoy,
    hash_password,
    named,
    parse_hash,
    password_matches,
    reachable,
    read_basic,
)

HASHED = hash_password("correct horse", bytes(range(16)), p=1)
CERTIFICATE = b"the DER of a certificate"
DIGEST = hashlib.sha256(CERTIFICATE).hexdigest()
HOME = (ip_network("10.0.0.0/24"), ip_network("fd00::/64"))
VIEWER = Account("viewer", HOME, frozenset({Right.READ}), parse_hash(HASHED))
MODALITY = Account("modality", (ip_network("10.0.1.5"),), frozenset({Right.STORE}), None, DIGEST)
BOTH = replace(VIEWER, name="both", certificate_sha256=DIGEST, may=frozenset(Right))
ALL = (VIEWER, MODALITY, BOTH)


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def refusal_of(call: object, *arguments: object) -> HttpRefusal:
    with pytest.raises(HttpRefusal) as refused:
        call(*arguments)  # type: ignore[operator]
    return refused.value


# --- passwords ---


def test_a_password_is_recognised_by_its_hash_alone() -> None:
    known = parse_hash(HASHED)
    assert password_matches("correct horse", known)
    assert not password_matches("correct hors", known)
    assert "horse" not in HASHED
    assert hash_password("correct horse", bytes(16), p=1) != HASHED


def test_the_hash_is_that_of_rfc_7914() -> None:
    known = parse_hash(HASHED)
    assert known.key == hashlib.scrypt(b"correct horse", salt=bytes(range(16)), n=16384, r=8, p=1, dklen=32)


def test_accents_are_the_same_however_they_are_typed() -> None:
    known = parse_hash(hash_password("cl\u00e9 secr\u00e8te", bytes(16), p=1))
    found = read_basic(basic("viewer", "cle\u0301 secre\u0300te"))
    assert found is not None
    assert password_matches(found.password, known)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "correct horse",
        HASHED.replace("scrypt", "md5"),
        HASHED.replace("$16384$", "$8192$"),
        HASHED.replace("$16384$", "$16385$"),
        HASHED.replace("$16384$", "$131072$"),
        HASHED.replace("$8$", "$4$"),
        re.sub(r"\$8\$1\$", "$8$0$", HASHED),
        HASHED[:-1],
        HASHED + "\n",
    ],
)
def test_hashes_that_are_none_or_too_weak_or_too_dear(text: str) -> None:
    with pytest.raises(ValueError, match="scrypt"):
        parse_hash(text)


def test_a_salt_has_sixteen_bytes() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        hash_password("correct horse", b"salt")


def test_a_stranger_costs_what_the_slowest_account_costs() -> None:
    slow = replace(VIEWER, password=replace(parse_hash(HASHED), p=5))
    assert decoy((VIEWER, slow)).p == 5
    assert decoy(()).n == 16384
    assert not password_matches("", decoy((VIEWER,)))


# --- the header ---


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (None, None),
        (basic("viewer", "a:b"), Credentials("viewer", "a:b")),
        ("bAsIc  dmlld2VyOg==", Credentials("viewer", "")),
    ],
)
def test_basic(header: str | None, found: Credentials | None) -> None:
    assert read_basic(header) == found


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic ***",
        "Bearer abc",
        "Basic " + base64.b64encode(b"no colon").decode(),
        "Basic " + base64.b64encode(b"\xff:\xff").decode(),
        f"{basic('viewer', 'x')}, {basic('viewer', 'x')}",  # two lines of the header
        basic("viewer", "x" * MAX_AUTHORIZATION),
        "Basic \u00e9",
    ],
)
def test_what_is_no_basic(header: str) -> None:
    refusal = refusal_of(read_basic, header)
    assert (refusal.status, refusal.slug) == (401, "account-unknown")
    assert refusal.headers == {"WWW-Authenticate": CHALLENGE}


@settings(max_examples=200, deadline=None)
@given(st.text() | st.binary().map(lambda raw: "Basic " + base64.b64encode(raw).decode()))
def test_nothing_but_a_refusal_is_raised(header: str) -> None:
    try:
        assert isinstance(read_basic(header), Credentials)
    except HttpRefusal as refusal:
        assert refusal.status == 401


# --- who may ---


@pytest.mark.parametrize(
    ("address", "known"),
    [
        ("10.0.0.7", True),
        ("::ffff:10.0.0.7", True),
        ("fd00::1", True),
        ("10.0.1.5", True),
        ("10.0.1.6", False),
        ("192.168.0.1", False),
        ("", False),
        ("nonsense", False),
    ],
)
def test_who_calls_from_elsewhere_is_asked_for_nothing(address: str, known: bool) -> None:
    if known:
        reachable(ALL, Caller(address))
        return
    refusal = refusal_of(reachable, ALL, Caller(address))
    assert (refusal.status, refusal.slug, refusal.headers) == (403, "account-not-allowed", {})


def test_no_account_is_nobody() -> None:
    assert refusal_of(reachable, (), Caller("127.0.0.1")).status == 403


def test_names() -> None:
    assert named(ALL, Credentials("viewer", "")) is VIEWER
    assert named(ALL, Credentials("Viewer", "")) is None
    assert named(ALL, Credentials("modality", "")) is None  # it has no password
    assert named(ALL, Credentials("\ud800", "")) is None


def test_certificates() -> None:
    assert certified(ALL, Caller("10.0.1.5", CERTIFICATE)) is MODALITY
    assert certified(ALL, Caller("10.0.1.5", b"another")) is None
    assert certified(ALL, Caller("10.0.1.5")) is None
    assert certified((BOTH,), Caller("10.0.0.7", CERTIFICATE)) is None  # it must say its password too


@pytest.mark.parametrize(
    ("account", "caller", "right", "status"),
    [
        (VIEWER, Caller("10.0.0.7"), Right.READ, 200),
        (VIEWER, Caller("10.0.0.7"), Right.STORE, 403),
        (VIEWER, Caller("10.0.1.5"), Right.READ, 403),  # a known address, but another account's
        (MODALITY, Caller("10.0.1.5", CERTIFICATE), Right.STORE, 200),
        (BOTH, Caller("10.0.0.7", CERTIFICATE), Right.STORE, 200),
        (BOTH, Caller("10.0.0.7"), Right.STORE, 401),
        (BOTH, Caller("10.0.0.7", b"another"), Right.STORE, 401),
        (None, Caller("10.0.0.7"), Right.READ, 401),
    ],
)
def test_who_is_let_in(account: Account | None, caller: Caller, right: Right, status: int) -> None:
    if status == 200:
        assert admit(account, caller, right) is account
    else:
        assert refusal_of(admit, account, caller, right).status == status
