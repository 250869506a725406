"""The XDM archive: layout, METADATA.XML, CR.TXT, texts, and what is refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from lxml import etree

from drimbox.domain.identifiers import Identifier, Ins
from drimbox.domain.xds.vocabulary import APPROVED, DELETED, DEPRECATED, LCM, RIM
from drimbox.domain.xds.xdm import (
    ArchivedLot,
    ArchiveSender,
    InconsistentLot,
    archive_files,
    metadata,
    report_reference,
)
from drimbox.domain.xml_input import UnreadableXml

KOS, SIGNATURE = b"the manifest", b"<Signature/>"
SENDER = ArchiveSender("Centre <A & B>", "1999999999", "DRIMBox", "1.0", "DRIMBox")
NS = {"rim": RIM, "lcm": LCM}


def _request(*, kos_type: str = "application/dicom", slots: str = "", extra: str = "") -> bytes:
    return f"""<lcm:SubmitObjectsRequest xmlns="{RIM}" xmlns:lcm="{LCM}"><RegistryObjectList>
<ExtrinsicObject id="DocumentKOS" mimeType="{kos_type}" objectType="urn:uuid:7edca82f-054d-47f2-a032-9b2a5b5186c1"
><Slot name="creationTime"><ValueList><Value>20240116151112</Value></ValueList></Slot>{slots}<Name/><Description/>
<ExternalIdentifier id="ei1" identificationScheme="urn:uuid:2e82c1f6-a085-4c72-9da3-8640a32e42ab"
 registryObject="DocumentKOS" value="1.2.3"><Name/></ExternalIdentifier></ExtrinsicObject>
