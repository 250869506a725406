"""The official lists: verified with the pinned TEST authorities, and refused after a change of any signed octet."""

from __future__ import annotations

import base64
import random
import re
import statistics
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from lxml import etree

from whitelist.chain import Anchors, Crls
from whitelist.trust import Held, Report, examine

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
WITHOUT_CRL = Crls(None, None)  # the CRLs of IGC Santé are not at hand offline
# drim-m-data 2.3
INTERMEDIATE = "dc528e3788691b3f7950164076f95b02c64334c68662bdede5750b4e0e5338f6"
ROOT = "01325aeb193871eec90fa89556804e4185cb362e0ca87a3d79939c71186da805"
LEAF = "a5daf0dab418f6f4b789cd6881744a39240331fbdd78ee0b31359a28ffa8f5d2"
CHANGES = 5000


@pytest.fixture(scope="module")
def lists(official: Path) -> Path:
    return official / "whitelist"


@pytest.fixture(scope="module")
def current(lists: Path) -> bytes:
    return (lists / "LISTEBLANCHE_DRIM-M_SIGNEE_TEST.xml").read_bytes()


@pytest.fixture(scope="module")
def older(lists: Path) -> bytes:
    return (lists / "LISTEBLANCHE_DRIM-M_SIGNEE_TEST.2025.08.08.xml").read_bytes()


@pytest.fixture(scope="module")
def anchors(current: bytes) -> Anchors:
    """The TEST authorities, found by their published fingerprints."""
    found = {}
    for text in re.findall(rb"<ds:X509Certificate>([^<]+)<", current):
        certificate = x509.load_der_x509_certificate(base64.b64decode(text))
        found[certificate.fingerprint(hashes.SHA256()).hex()] = certificate
    return Anchors(
        root=found[ROOT],
        intermediate=found[INTERMEDIATE],
        signer_cn="Liste Blanche DRIM-M",
        signer_ou="318751275100020",
        policies=frozenset({"1.2.250.1.213.1.7.2.1.1.1.1"}),
        environment="test",
        crl_policy="prefer",
    )


def outcomes(report: Report) -> dict[int, Held]:
    return {step.number: step.outcome for step in report.steps}


def test_the_current_list(current: bytes, anchors: Anchors) -> None:
    report = examine(current, anchors, WITHOUT_CRL, at=NOW)
    assert report.accepted, report.failed
    by_number = outcomes(report)
    assert by_number.pop(1) is Held.SKIPPED
    assert by_number.pop(11) is Held.WARNED  # the stated policy "prefer", and it says so
    assert set(by_number.values()) == {Held.HELD}
    assert report.signed_at == datetime(2026, 9, 17, 8, 27, 36, tzinfo=UTC)
    assert report.signer is not None
    assert report.signer.fingerprint(hashes.SHA256()).hex() == LEAF
    assert report.octets is not None
    assert len(report.octets) == 8755
    assert report.trusted is not None
    assert len(report.trusted.domains) == 17


def test_without_crl_the_default_policy_refuses_and_says_so(current: bytes, anchors: Anchors) -> None:
    """trust-and-identity 5.4: no CRL ever = the list is unusable. Every other step holds."""
    report = examine(current, replace(anchors, crl_policy="require"), WITHOUT_CRL, at=NOW)
    assert [step.number for step in report.failed] == [11]
    assert "no CRL" in report.failed[0].why
    assert {outcomes(report)[n] for n in (*range(2, 11), 12, 13)} == {Held.HELD}


def test_the_older_list(older: bytes, anchors: Anchors) -> None:
    expired = examine(older, anchors, WITHOUT_CRL, at=NOW)
    assert [step.number for step in expired.failed] == [9]
    assert "expired: valid until 2026-09-12" in expired.failed[0].why
    assert examine(older, anchors, WITHOUT_CRL, at=datetime(2025, 8, 10, tzinfo=UTC)).accepted


def test_the_unsigned_list(lists: Path, anchors: Anchors) -> None:
    unsigned = (lists / "LISTEBLANCHE_DRIM-M_NONSIGNEE_TEST.xml").read_bytes()
    report = examine(unsigned, anchors, WITHOUT_CRL, at=NOW)
    assert [step.number for step in report.failed] == [3]
    assert not report.accepted


def test_a_test_list_is_refused_in_production(current: bytes, anchors: Anchors) -> None:
    report = examine(current, replace(anchors, environment="production"), WITHOUT_CRL, at=NOW)
    assert [step.number for step in report.failed] == [9]


def canonical(candidate: bytes) -> bytes:
    """What is signed of the document, said once more here: the signature cut out of the text, then exc-c14n."""
    cut = re.sub(rb"<ds:Signature .*</ds:Signature>", b"", candidate, flags=re.S)
    return etree.tostring(etree.fromstring(cut), method="c14n", exclusive=True, with_comments=False)


def signed_positions(current: bytes) -> list[int]:
    """Of every octet in the document, SignedInfo, SignatureValue and SignedProperties."""
    start, end = current.index(b"<ListeBlanche"), current.index(b"<ds:Signature ")
    areas = [(start, end), (current.index(b"</ListeBlanche"), len(current.rstrip()))]
    for name in (b"ds:SignedInfo", b"xades:SignedProperties"):
        areas.append((current.index(b"<" + name), current.index(b"</" + name + b">") + len(name) + 3))
    value = current.index(b">", current.index(b"<ds:SignatureValue")) + 1
    areas.append((value, current.index(b"<", value)))
    return [position for area in areas for position in range(*area)]


def test_every_change_of_a_signed_octet_is_refused(current: bytes, anchors: Anchors) -> None:
    """5,000 changes of one octet. The few that canonicalization undoes (space to tab in a tag) touch nothing signed."""
    chance, failed, same = random.Random(20261121), Counter[int](), 0
    positions = signed_positions(current)
    for _ in range(CHANGES):
        at = chance.choice(positions)
        other = chance.choice([octet for octet in range(256) if octet != current[at]])
        changed = current[:at] + bytes([other]) + current[at + 1 :]
        report = examine(changed, anchors, WITHOUT_CRL, at=NOW)
        if report.accepted:
            # Judged apart: not one octet of what is signed is another one.
            assert canonical(changed) == canonical(current)
            assert report.octets == canonical(current)
            assert current[at] in b" \n\t" and other in b" \n\t\r"
            same += 1
        else:
            failed[report.failed[0].number] += 1
            assert report.trusted is None
    assert sum(failed.values()) + same == CHANGES
    assert same < 20
    assert set(failed) <= {2, 3, 4, 5, 6, 7, 8}
    assert {2, 6, 7, 8} <= set(failed)


def test_the_current_list_is_verified_quickly(current: bytes, anchors: Anchors) -> None:
    times = []
    for _ in range(20):
        started = time.perf_counter()
        examine(current, anchors, WITHOUT_CRL, at=NOW)
        times.append(time.perf_counter() - started)
    assert statistics.median(times) < 0.02
