"""The report of the numbered steps: order, reasons, roll-back, reload, and that it never raises."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from fixtures.certificates import NOW
from fixtures.list_authorities import Authorities, Holder, make_crl, make_signer
from fixtures.whitelists import PLAIN, large_list, sign_list, write_list
from whitelist.chain import Anchors, Crls
from whitelist.trust import Held, Previous, Report, Step, examine

Judge = Callable[..., Report]
HOUR = timedelta(hours=1)
SIGNED_AT = NOW - timedelta(days=1)
WITHOUT_CRL = Crls(None, None)


@pytest.fixture(scope="module")
def sound(signer: Holder, authorities: Authorities) -> bytes:
    return sign_list(write_list(), signer, authorities)


def outcome(report: Report, number: int) -> Held:
    (step,) = (step for step in report.steps if step.number == number)
    return step.outcome


def test_a_sound_list(judge: Judge, sound: bytes, signer: Holder) -> None:
    report = judge(sound, transport="200, TLS verified")
    assert [step.number for step in report.steps] == list(range(1, 14))
    assert {step.outcome for step in report.steps} == {Held.HELD}
    assert all(step.title and step.why for step in report.steps)
    assert report.accepted
    assert report.sha256 == hashlib.sha256(sound).hexdigest()
    assert report.signer == signer.certificate
    assert report.octets is not None
    assert report.octets.startswith(b"<ListeBlancheDRIM-M")
    assert b"Signature" not in report.octets


def test_a_file_has_no_transport(judge: Judge, sound: bytes) -> None:
    report = judge(sound)
    assert report.accepted
    assert outcome(report, 1) is Held.SKIPPED


def test_an_unsigned_list_says_why_the_rest_is_not_judged(judge: Judge) -> None:
    report = judge(write_list())
    assert [step.number for step in report.failed] == [3]
    assert {step.outcome for step in report.steps[3:]} == {Held.SKIPPED}
    assert report.steps[3].why == "not judged: step 3 did not hold"


def test_later_steps_are_judged_after_a_failure(judge: Judge, authorities: Authorities) -> None:
    """A list by the wrong, expired leaf whose CRL is missing: three failures, and the reading still judged."""
    leaf = make_signer(authorities, common_name="DRIMBox", not_after=NOW - HOUR)
    report = judge(sign_list(write_list(), leaf, authorities), crls=WITHOUT_CRL)
    assert [step.number for step in report.failed] == [9, 10, 11]
    assert outcome(report, 13) is Held.HELD
    assert report.trusted is None
    assert report.octets is None


def test_a_list_without_entries_is_unusable(judge: Judge, signer: Holder, authorities: Authorities) -> None:
    report = judge(sign_list(write_list(()), signer, authorities))
    assert [step.number for step in report.failed] == [13]


def test_nothing_is_read_when_the_signature_does_not_hold(judge: Judge, sound: bytes) -> None:
    """Whatever the part that failed: the document's digest may hold while SignedInfo was signed by nobody."""
    for mark in (b'value-id-1">', b"SigningTime>2026-"):
        at = sound.index(mark) + len(mark)
        report = judge(sound[:at] + (b"Q" if sound[at : at + 1] != b"Q" else b"R") + sound[at + 1 :])
        assert not report.accepted
        assert outcome(report, 6) is Held.HELD
        assert outcome(report, 13) is Held.SKIPPED
        assert outcome(report, 12) is Held.SKIPPED


PREVIOUS: dict[str, tuple[Previous, list[int]]] = {
    "the same": (Previous(SIGNED_AT, NOW), []),
    "older": (Previous(SIGNED_AT - HOUR, NOW - HOUR), []),
    "without dates": (Previous(None, None), []),
    "signed later": (Previous(SIGNED_AT + HOUR, NOW), [12]),
    "generated later": (Previous(SIGNED_AT, NOW + HOUR), [12]),
}


@pytest.mark.parametrize("name", PREVIOUS)
def test_roll_back(judge: Judge, sound: bytes, name: str) -> None:
    previous, failed = PREVIOUS[name]
    report = judge(sound, previous=previous)
    assert [step.number for step in report.failed] == failed
    assert report.accepted is not bool(failed)


def test_losing_the_signing_time_is_a_roll_back(
    judge: Judge, signer: Holder, authorities: Authorities
) -> None:
    plain = sign_list(write_list(), signer, authorities, PLAIN)
    assert judge(plain, previous=Previous(None, NOW)).accepted
    report = judge(plain, previous=Previous(SIGNED_AT, NOW))
    assert [step.number for step in report.failed] == [12]
    assert "SigningTime is absent" in report.failed[0].why


def test_reload_judges_at_the_acceptance_time(judge: Judge, authorities: Authorities) -> None:
    leaf = make_signer(authorities, not_after=NOW + HOUR)
    archived = sign_list(write_list(), leaf, authorities)
    assert not judge(archived, at=NOW + 2 * HOUR).accepted
    later = Previous(NOW + HOUR, NOW + HOUR)
    report = judge(archived, at=NOW, reload=True, crls=WITHOUT_CRL, previous=later)
    assert report.accepted
    assert [outcome(report, number) for number in (11, 12)] == [Held.SKIPPED, Held.SKIPPED]
    assert report.trusted is not None