<ExtrinsicObject id="Signature01" mimeType="text/xml" objectType="urn:uuid:7edca82f-054d-47f2-a032-9b2a5b5186c1"
/>{extra}</RegistryObjectList></lcm:SubmitObjectsRequest>""".encode()


LOT = ArchivedLot(
    created=datetime(2024, 1, 16, 15, 11, 12, tzinfo=UTC),
    submit_objects_request=_request(),
    kos=KOS,
    signature=SIGNATURE,
    report_id=Identifier("1.2.250.1.213.1.1.6", "A7102400008_6"),
    ins=Ins("162018885045327", "1.2.250.1.213.1.4.10"),
    ipp=Identifier("1.2.250.1.999.4", "IPP101"),
    entry_uuid="urn:uuid:3d188b5d-0446-468b-a750-09246812625d",
    status=APPROVED,
)


def _files(*lots: ArchivedLot) -> dict[str, bytes]:
    files = list(archive_files(lots, sender=SENDER))
    assert len(files) == len({path for path, _ in files})
    return dict(files)


def _slots(data: bytes, entry: str) -> dict[str, str]:
    root = etree.fromstring(data)
    found = root.findall(f".//rim:ExtrinsicObject[@id='{entry}']/rim:Slot", NS)
    return {slot.get("name", ""): slot.findtext("rim:ValueList/rim:Value", "", NS) for slot in found}


def test_one_folder_per_month_and_one_per_lot() -> None:
    february = replace(LOT, created=datetime(2024, 2, 1, tzinfo=UTC))
    names = ("METADATA.XML", "KOS_1_1.DCM", "SIGN_1.XML", "CR.TXT")
    expected = {
        f"{month}/{file}"
        for month, lots in (("KA202401", ("SS000001", "SS000002")), ("KA202402", ("SS000001",)))
        for file in ("INDEX.HTM", "README.TXT", *(f"IHE_XDM/{lot}/{name}" for lot in lots for name in names))
    }
    assert set(_files(LOT, february, LOT)) == expected


def test_documents_are_kept_byte_for_byte() -> None:
    files = _files(LOT)
    assert files["KA202401/IHE_XDM/SS000001/KOS_1_1.DCM"] == KOS
    assert files["KA202401/IHE_XDM/SS000001/SIGN_1.XML"] == SIGNATURE


def test_metadata_is_well_formed_and_says_where_each_document_is() -> None:
    data = _files(LOT, LOT)["KA202401/IHE_XDM/SS000002/METADATA.XML"]
    assert data.startswith(b"<?xml version='1.0' encoding='UTF-8'?>")
    assert etree.fromstring(data).tag == f"{{{LCM}}}SubmitObjectsRequest"
    assert _slots(data, "DocumentKOS") == {
        "creationTime": "20240116151112",
        "hash": hashlib.sha1(KOS).hexdigest(),
        "size": "12",
        "URI": "SS000002/KOS_1_1.DCM",
    }
    assert _slots(data, "Signature01")["URI"] == "SS000002/SIGN_1.XML"


def test_slots_stay_before_everything_else_and_the_entry_uuid_is_last() -> None:
    entry = etree.fromstring(metadata(LOT, "SS000001")).find(".//rim:ExtrinsicObject", NS)
    assert entry is not None
    kinds = [etree.QName(child).localname for child in entry]
    assert kinds == ["Slot"] * 4 + ["Name", "Description"] + ["ExternalIdentifier"] * 2
    last = entry[-1]
    assert (last.get("value"), last.get("identificationScheme")) == (LOT.entry_uuid, "1.2.3")
    assert last.get("registryObject") == "DocumentKOS"


@pytest.mark.parametrize(
    ("status", "word"), [(APPROVED, "publié"), (DEPRECATED, "remplacé"), (DELETED, "dépublié")]
)
def test_the_status_stands_on_the_manifest_s_entry_and_in_readme(status: str, word: str) -> None:
    files = _files(replace(LOT, status=status))
    entries = etree.fromstring(files["KA202401/IHE_XDM/SS000001/METADATA.XML"]).findall(
        ".//rim:ExtrinsicObject", NS
    )
    assert [entry.get("status") for entry in entries] == [status, None]
    assert f"état : {word})" in files["KA202401/README.TXT"].decode()


def test_a_known_entry_uuid_takes_the_place_of_the_one_of_the_archive_it_came_from() -> None:
    archived = metadata(LOT, "SS000001")
    other = "urn:uuid:00000000-0446-468b-a750-09246812625d"
    again = metadata(replace(LOT, submit_objects_request=archived, entry_uuid=other), "SS000001")
    assert again == archived.replace(str(LOT.entry_uuid).encode(), other.encode())
    assert metadata(replace(LOT, submit_objects_request=archived, entry_uuid=None), "SS000001") == archived


def test_what_was_imported_without_signature_or_report_is_written_without() -> None:
    files = _files(replace(LOT, signature=None, report_id=None))
    assert sorted(files) == [
        "KA202401/IHE_XDM/SS000001/KOS_1_1.DCM",
        "KA202401/IHE_XDM/SS000001/METADATA.XML",
        "KA202401/INDEX.HTM",
        "KA202401/README.TXT",
    ]
    tree = files["KA202401/README.TXT"].decode().split("SS000001")[1]
    assert "CR.TXT" not in tree
    assert "SIGN" not in tree


def test_without_entry_uuid_none_is_written() -> None:
    data = metadata(replace(LOT, entry_uuid=None), "SS000001")
    assert b"EntryUUID" not in data


def test_slots_of_the_request_are_kept_when_they_agree_and_an_old_uri_is_replaced() -> None:
    digest = hashlib.sha1(KOS).hexdigest().upper()
    slots = "".join(
        f'<Slot name="{name}"><ValueList><Value>{value}</Value></ValueList></Slot>'
        for name, value in (("hash", digest), ("size", "12"), ("URI", "DOC0001.XML"))
    )
    found = _slots(
        metadata(replace(LOT, submit_objects_request=_request(slots=slots)), "SS000001"), "DocumentKOS"
    )
    assert (found["hash"], found["size"], found["URI"]) == (digest, "12", "SS000001/KOS_1_1.DCM")


@pytest.mark.parametrize(
    ("request_bytes", "error"),
    [
        (_request(kos_type="application/pdf"), InconsistentLot),
        (_request(kos_type="text/xml"), InconsistentLot),
        (
            _request(slots='<Slot name="hash"><ValueList><Value>00</Value></ValueList></Slot>'),
            InconsistentLot,
        ),
        (
            _request(slots='<Slot name="size"><ValueList><Value>13</Value></ValueList></Slot>'),
            InconsistentLot,
        ),
        (_request(extra='<ExtrinsicObject id="x" mimeType="text/xml"/>'), InconsistentLot),
        (b"<a/>", UnreadableXml),
        (b"<a>", UnreadableXml),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', UnreadableXml),
    ],
)
def test_a_request_that_is_not_of_these_documents_is_refused(
    request_bytes: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        list(archive_files([replace(LOT, submit_objects_request=request_bytes)], sender=SENDER))


REPORT = Identifier("1.2.250.1.213.1.1.6", "A7102400008_6")


def test_report_reference() -> None:
    expected = "1.2.250.1.213.1.1.6;A7102400008_6;162018885045327;1.2.250.1.213.1.4.10;IPP101;1.2.250.1.999.4"
    assert report_reference(REPORT, LOT.ins, LOT.ipp) == expected
    assert report_reference(REPORT, LOT.ins, None).endswith(";1.2.250.1.213.1.4.10;;")


@pytest.mark.parametrize("extension", ["a;b", "a\nb", "a\rb"])
def test_a_delimiter_in_an_identifier_is_refused(extension: str) -> None:
    with pytest.raises(InconsistentLot):
        report_reference(Identifier("1.2", extension), LOT.ins, LOT.ipp)


def test_index_is_xhtml_that_names_the_sender() -> None:
    data = _files(LOT)["KA202401/INDEX.HTM"]
    text = etree.fromstring(data.replace(data[data.index(b"<!DOCTYPE") : data.index(b"<html")], b""))
    said = " ".join(text.itertext())
    assert "Centre <A & B> (1999999999)" in said
    assert text.find(".//{*}a").get("href") == "README.TXT"  # type: ignore[union-attr]


def test_readme_is_french_and_has_no_address_but_the_sender_s() -> None:
    text = _files(LOT)["KA202401/README.TXT"].decode()
    assert "Organisme : Centre <A & B> (1999999999)" in text
    assert "Adresse" not in text
    assert "SS000001 (16/01/2024 15:11, état : publié)" in text
    assert "162018885045327" not in text, "no patient in the text for people"
    sender = replace(SENDER, address="1 rue\nde la Paix", phone="0102030405")
    text = dict(archive_files([LOT], sender=sender))["KA202401/README.TXT"].decode()
    assert "    . Adresse : 1 rue de la Paix\n    . Téléphone : 0102030405\n" in text


def test_nothing_published_gives_nothing() -> None:
    assert _files() == {}
