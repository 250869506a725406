"""Steps 1 to 8 on signed lists: the forms accepted, and every attack of trust-and-identity 3.4 at its step."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

import pytest
from lxml import etree

from fixtures.certificates import NOW
from fixtures.list_authorities import Authorities, Holder, make_authorities, make_key, make_signer
from fixtures.whitelists import (
    DS,
    EXCLUSIVE,
    INCLUSIVE,
    INCLUSIVE_11,
    PLAIN,
    SHAPES,
    XADES,
    Form,
    Shape,
    certificate_text,
    sign_list,
    write_list,
)
from whitelist.algorithms import read_base64
from whitelist.document import TrustedList
from whitelist.signature import read_instant
from whitelist.trust import Held, Report

Judge = Callable[..., Report]
D = f"{{{DS}}}"
X = f"{{{XADES}}}"


@pytest.fixture(scope="module")
def sound(signer: Holder, authorities: Authorities) -> bytes:
    return sign_list(write_list(), signer, authorities)


def outcomes(report: Report) -> dict[int, Held]:
    return {step.number: step.outcome for step in report.steps}


class Verdict(NamedTuple):
    """What a report comes to: the first step that failed, and what of the list can be used."""

    accepted: bool
    failed: int | None
    trusted: TrustedList | None
    octets: bytes | None


def verdict(report: Report) -> Verdict:
    failed = report.failed[0].number if report.failed else None
    return Verdict(report.accepted, failed, report.trusted, report.octets)


def refused_at(step: int) -> Verdict:
    """The step failed, none before it did, and nothing of the list can be used."""
    return Verdict(accepted=False, failed=step, trusted=None, octets=None)


# --- accepted forms


@pytest.mark.parametrize("removal", ["filter2", "enveloped", "xpath"])
@pytest.mark.parametrize("canonicalization", [EXCLUSIVE, INCLUSIVE, INCLUSIVE_11])
@pytest.mark.parametrize("prefix", ["ds", "", "dsig"])
def test_forms_of_signature(
    judge: Judge, signer: Holder, authorities: Authorities, removal: str, canonicalization: str, prefix: str
) -> None:
    form = Form(removal=removal, canonicalization=canonicalization, prefix=prefix)
    report = judge(sign_list(write_list(), signer, authorities, form))
    assert report.accepted, report.failed
    assert report.signed_at == NOW - timedelta(days=1)
    assert report.trusted is not None
    assert [domain.db for domain in report.trusted.domains] == [
        f"db{number}.test.mesimagesmedicales.fr" for number in (3, 154, 156)
    ]


@pytest.mark.parametrize(
    ("method", "slot"),
    [
        ("rsa-sha256", "signer"),
        ("rsa-sha384", "signer"),
        ("rsa-sha512", "signer"),
        ("ecdsa-sha256", "p256"),
        ("ecdsa-sha384", "p384"),
        ("ecdsa-sha512", "p521"),
    ],
)
def test_methods(judge: Judge, authorities: Authorities, method: str, slot: str) -> None:
    holder = make_signer(authorities, key=make_key(slot))
    for digest in ("sha256", "sha384", "sha512"):
        report = judge(sign_list(write_list(), holder, authorities, Form(method=method, digest=digest)))
        assert report.accepted, report.failed


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_list(
    judge: Judge, anchors: object, signer: Holder, authorities: Authorities, shape: Shape
) -> None:
    root, namespace = SHAPES[shape]
    terms = replace(anchors, document_root=root, namespaces=(namespace,))  # type: ignore[type-var]
    report = judge(sign_list(write_list(shape=shape), signer, authorities), anchors=terms)
    assert report.accepted, report.failed


def test_plain_xml_signature_of_mssante(judge: Judge, signer: Holder, authorities: Authorities) -> None:
    report = judge(sign_list(write_list(), signer, authorities, PLAIN))
    assert report.accepted, report.failed
    assert outcomes(report)[7] is Held.SKIPPED
    assert report.signed_at is None


def test_transport_may_change_line_ends_and_serialisation(judge: Judge, sound: bytes) -> None:
    assert judge(sound.replace(b"\n", b"\r\n")).accepted
    assert judge(etree.tostring(etree.fromstring(sound), encoding="ISO-8859-1")).accepted
    assert judge(b"\xef\xbb\xbf" + sound).accepted


def test_base64_may_be_folded(judge: Judge, signer: Holder, authorities: Authorities) -> None:
    def fold(element: etree._Element) -> None:
        for name in ("DigestValue", "SignatureValue", "X509Certificate"):
            for found in element.iter(D + name):
                found.text = "\n  " + "\r\n\t".join(re.findall(".{1,64}", found.text or "")) + "\n"

    folded = sign_list(
        write_list(), signer, authorities, edit_info=fold, edit_properties=fold, edit_signature=fold_key_info
    )
    assert judge(folded).accepted


def fold_key_info(signature: etree._Element) -> None:
    for name in ("SignatureValue", "X509Certificate"):
        for found in signature.iter(D + name):
            found.text = "\n".join(re.findall(".{1,64}", found.text or ""))


@pytest.mark.parametrize("where", ["156</Identifiant>", "SigningTime>2026", "DigestValue>"])
def test_a_comment_hides_nothing(judge: Judge, sound: bytes, where: str) -> None:
    """C14N drops comments, so the signature holds: the full value is read, as it was digested."""
    at = sound.index(where.encode()) + where.index(">" if "</" not in where else "6") + ("</" not in where)
    report = judge(sound[:at] + b"<!-- x -->" + sound[at:])
    assert report.accepted, report.failed
    assert report.trusted is not None
    assert report.trusted.domains[2].identifier == "156"


def test_order_of_certificates_is_free(judge: Judge, signer: Holder, authorities: Authorities) -> None:
    def reverse(signature: etree._Element) -> None:
        data = next(signature.iter(D + "X509Data"))
        data[:] = list(reversed(data))

    assert judge(sign_list(write_list(), signer, authorities, edit_signature=reverse)).accepted


# --- attacks on the bytes of a sound list

BOMB = b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
SECOND = b'<s:Signature xmlns:s="http://www.w3.org/2000/09/xmldsig#"><Domaine><db>evil.fr</db></Domaine></s:Signature>'
END = b"</ListeBlancheDRIM-M>"


def before(mark: bytes, inserted: bytes) -> Callable[[bytes], bytes]:
    return lambda sound: sound.replace(mark, inserted + mark, 1)


def instead(mark: bytes, other: bytes) -> Callable[[bytes], bytes]:
    return lambda sound: sound.replace(mark, other, 1)


def moved_signature(sound: bytes) -> bytes:
    start, end = sound.index(b"<ds:Signature "), sound.index(END)
    return sound[:start].replace(b"</ListeDomaines>", sound[start:end] + b"</ListeDomaines>") + sound[end:]


def unsigned(sound: bytes) -> bytes:
    return sound[: sound.index(b"<ds:Signature ")] + END


def pretty(sound: bytes) -> bytes:
    parser = etree.XMLParser(remove_blank_text=True)
    return etree.tostring(etree.fromstring(sound, parser), pretty_print=True)


def loose_bits(sound: bytes) -> bytes:
    """Another last character of the base64, for the same octets."""
    return re.sub(rb"([AQgw])==(?=</ds:SignatureValue>)", lambda m: bytes([m[1][0] + 1]) + b"==", sound)


def without_prolog(sound: bytes) -> bytes:
    return sound[sound.index(b"?>") + 2 :]


BYTES: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "empty": (lambda sound: b"", 1),
    "too large": (lambda sound: sound + b" " * (10 * 1024 * 1024), 1),
    "truncated": (lambda sound: sound[:-200], 2),
    "html": (lambda sound: b"<html><body>Service unavailable</body></html>", 2),
    "no xml": (lambda sound: b"503 Service Unavailable", 2),
    "zeros": (lambda sound: b"\0" * 100, 2),
    "doctype": (before(b"<ListeBlanche", b"<!DOCTYPE ListeBlancheDRIM-M>"), 2),
    "entity bomb": (before(b"<ListeBlanche", BOMB), 2),
    "utf-16": (lambda sound: without_prolog(sound).decode().encode("utf-16"), 2),
    "utf-7 hides a doctype": (
        lambda sound: b'<?xml version="1.0" encoding="UTF-7"?>+ADwAIQ-DOCTYPE a>' + without_prolog(sound), 2,
    ),
    "strange encoding": (instead(b"encoding='UTF-8'", b"encoding='EBCDIC-CP-FR'"), 2),
    "encoding unread": (instead(b"encoding='UTF-8'", b"encoding='UTF 8'"), 2),
    "deep": (before(END, b"<a>" * 30 + b"</a>" * 30), 2),
    "very deep": (before(END, b"<a>" * 100_000 + b"</a>" * 100_000), 2),
    "attributes": (before(END, b"<a " + b" ".join(b'a%d=""' % n for n in range(65)) + b"/>"), 2),
    "namespaces": (before(END, b"<a " + b" ".join(b'xmlns:a%d="u:%d"' % (n, n) for n in range(20)) + b"/>"), 2),
    "wrapped in a root": (lambda sound: b"<Other>" + without_prolog(sound) + b"</Other>", 2),
    "wrapped in the same root": (
        lambda sound: b'<ListeBlancheDRIM-M xmlns="https://github.com/ansforge/DRIM-M_DATA">'
        + without_prolog(sound) + END, 3,
    ),
    "other namespace": (instead(b'"https://github.com/ansforge/DRIM-M_DATA"', b'"https://example.fr"'), 2),
    "relative namespace": (instead(b"<ListeDomaines>", b'<ListeDomaines xmlns:r="r">'), 6),
    "second signature": (before(END, SECOND), 3),
    "second signature before": (before(b"<ds:Signature ", SECOND), 3),
    "signature in the signature": (before(b"</ds:Signature>", b"<ds:Object>" + SECOND + b"</ds:Object>"), 3),
    "moved signature": (moved_signature, 3),
    "unsigned": (unsigned, 3),
    "second SignedInfo": (before(b"<ds:SignatureValue", b"<ds:SignedInfo/>"), 4),
    "foreign child": (before(b"<ds:SignatureValue", b"<ds:Manifest/>"), 4),
    "second KeyInfo": (before(b"<ds:KeyInfo", b"<ds:KeyInfo/>"), 4),
    "one host changed": (instead(b"<db>db154.", b"<db>db155."), 6),
    "one entry more": (before(b"</ListeDomaines>", b"<Domaine><db>evil.fr</db></Domaine>"), 6),
    "instruction in the document": (before(b"</ListeDomaines>", b"<?x y?>"), 6),
    "instruction before the root": (before(b"<ListeBlanche", b"<?x y?>"), 6),
    "text after the signature": (before(END, b"x"), 6),
    "pretty-printed": (pretty, 6),
    "later SigningTime": (instead(b"SigningTime>2026-09", b"SigningTime>2026-10"), 7),
    "properties of another signature": (instead(b'Target="#id-1"', b'Target="#id-2"'), 7),
    "duplicate Id": (before(b"</ds:Signature>", b'<ds:Object Id="xades-id-1"/>'), 7),
    "duplicate xml:id": (before(b"</ds:Signature>", b'<ds:Object xml:id="r-id-1-1"/>'), 7),
    "second SignedProperties": (
        before(
            b"</ds:Signature>",
            b'<ds:Object><x:SignedProperties xmlns:x="http://uri.etsi.org/01903/v1.3.2#" Id="z"/></ds:Object>',
        ), 7,
    ),
    "no SignedProperties": (lambda sound: re.sub(rb"<ds:Object>.*</ds:Object>", b"", sound), 7),
    "another digest": (lambda sound: re.sub(rb"(<ds:DigestValue>)....", rb"\1AAAA", sound, count=1), 6),
    "another value": (lambda sound: re.sub(rb'(value-id-1">)....', rb"\1AAAA", sound), 8),
    "value with loose bits": (loose_bits, 8),
    "value is no base64": (lambda sound: re.sub(rb'(value-id-1">)....', rb"\1A*A=", sound), 8),
    "value is empty": (lambda sound: re.sub(rb'(value-id-1">)[^<]*', rb"\1", sound), 8),
}  # fmt: skip


@pytest.mark.parametrize("name", BYTES)
def test_attacks_on_the_bytes(judge: Judge, sound: bytes, name: str) -> None:
    attack, step = BYTES[name]
    candidate = attack(sound)
    assert candidate != sound
    assert verdict(judge(candidate)) == refused_at(step)


# --- signatures that are mathematically right over something refused


def attribute(path: str, name: str, value: str | None) -> Callable[[etree._Element], None]:
    def edit(element: etree._Element) -> None:
        found = element.findall(path)[0]
        if value is None:
            del found.attrib[name]
        else:
            found.set(name, value)

    return edit


def inside(path: str, xml: str, index: int = 0) -> Callable[[etree._Element], None]:
    def edit(element: etree._Element) -> None:
        element.findall(path)[0].insert(index, etree.fromstring(xml))

    return edit


def remove(path: str) -> Callable[[etree._Element], None]:
    def edit(element: etree._Element) -> None:
        found = element.findall(path)[0]
        parent = found.getparent()
        assert parent is not None
        parent.remove(found)

    return edit


def text(path: str, value: str) -> Callable[[etree._Element], None]:
    def edit(element: etree._Element) -> None:
        element.findall(path)[0].text = value

    return edit


def another_reference(uri: str) -> Callable[[etree._Element], None]:
    def edit(info: etree._Element) -> None:
        copy = etree.fromstring(etree.tostring(info.findall(D + "Reference")[0]))
        copy.set("URI", uri)
        info.append(copy)

    return edit


TRANSFORM = f"{D}Reference/{D}Transforms/{D}Transform"
REFERENCE, METHOD = D + "Reference", D + "SignatureMethod"
FIRST_TRANSFORMS = f"{D}Reference/{D}Transforms"
FILTER = f"{TRANSFORM}/{{http://www.w3.org/2002/06/xmldsig-filter2}}XPath"
XSLT = f'<Transform xmlns="{DS}" Algorithm="http://www.w3.org/TR/1999/REC-xslt-19991116"/>'
INCLUSIVES = f'<InclusiveNamespaces xmlns="{EXCLUSIVE}" PrefixList="xades"/>'
LENGTH = f'<HMACOutputLength xmlns="{DS}">8</HMACOutputLength>'


def inclusive_namespaces(info: etree._Element) -> None:
    info.findall(TRANSFORM)[1].append(etree.fromstring(INCLUSIVES))


INFO: dict[str, tuple[Callable[[etree._Element], None], int]] = {
    "C14N with comments": (attribute(D + "CanonicalizationMethod", "Algorithm", EXCLUSIVE + "WithComments"), 4),
    "C14N with parameters": (inside(D + "CanonicalizationMethod", INCLUSIVES), 4),
    "method with parameters": (inside(METHOD, LENGTH), 4),
    "unknown method": (attribute(METHOD, "Algorithm", "http://www.w3.org/2007/05/xmldsig-more#rsa-pss"), 4),
    "MD5 digest": (
        attribute(
            f"{D}Reference/{D}DigestMethod", "Algorithm", "http://www.w3.org/2001/04/xmldsig-more#md5"
        ), 4,
    ),
    "reference to another element": (attribute(REFERENCE, "URI", "#r-id-1-1"), 4),
    "reference to a file": (attribute(REFERENCE, "URI", "file:///etc/passwd"), 4),
    "reference to the web": (attribute(REFERENCE, "URI", "http://example.fr/"), 4),
    "reference by XPointer": (attribute(REFERENCE, "URI", "#xpointer(/)"), 4),
    "reference without URI": (attribute(REFERENCE, "URI", None), 4),
    "reference of a type": (attribute(REFERENCE, "Type", DS + "Object"), 4),
    "extra reference": (another_reference("#value-id-1"), 4),
    "document referenced twice": (another_reference(""), 4),
    "no reference to the document": (remove(REFERENCE), 4),
    "no DigestMethod": (remove(f"{D}Reference/{D}DigestMethod"), 4),
    "foreign transform first": (inside(FIRST_TRANSFORMS, XSLT), 5),
    "foreign transform last": (inside(FIRST_TRANSFORMS, XSLT, 2), 5),
    "base64 transform": (attribute(TRANSFORM, "Algorithm", DS + "base64"), 5),
    "no canonicalization": (remove(TRANSFORM), 5),
    "inclusive namespaces": (inclusive_namespaces, 5),
    "filter intersects": (attribute(FILTER, "Filter", "intersect"), 5),
    "filter has more attributes": (attribute(FILTER, "Other", "x"), 5),
    "filter of another path": (text(FILTER, "/descendant::ds:Signature[1]"), 5),
    "filter of entries": (text(FILTER, "//*[local-name()='Domaine'][4]"), 5),
    "filter of two paths": (text(FILTER, "/descendant::ds:Signature | //ds:Object"), 5),
    "filter of another prefix": (text(FILTER, "/descendant::f:Signature"), 5),
    "filter of no prefix": (text(FILTER, "/descendant::none:Signature"), 5),
    "filter with an element": (inside(FILTER, "<a/>"), 5),
    "two filters": (
        inside(
            f"{TRANSFORM}",
            '<XPath xmlns="http://www.w3.org/2002/06/xmldsig-filter2" Filter="subtract">//Domaine</XPath>',
        ), 5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INFO)
def test_attacks_in_signed_info(judge: Judge, signer: Holder, authorities: Authorities, name: str) -> None:
    edit, step = INFO[name]
    assert verdict(judge(sign_list(write_list(), signer, authorities, edit_info=edit))) == refused_at(step)


@pytest.mark.parametrize(
    "form",
    [Form(digest="sha1"), Form(method="rsa-sha1"), Form(method="hmac-sha256"), Form(method="hmac-sha1")],
    ids=["digest", "rsa", "hmac", "hmac-sha1"],
)
def test_weak_algorithms(judge: Judge, signer: Holder, authorities: Authorities, form: Form) -> None:
    report = judge(sign_list(write_list(), signer, authorities, form))
    assert verdict(report) == refused_at(4)
    skipped = 6 if form.digest == "sha1" else 8
    assert outcomes(report)[skipped] is Held.SKIPPED


def test_xpath_must_remove_the_signature(judge: Judge, signer: Holder, authorities: Authorities) -> None:
    for other in (
        "not(ancestor-or-self::ds:Object)",
        "true()",
        "not(ancestor-or-self::ds:Signature) or true()",
    ):
        edit = text(f"{TRANSFORM}/{D}XPath", other)
        form = Form(removal="xpath")
        assert verdict(
            judge(sign_list(write_list(), signer, authorities, form, edit_info=edit))
        ) == refused_at(5)


CERT = f".//{X}SigningCertificateV2"
PROPERTIES: dict[str, Callable[[etree._Element], None]] = {
    "signed in the future": text(f".//{X}SigningTime", "2026-10-01T12:05:01Z"),
    "no time zone": text(f".//{X}SigningTime", "2026-09-17T08:27:36"),
    "impossible date": text(f".//{X}SigningTime", "2026-02-30T08:27:36Z"),
    "no SigningTime": remove(f".//{X}SigningTime"),
    "no SigningCertificateV2": remove(CERT),
    "another certificate": text(f"{CERT}//{D}DigestValue", base64.b64encode(b"x" * 64).decode()),
    "certificate by SHA-1": attribute(f"{CERT}//{D}DigestMethod", "Algorithm", DS + "sha1"),
    "another Id": attribute(".", "Id", "other"),
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_attacks_in_signed_properties(
    judge: Judge, signer: Holder, authorities: Authorities, name: str
) -> None:
    signed = sign_list(write_list(), signer, authorities, edit_properties=PROPERTIES[name])
    assert verdict(judge(signed)) == refused_at(7)


def test_clock_skew_is_tolerated(judge: Judge, signer: Holder, authorities: Authorities) -> None:
    signed = sign_list(write_list(), signer, authorities, signed_at=NOW + timedelta(minutes=5))
    assert judge(signed).accepted


def test_properties_may_not_be_unsigned(judge: Judge, signer: Holder, authorities: Authorities) -> None:
    """A XAdES signature whose reference to SignedProperties is missing is no plain XML-DSig."""
    edit = remove(f"{D}Reference[2]")
    assert verdict(judge(sign_list(write_list(), signer, authorities, edit_info=edit))) == refused_at(7)


def test_properties_elsewhere_in_the_document(judge: Judge, sound: bytes) -> None:
    moved = re.search(rb"<xades:Qualifying.*</xades:QualifyingProperties>", sound)
    assert moved is not None
    declared = moved[0].replace(b" Target", b' xmlns:ds="http://www.w3.org/2000/09/xmldsig#" Target', 1)
    elsewhere = sound.replace(moved[0], b"").replace(b"<ds:Signature ", declared + b"<ds:Signature ", 1)
    report = judge(elsewhere)
    assert {6, 7} <= {step.number for step in report.failed}


# --- the key


def test_no_certificate_in_the_file(judge: Judge, signer: Holder, authorities: Authorities) -> None:
    report = judge(sign_list(write_list(), signer, authorities, Form(carried="none")))
    assert [step.number for step in report.failed] == [7, 8]
    assert outcomes(report)[9] is Held.SKIPPED


def test_a_key_value_is_never_used(judge: Judge, signer: Holder, authorities: Authorities) -> None:
    numbers = signer.key.public_key().public_numbers()
    values = [
        base64.b64encode(n.to_bytes((n.bit_length() + 7) // 8, "big")).decode()
        for n in (numbers.n, numbers.e)  # type: ignore[union-attr]
    ]
    key_value = (
        f'<KeyValue xmlns="{DS}"><RSAKeyValue><Modulus>{values[0]}</Modulus>'
        f"<Exponent>{values[1]}</Exponent></RSAKeyValue></KeyValue>"
    )
    form = replace(PLAIN, carried="none", prefix="ds")
    edit = inside(D + "KeyInfo", key_value)
    assert verdict(
        judge(sign_list(write_list(), signer, authorities, form, edit_signature=edit))
    ) == refused_at(8)


def test_a_certificate_that_cannot_be_read(judge: Judge, signer: Holder, authorities: Authorities) -> None:
    for value in ("AAAA", "", "no base64", certificate_text(signer.certificate)[:400]):
        edit = text(f".//{D}X509Certificate", value)
        form = replace(PLAIN, carried="leaf")
        report = judge(sign_list(write_list(), signer, authorities, form, edit_signature=edit))
        assert verdict(report) == refused_at(8)


def test_another_leaf_with_the_same_name(judge: Judge, signer: Holder, authorities: Authorities) -> None:
    """The certificate of KeyInfo replaced by another one of the same authority."""
    other = make_signer(authorities, key=make_key("other"))
    edit = text(f".//{D}X509Certificate", certificate_text(other.certificate))
    report = judge(sign_list(write_list(), signer, authorities, edit_signature=edit))
    assert {7, 8} <= {step.number for step in report.failed}


@pytest.mark.parametrize(
    ("slot", "method"),
    [
        ("rsa-1024", "rsa-sha256"),
        ("p224", "ecdsa-sha256"),
        ("signer", "ecdsa-sha256"),
        ("p256", "rsa-sha256"),
    ],
)
def test_key_and_method_must_fit(judge: Judge, authorities: Authorities, slot: str, method: str) -> None:
    holder = make_signer(authorities, key=make_key(slot))
    assert verdict(judge(sign_list(write_list(), holder, authorities, Form(method=method)))) == refused_at(8)


def test_ecdsa_value_is_raw(judge: Judge, authorities: Authorities) -> None:
    """A DER value (as X9.62 has it) is not what XML-DSig says."""
    holder = make_signer(authorities, key=make_key("p256"))
    edit = text(D + "SignatureValue", base64.b64encode(b"\x30\x45" + b"\1" * 69).decode())
    signed = sign_list(write_list(), holder, authorities, Form(method="ecdsa-sha256"), edit_signature=edit)
    assert verdict(judge(signed)) == refused_at(8)


def test_authorities_of_the_file_are_not_trusted(judge: Judge) -> None:
    """A whole chain of the same names, with other keys, carried by the file."""
    false = make_authorities("false")
    assert verdict(judge(sign_list(write_list(), make_signer(false), false))) == refused_at(9)


# --- small readers


@pytest.mark.parametrize("encoded", ["QQ==", "Q Q=\n=", "", "/+8="])
def test_base64_read(encoded: str) -> None:
    assert read_base64(encoded) is not None


@pytest.mark.parametrize("encoded", ["QR==", "QQ=", "QQ", "Q-==", "QQ==QQ==", "é===", "QQ==\u00a0"])
def test_base64_refused(encoded: str) -> None:
    assert read_base64(encoded) is None


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-09-17T08:27:36Z", True),
        ("2026-09-17T08:27:36.123+02:00", True),
        ("2026-09-17", False),
        ("20260917T082736Z", False),
        ("2026-09-17T25:27:36Z", False),
        ("-2026-09-17T08:27:36Z", False),
        ("", False),
    ],
)
def test_instants(written: str, read: bool) -> None:
    found = read_instant(written)
    assert (found is not None) is read
    assert not read or (isinstance(found, datetime) and found.tzinfo is not None)
