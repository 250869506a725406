"""One lot of an archive: what is tolerated, what refuses it, and every reason at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from drimbox.domain.identifiers import Identifier, Ins
from drimbox.domain.vihf import AUTOMATE, Role
from drimbox.domain.violations import Violation
from drimbox.domain.xds import vocabulary as v
from drimbox.domain.xds.rules import LotRefused
from drimbox.domain.xds.xdm_documents import hash_agrees, is_redacted
from drimbox.domain.xds.xdm_reader import ImportedLot, LotFiles, read_archived, read_reference
from drimbox.domain.xds.xdm_request import lone_request, open_metadata
from drimbox.domain.xml_input import UnreadableXml
from fixtures.archives import DEPRECATED, LotSpec, make_kos, make_lot, make_request, make_signature

SPEC = LotSpec()
ENVELOPE = """<?xml version="1.0" encoding="UTF-8"?>
<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Header>{header}</s:Header><s:Body>
<x:ProvideAndRegisterDocumentSetRequest xmlns:x="urn:ihe:iti:xds-b:2007">{request}
</x:ProvideAndRegisterDocumentSetRequest></s:Body></s:Envelope>"""
ASSERTION = """<a:Assertion xmlns:a="urn:oasis:names:tc:SAML:2.0:assertion"><a:Subject><a:NameID>899900000042</a:NameID>
</a:Subject><a:AttributeStatement>
<a:Attribute Name="Secteur_Activite"><a:AttributeValue>SA25^1.2.250.1.71.4.2.4</a:AttributeValue></a:Attribute>
<a:Attribute Name="urn:oasis:names:tc:xspa:1.0:subject:subject-id"><a:AttributeValue>Dominique ESSAI</a:AttributeValue>
</a:Attribute><a:Attribute Name="Identifiant_Structure"><a:AttributeValue>1999999999</a:AttributeValue></a:Attribute>
<a:Attribute Name="urn:oasis:names:tc:xacml:2.0:resource:resource-id"><a:AttributeValue>{patient}</a:AttributeValue>
</a:Attribute><a:Attribute Name="urn:oasis:names:tc:xacml:2.0:subject:role">
<a:AttributeValue><Role xmlns="urn:hl7-org:v3" code="10" codeSystem="1.2.250.1.71.1.2.7" displayName="Medecin"/>
</a:AttributeValue><a:AttributeValue><Role xmlns="urn:hl7-org:v3" code="SM44" codeSystem="1.2.250.1.71.4.2.5"
 displayName="Radio-diagnostic"/></a:AttributeValue></a:Attribute></a:AttributeStatement></a:Assertion>"""


def found(
    files: dict[str, bytes] | None = None, *, order: int = 0, faults: tuple[Violation, ...] = ()
) -> LotFiles:
    return LotFiles("KA202609/IHE_XDM/SS000001", order, make_lot(SPEC) if files is None else files, faults)


def read(files: dict[str, bytes] | None = None, **changes: Any) -> ImportedLot:
    return read_archived(found(files, **changes), time_zone="Europe/Paris", sector="SA08")


def edited(name: str, change: Callable[[bytes], bytes]) -> dict[str, bytes]:
    files = make_lot(SPEC)
    changed = change(files[name])
    assert changed != files[name]
    return files | {name: changed}


def without(*names: str) -> dict[str, bytes]:
    return {name: data for name, data in make_lot(SPEC).items() if name not in names}


def refusal(files: dict[str, bytes], **changes: Any) -> set[str]:
    with pytest.raises(LotRefused) as caught:
        read(files, **changes)
    assert SPEC.ins not in str(caught.value), "no identity in what is shown and traced"
    return {violation.rule for violation in caught.value.violations}


def warnings(lot: ImportedLot) -> set[str]:
    return {warning.rule for warning in lot.warnings}


def test_a_lot_as_it_should_be() -> None:
    lot = read(order=7)
    assert (lot.kos_uid, lot.submission_set_uid, lot.signature_uid) == (
        SPEC.kos_uid,
        SPEC.set_uid,
        SPEC.signature_uid,
    )
    assert (lot.study_instance_uid, lot.instances, lot.ins) == (SPEC.study, 2, Ins(SPEC.ins, SPEC.ins_oid))
    assert lot.created == datetime(2026, 9, 14, 8, 15, 30, 7, tzinfo=UTC)
    assert (lot.entry_uuid, lot.status, lot.replaces, lot.warnings) == (SPEC.entry_uuid, "", None, ())
    assert lot.report_id == Identifier("1.2.250.1.999.7.9.1")
    assert (lot.kos, lot.metadata) == (make_lot(SPEC)["KOS_1_1.DCM"], make_lot(SPEC)["METADATA.XML"])


def test_status_and_replaced_entry_are_read() -> None:
    spec = replace(SPEC, status=DEPRECATED, replaces=LotSpec(number=9).entry_uuid)
    lot = read(make_lot(spec))
    assert (lot.status, lot.replaces) == (v.DEPRECATED, LotSpec(number=9).entry_uuid)


def test_an_entry_uuid_that_is_none_is_left_out_and_a_bare_one_gets_its_prefix() -> None:
    bare = SPEC.entry_uuid.removeprefix("urn:uuid:").upper()
    for written, expected in ((bare, SPEC.entry_uuid), ("80", None)):
        files = edited(
            "METADATA.XML", lambda data, w=written: data.replace(SPEC.entry_uuid.encode(), w.encode())
        )  # type: ignore[misc]
        assert read(files).entry_uuid == expected


# -- how it may be written


def undeclared(data: bytes) -> bytes:
    """As the ANS published it: a blank line, no declaration, prefix and default namespace unknown."""
    text = data.partition(b"?>")[2].replace(b"lcm:", b"ns3:")
    return b"\r\n" + re.sub(rb' xmlns(:lcm|:ns3)?="[^"]*"', b"", text, count=2)


def test_undeclared_prefixes_are_declared_and_said() -> None:
    files = edited("METADATA.XML", undeclared)
    assert b"xmlns" not in files["METADATA.XML"]
    lot = read(files)
    assert warnings(lot) == {"metadata-repaired"}
    assert lot.metadata == files["METADATA.XML"], "kept as it was found"
    assert (lot.kos_uid, lot.entry_uuid) == (SPEC.kos_uid, SPEC.entry_uuid)


def test_an_undeclared_default_namespace_alone_is_declared_too() -> None:
    def cut(data: bytes) -> bytes:
        return data.replace(f' xmlns="{v.RIM}"'.encode(), b"")

    assert warnings(read(edited("METADATA.XML", cut))) == {"metadata-repaired"}


def enveloped(data: bytes, header: str = "") -> bytes:
    request = data.decode().partition("?>")[2]
    return ENVELOPE.format(header=header, request=request).encode()


def test_a_whole_envelope_is_as_good_as_a_bare_request() -> None:
    files = edited("METADATA.XML", enveloped)
    assert replace(read(files), metadata=b"") == replace(read(), metadata=b"")
    alone = lone_request(files["METADATA.XML"])
    assert (alone.tag, sorted(alone.nsmap.values())) == (f"{{{v.LCM}}}SubmitObjectsRequest", [v.LCM, v.RIM])


def test_the_order_of_slots_does_not_matter() -> None:
    def last(data: bytes) -> bytes:
        slots = re.search(rb'<Slot name="creationTime">.*?</Slot>', data)
        assert slots is not None
        return data.replace(slots[0], b"", 1).replace(
            b"</ExtrinsicObject>", slots[0] + b"</ExtrinsicObject>", 1
        )

    assert read(edited("METADATA.XML", last)).kos_uid == SPEC.kos_uid


def test_a_missing_signature_and_a_missing_report_are_said() -> None:
    lot = read(without("SIGN_1.XML", "CR.TXT"))
    assert warnings(lot) == {"signature-missing", "report-missing"}
    assert (lot.signature, lot.report_id, lot.reference) == (None, None, None)


@pytest.mark.parametrize("uri", ["", "KOS_1_1.DCM", "OTHER/KOS_9_9.DCM", "IHE_XDM/SS000001/kos_1_1.dcm"])
def test_the_file_is_found_whatever_folder_the_uri_names(uri: str) -> None:
    files = edited("METADATA.XML", lambda data: data.replace(b"SS000001/KOS_1_1.DCM", uri.encode()))
    assert read(files).kos == files["KOS_1_1.DCM"]


def test_of_several_manifests_the_one_with_the_hash_is_taken() -> None:
    files = edited("METADATA.XML", lambda data: data.replace(b"SS000001/KOS_1_1.DCM", b""))
    other = make_kos(LotSpec(number=2))
    assert read(files | {"KOS_0_1.DCM": other}).kos == files["KOS_1_1.DCM"]
    assert refusal(files | {"KOS_1_1.DCM": other, "KOS_0_1.DCM": other}) == {"document"}


def test_a_hash_in_base64_or_in_capitals_is_understood() -> None:
    assert hash_agrees("A9993E364706816ABA3E25717850C26C9CD0D89D", b"abc")
    assert hash_agrees(" qZk+NkcGgWq6PiVxeFDCbJzQ2J0 ", b"abc")
    assert not hash_agrees("qZk+NkcGgWq6PiVxeFDCbJzQ2J0=", b"abd")
    assert not hash_agrees("", b"")


def test_a_redacted_signature_is_said_and_not_compared() -> None:
    def blank(data: bytes) -> bytes:
        return re.sub(rb"(<X509Certificate>)[^<]*", rb"\1XXXXX", data)

    files = edited("SIGN_1.XML", blank)
    assert is_redacted(files["SIGN_1.XML"])
    assert not is_redacted(make_lot(SPEC)["SIGN_1.XML"])
    assert not is_redacted(b"<a")
    assert warnings(read(files)) == {"signature-redacted"}


def test_a_report_reference_of_four_fields_has_no_ipp() -> None:
    assert read_reference(b"\xef\xbb\xbf1.2;a;1;2\r\n").ipp is None
    assert read_reference(b"1.2;a;1;2;IPP;1.3").ipp == Identifier("1.3", "IPP")


# -- under whom it was published


def test_the_identity_comes_from_the_metadata() -> None:
    vihf = read().vihf
    assert (vihf.name_id, vihf.subject_name, vihf.structure_id, vihf.sector, vihf.profession) == (
        "899900000019", "Camille ESSAI", "1999999999", "SA08", AUTOMATE,
    )  # fmt: skip
    assert vihf.patient == SPEC.patient_id


def test_the_specialty_of_an_author_gives_the_roles() -> None:
    institution = b'<Slot name="authorInstitution">'
    specialty = (
        '<Slot name="authorSpecialty"><ValueList><Value>G15_10/SM44^Médecin - Radio-diagnostic (SM)^'
        "1.2.250.1.213.1.1.4.5</Value></ValueList></Slot>"
    ).encode()
    vihf = read(edited("METADATA.XML", lambda data: data.replace(institution, specialty + institution))).vihf
    assert (vihf.profession.code, vihf.know_how) == ("10", Role("SM44", v.TRE_R01, "Radio-diagnostic (SM)"))


def test_the_assertion_of_the_envelope_says_it_better() -> None:
    header = ASSERTION.format(patient=SPEC.patient_id.replace("&", "&amp;"))
    vihf = read(edited("METADATA.XML", lambda data: enveloped(data, header))).vihf
    assert (vihf.name_id, vihf.subject_name, vihf.structure_id, vihf.sector) == (
        "899900000042", "Dominique ESSAI", "1999999999", "SA25",
    )  # fmt: skip
    assert (vihf.profession.code, vihf.know_how.code if vihf.know_how else "") == ("10", "SM44")


def test_an_assertion_of_another_patient_refuses_the_lot() -> None:
    header = ASSERTION.format(patient="1")
    assert refusal(edited("METADATA.XML", lambda data: enveloped(data, header))) == {"vihf-patient"}


# -- what refuses it


def test_every_reason_is_given_at_once() -> None:
    broken = edited("METADATA.XML", lambda data: data.replace(b"Value>5", b"Value>6").replace(
        f'value="{SPEC.set_uid}"'.encode(), b'value="x"'))  # fmt: skip
    broken["CR.TXT"] = b"1.2;3;123456789012345;1.2.250.1.213.1.4.10"
    broken["KOS_1_1.DCM"] = make_kos(replace(SPEC, number=5))
    rules = refusal(broken, faults=(Violation("symlink", "a link"),))
    assert {"symlink", "unique-id", "kos-uid", "kos-digest", "signature-content", "patient"} <= rules


@pytest.mark.parametrize(
    ("files", "rule"),
    [
        (without("METADATA.XML"), "metadata-missing"),
        (without("KOS_1_1.DCM"), "document"),
        (edited("METADATA.XML", lambda data: data[:-9]), "metadata-unreadable"),
        (edited("METADATA.XML", lambda _: b"<a/>"), "metadata-unreadable"),
        (edited("METADATA.XML", lambda data: data.replace(b"RegistryPackage", b"Other")), "metadata-unreadable"),
        (
            edited("METADATA.XML", lambda data: data.replace(b"?>", b'?><!DOCTYPE a SYSTEM "file:///etc/passwd">')),
            "metadata-unreadable",
        ),
        (edited("METADATA.XML", lambda data: data.replace(b"application/dicom", b"text/xml")), "entries"),
        (edited("METADATA.XML", lambda data: data.replace(b"text/xml", b"application/pdf")), "entries"),
        (edited("METADATA.XML", lambda data: data.replace(b"SS000001/KOS", b"../SS000001/KOS")), "uri"),
        (edited("METADATA.XML", lambda data: data.replace(b"SS000001/KOS", b"/etc/KOS")), "uri"),
        (edited("METADATA.XML", lambda data: data.replace(b"SS000001/KOS", b"C:\\KOS")), "uri"),
        (edited("KOS_1_1.DCM", lambda data: data + b"\0\0"), "kos-digest"),
        (edited("KOS_1_1.DCM", lambda _: b"no manifest"), "kos-unreadable"),
        (edited("SIGN_1.XML", lambda data: data.replace(b"<Object>", b"<Object >")), "signature-digest"),
        (edited("SIGN_1.XML", lambda _: make_signature(SPEC, b"other")), "signature-content"),
        (edited("SIGN_1.XML", lambda _: b"<Signature/>"), "signature-content"),
        (edited("SIGN_1.XML", lambda _: b"<Signature"), "signature-content"),
        (edited("CR.TXT", lambda data: data.replace(SPEC.ins.encode(), b"162018885045327")), "patient"),
        (edited("CR.TXT", lambda _: b"nothing"), "report-unreadable"),
        (edited("CR.TXT", lambda _: b"\xff;;;"), "report-unreadable"),
        (edited("METADATA.XML", lambda data: data.replace(SPEC.ins.encode(), b"162018885045327", 1)), "patient"),
        (edited("METADATA.XML", lambda data: data.replace(SPEC.ins.encode(), b"162018885045328")), "ins"),
        (edited("METADATA.XML", lambda data: data.replace(b"1.2.250.1.999.1.901^", b"1.2.3^")), "study"),
        (make_lot(replace(SPEC, status="urn:oasis:names:tc:ebxml-regrep:StatusType:Submitted")), "status"),
        (make_lot(replace(SPEC, person="")), "vihf-field"),
        (make_lot(replace(SPEC, structure="")), "vihf-field"),
        (edited("METADATA.XML", lambda data: data.replace(SPEC.signature_uid.encode(), b"2.25.x")), "unique-id"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(files: dict[str, bytes], rule: str) -> None:
    assert rule in refusal(files)


def test_two_requests_in_one_file_are_refused() -> None:
    kos = make_kos(SPEC)
    request = make_request(SPEC, kos, make_signature(SPEC, kos))
    with pytest.raises(UnreadableXml, match="2 SubmitObjectsRequest"):
        open_metadata(b"<both>" + request + request + b"</both>")
