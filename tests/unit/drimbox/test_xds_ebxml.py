"""Lot to XML and back: strict order out, lenient order in."""

from __future__ import annotations

import pytest
from lxml import etree

from drimbox.domain.xds import vocabulary as v
from drimbox.domain.xds.ebxml import rim, submit_objects_request
from drimbox.domain.xds.ebxml_reader import MAX_REQUEST_BYTES, NotALot, read_entry, read_lot
from drimbox.domain.xds.metadata import Association, Author, Coded, DocumentEntry, Lot, SubmissionSet
from drimbox.domain.xds.requests import get_documents_request, provide_and_register_request

AUTHOR = Author("id^name^given", ("structure",), ("role",), ("G15_10/SM44^label^1.2.3",))


def a_lot() -> Lot:
    entry = DocumentEntry(
        id="DocumentKOS",
        mime_type="application/dicom",
        unique_id="2.25.1",
        patient_id="1^^^&1.2&ISO^NH",
        creation_time="20260928",
        language_code="fr-FR",
        legal_authenticator="a<b>&c",
        service_start_time="20260928",
        service_stop_time="20260929",
        source_patient_id="2^^^&1.2&ISO^PI",
        source_patient_info=("PID-5|É^è^^^^^L", "PID-8|F"),
        hash="0" * 40,
        size=12,
        uri="SS000001/KOS_1_1.DCM",
        reference_id_list=("x^^^&1.2&ISO^t", "y^^^^t"),
        title='Titre « à » "guillemets" & <balises>',
        comments="KOS",
        authors=(AUTHOR,),
        class_code=Coded("31", "1.2", "Imagerie médicale"),
        type_code=Coded("IMG-KOS", "1.2", "x"),
        confidentiality_codes=(Coded("N", "1.2", "Normal"), Coded("MASQUE_PS", "1.3", "Masqué")),
        format_code=Coded("f", "1.2", "x"),
        healthcare_facility_type_code=Coded("SA08", "1.2", "x"),
        practice_setting_code=Coded("AMBULATOIRE", "1.2", "x"),
        event_codes=(Coded("774007", "1.2", "x"), Coded("CT", "1.3", "y")),
    )
    submission = SubmissionSet(
        id="SubmissionSet01",
        unique_id="2.25.2",
        source_id="1.2.3",
        patient_id="1^^^&1.2&ISO^NH",
        submission_time="20260928071530",
        title="t",
        comments="c",
        authors=(AUTHOR,),
        content_type_code=Coded("07", "1.2", "x"),
    )
    link = Association(
        "A1", v.HAS_MEMBER, "SubmissionSet01", "DocumentKOS", (("SubmissionSetStatus", "Original"),)
    )
    return Lot(submission, (entry,), (link,))


def test_what_is_written_is_read_back() -> None:
    assert read_lot(submit_objects_request(a_lot())) == a_lot()


def test_slots_come_first_and_parts_name_their_owner() -> None:
    root = etree.fromstring(submit_objects_request(a_lot()))
    order = ["Slot", "Name", "Description", "Classification", "ExternalIdentifier"]
    for tag in ("ExtrinsicObject", "RegistryPackage"):
        (node,) = root.iter(rim(tag))
        tags = [etree.QName(child).localname for child in node]
        assert tags == sorted(tags, key=order.index)
        owners = {c.get("classifiedObject") or c.get("registryObject") for c in node} - {None}
        assert owners == {node.get("id")}
    ids = [node.get("id") for node in root.iter() if node.get("id")]
    assert len(ids) == len(set(ids))
    slots = [s.get("name") for s in next(root.iter(rim("ExtrinsicObject"))).iterchildren(rim("Slot"))]
    assert "submissionTime" not in slots


def test_absent_values_leave_no_element() -> None:
    lot = a_lot()
    bare = Lot(lot.submission_set, (DocumentEntry("E", "m", "1.2", "p"),), ())
    (node,) = etree.fromstring(submit_objects_request(bare)).iter(rim("ExtrinsicObject"))
    assert [etree.QName(child).localname for child in node] == ["ExternalIdentifier"] * 2