def test_reload_does_not_accept_a_damaged_archive(judge: Judge, sound: bytes) -> None:
    assert not judge(sound.replace(b"db154.", b"db155.", 1), reload=True).accepted


def test_revoked(judge: Judge, sound: bytes, authorities: Authorities, signer: Holder, crls: Crls) -> None:
    crl = make_crl(authorities.intermediate, revoked=[signer.certificate.serial_number])
    report = judge(sound, crls=replace(crls, of_intermediate=crl))
    assert [step.number for step in report.failed] == [11]


def test_policy_without_crl(judge: Judge, anchors: Anchors, sound: bytes) -> None:
    assert [step.number for step in judge(sound, crls=WITHOUT_CRL).failed] == [11]
    report = judge(sound, crls=WITHOUT_CRL, anchors=replace(anchors, crl_policy="prefer"))
    assert report.accepted
    assert outcome(report, 11) is Held.WARNED


def test_other_namespaces_by_setting(
    judge: Judge, anchors: Anchors, signer: Holder, authorities: Authorities
) -> None:
    document = write_list().replace(b"https://github.com/ansforge/DRIM-M_DATA", b"https://example.fr/new")
    signed = sign_list(document, signer, authorities)
    assert judge(signed).failed[0].number == 2
    report = judge(signed, anchors=replace(anchors, other_namespaces=True))
    assert report.accepted
    assert outcome(report, 2) is Held.WARNED


def test_a_step_of_the_keeper(judge: Judge, sound: bytes) -> None:
    report = judge(sound)
    archived = report.with_step(Step(14, "archive", Held.HELD, "written"))
    assert archived.accepted
    assert archived.trusted == report.trusted
    assert archived.steps[-1].number == 14
    lost = archived.with_step(Step(14, "archive", Held.FAILED, "disk full"))
    assert not lost.accepted
    assert [step.number for step in lost.steps] == list(range(1, 15))
    assert lost.trusted is None
    assert lost.octets is None


def test_acceptance_needs_every_indispensable_step(judge: Judge, sound: bytes) -> None:
    report = judge(sound)
    for number in (2, 3, 4, 5, 6, 8, 9, 10, 13):
        assert not report.with_step(Step(number, "", Held.SKIPPED, "")).accepted
    assert not replace(report, steps=()).accepted


def test_as_dict_is_json(judge: Judge, sound: bytes) -> None:
    told = json.loads(json.dumps(judge(sound).as_dict()))
    assert told["accepted"] is True
    assert told["entries"] == 3
    assert told["signed_at"] == SIGNED_AT.isoformat()
    assert told["generated_at"] == NOW.isoformat()
    assert told["signer"]["subject"].startswith("CN=Liste Blanche DRIM-M,OU=318751275100020,")
    assert told["steps"][0] == {
        "number": 1,
        "title": "transport and size",
        "outcome": "skipped",
        "why": "read from a file",
    }
    refused = json.loads(json.dumps(judge(b"no list").as_dict()))
    assert (refused["accepted"], refused["signer"], refused["entries"]) == (False, None, None)


def test_it_never_raises_for_what_the_bytes_are(judge: Judge, sound: bytes) -> None:
    """Cut, doubled and shuffled pieces of a sound list: a verdict each time, and only the list itself accepted."""
    chance = random.Random(5)
    for _ in range(300):
        a, b = sorted(chance.sample(range(len(sound)), 2))
        piece = chance.choice([b"", sound[a:b] * 2, chance.randbytes(9), b"<a/>", b"&#x26;", b"<ds:Object/>"])
        report = judge(sound[:a] + piece + sound[b:])
        assert report.steps[-1].number == 13
        if report.accepted:  # the change was outside of what is signed
            assert report.octets == judge(sound).octets


def test_a_certificate_damaged_in_the_file(judge: Judge, sound: bytes) -> None:
    start = sound.index(b"X509Certificate>") + 16
    length = sound.index(b"<", start) - start
    chance = random.Random(7)
    for _ in range(200):
        at = start + chance.randrange(length)
        other = sound[:at] + bytes([chance.choice(b"ABCDwxyz019+/")]) + sound[at + 1 :]
        assert judge(other).accepted is (other == sound)


def test_a_list_of_four_megabytes(
    anchors: Anchors, crls: Crls, signer: Holder, authorities: Authorities
) -> None:
    signed = sign_list(large_list(), signer, authorities)
    assert len(signed) > 4_000_000
    started = datetime.now().astimezone()
    report = examine(signed, anchors, crls, at=NOW)
    taken = datetime.now().astimezone() - started
    assert report.accepted
    assert taken < timedelta(seconds=3)  # 0.3 s on a quiet machine: `drimbox bench whitelist` measures it