def test_slots_after_classifications_are_read() -> None:
    root = etree.fromstring(submit_objects_request(a_lot()))
    (node,) = root.iter(rim("ExtrinsicObject"))
    for slot in list(node.iterchildren(rim("Slot"))):
        node.append(slot)
    assert read_lot(etree.tostring(root)) == a_lot()


def test_a_classification_belongs_to_the_object_that_holds_it() -> None:
    root = etree.fromstring(submit_objects_request(a_lot()))
    (node,) = root.iter(rim("ExtrinsicObject"))
    for classification in node.iterchildren(rim("Classification")):
        classification.set("classifiedObject", "Signature01")
    assert read_lot(etree.tostring(root)) == a_lot()


def test_a_lot_is_found_inside_an_envelope() -> None:
    request = provide_and_register_request(submit_objects_request(a_lot()), [("DocumentKOS", "kos@drimbox")])
    assert read_lot(b"<e><b>" + request + b"</b></e>") == a_lot()


def test_a_registry_s_entry_has_its_entry_uuid_and_status() -> None:
    xml = (
        f'<ExtrinsicObject xmlns="{v.RIM}" id="urn:uuid:1" status="{v.APPROVED}" mimeType="application/dicom">'
        '<Slot name="size"><ValueList><Value>many</Value></ValueList></Slot>'
        '<Slot name="unknown"><ValueList><Value>x</Value></ValueList></Slot>'
        f'<ExternalIdentifier id="e" registryObject="r" identificationScheme="{v.DOCUMENT_UNIQUE_ID}" value="2.25.1"/>'
        '<ExternalIdentifier id="f" registryObject="r" identificationScheme="1.2.3" value="odd"/>'
        "</ExtrinsicObject>"
    )
    entry = read_entry(etree.fromstring(xml))
    assert (entry.id, entry.status, entry.unique_id, entry.size) == ("urn:uuid:1", v.APPROVED, "2.25.1", None)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "well-formed"),
        (b"<a", "well-formed"),
        (b"<a/>", "no SubmitObjectsRequest"),
        (f'<SubmitObjectsRequest xmlns="{v.LCM}"/>'.encode(), "0 registry packages"),
        (
            f'<SubmitObjectsRequest xmlns="{v.LCM}"><RegistryPackage xmlns="{v.RIM}"/>'
            f'<RegistryPackage xmlns="{v.RIM}"/></SubmitObjectsRequest>'.encode(),
            "2 registry packages",
        ),
        (b'<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><a>&e;</a>', "DOCTYPE"),
        (b"<a>" + b"x" * MAX_REQUEST_BYTES + b"</a>", "longer"),
    ],
)
def test_what_is_no_lot_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(NotALot, match=reason):
        read_lot(data)


def test_control_characters_never_make_our_message_unreadable() -> None:
    lot = a_lot()
    dirty = Lot(lot.submission_set, (DocumentEntry("E", "m", "1.2", "p\x00q", comments="a\x0bb\x1f"),), ())
    (entry,) = read_lot(submit_objects_request(dirty)).entries
    assert (entry.patient_id, entry.comments) == ("pq", "ab")


def test_the_frozen_request_travels_byte_for_byte() -> None:
    frozen = submit_objects_request(a_lot())
    body = provide_and_register_request(frozen, [("DocumentKOS", "kos 1@drimbox")])
    assert frozen in body
    root = etree.fromstring(body)
    (document,) = root.iter(f"{{{v.XDS_B}}}Document")
    (include,) = document.iter(f"{{{v.XOP}}}Include")
    assert (document.get("id"), include.get("href")) == ("DocumentKOS", "cid:kos%201@drimbox")


def test_get_documents_quotes_its_value() -> None:
    root = etree.fromstring(get_documents_request("2.25.1'"))
    (query,) = root.iter(rim("AdhocQuery"))
    assert query.get("id") == "urn:uuid:5c4f972b-d56b-40ac-a5fc-c8ca9b40b9d4"
    assert [s.get("name") for s in query.iter(rim("Slot"))] == ["$XDSDocumentEntryUniqueId"]
    assert [value.text for value in query.iter(rim("Value"))] == ["('2.25.1''')"]
    (option,) = root.iter(f"{{{v.QUERY}}}ResponseOption")
    assert option.get("returnType") == "LeafClass"
