"""The XDM archive beside the official one, and its METADATA.XML against the schemas."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from lxml import etree

from drimbox.domain.identifiers import Identifier, Ins
from drimbox.domain.xds.vocabulary import APPROVED, LCM, RIM
from drimbox.domain.xds.xdm import ArchivedLot, ArchiveSender, archive_files

NS = {"rim": RIM, "lcm": LCM}
SENDER = ArchiveSender(
    "BCOM",
    "499700367909006",
    "BCOM",
    "1.2",
    "BCOM",
    "8 Rue Frédéric Bastia 92100 BOULOGNE-BILLANCOURT",
    "0174589607",
)
FOLDER = "KA202401/IHE_XDM/SS000001"


def _official_metadata(folder: Path) -> etree._Element:
    """The official METADATA.XML. Its signature was redacted after it was hashed: hash and size follow the file."""
    root = etree.parse(folder / "METADATA.XML").getroot()
    signature = (folder / "SIGN_1.XML").read_bytes()
    values = {"hash": hashlib.sha1(signature).hexdigest(), "size": str(len(signature))}
    for name, value in values.items():
        found = root.find(
            f".//rim:ExtrinsicObject[@id='Signature01']/rim:Slot[@name='{name}']/rim:ValueList/rim:Value", NS
        )
        assert found is not None
        found.text = value
    return root


def _request(folder: Path) -> bytes:
    """The SubmitObjectsRequest inside the official METADATA.XML, put in the order of the schema, as ours are."""
    root = _official_metadata(folder).find(".//lcm:SubmitObjectsRequest", NS)
    assert root is not None
    for entry in root.iter(f"{{{RIM}}}ExtrinsicObject"):
        for slot in entry.findall("rim:Slot[@name='URI']", NS):
            entry.remove(slot)
        for other in entry.findall("rim:ExternalIdentifier[@identificationScheme='1.2.3']", NS):
            entry.remove(other)
        order = ("Slot", "Name", "Description", "Classification", "ExternalIdentifier")
        entry[:] = sorted(entry, key=lambda child: order.index(etree.QName(child).localname))
    copy = etree.fromstring(etree.tostring(root))
    etree.cleanup_namespaces(copy)
    return etree.tostring(copy)


@pytest.fixture
def lot(official: Path) -> ArchivedLot:
    folder = official / "xdm" / FOLDER
    return ArchivedLot(
        created=datetime(2024, 1, 16, 15, 11, 12),  # noqa: DTZ001 (local, as the sample)
        submit_objects_request=_request(folder),
        kos=(folder / "KOS_1_1.DCM").read_bytes(),
        signature=(folder / "SIGN_1.XML").read_bytes(),
        report_id=Identifier("1.2.250.1.213.1.1.6", "A7102400008_6"),
        ins=Ins("162018885045327", "1.2.250.1.213.1.4.10"),
        ipp=Identifier("2.25.308558515749272265601084678280819623195.3.2.1", "627028977073869316"),
        entry_uuid="3d188b5d-0446-468b-a750-09246812625d",
        status=APPROVED,
    )


@pytest.fixture
def schema(official: Path) -> etree.XMLSchema:
    return etree.XMLSchema(etree.parse(official / "xds-xsd" / "lcm.xsd"))


def test_the_tree_is_that_of_the_official_archive(official: Path, lot: ArchivedLot) -> None:
    theirs = {
        path.relative_to(official / "xdm").as_posix()
        for path in (official / "xdm").rglob("*")
        if path.is_file()
    }
    assert {path for path, _ in archive_files([lot], sender=SENDER)} == theirs


def test_documents_and_reference_are_those_of_the_official_archive(official: Path, lot: ArchivedLot) -> None:
    ours = dict(archive_files([lot], sender=SENDER))
    for name in ("KOS_1_1.DCM", "SIGN_1.XML", "CR.TXT"):
        assert ours[f"{FOLDER}/{name}"] == (official / "xdm" / FOLDER / name).read_bytes(), name


def _facts(root: etree._Element) -> set[tuple[str, ...]]:
    """Slots, classifications and identifiers of the entries, whatever their order."""
    facts: set[tuple[str, ...]] = set()
    for entry in root.iter(f"{{{RIM}}}ExtrinsicObject"):
        owner = entry.get("id", "")
        for slot in entry.findall("rim:Slot", NS):
            facts.add(
                (owner, slot.get("name", ""), *(value.text or "" for value in slot.iter(f"{{{RIM}}}Value")))
            )
        for child in (*entry.findall("rim:Classification", NS), *entry.findall("rim:ExternalIdentifier", NS)):
            scheme = child.get("classificationScheme", child.get("identificationScheme", ""))
            facts.add((owner, scheme, child.get("nodeRepresentation", child.get("value", ""))))
    return facts


def test_metadata_says_what_the_official_one_says(official: Path, lot: ArchivedLot) -> None:
    ours = dict(archive_files([lot], sender=SENDER))[f"{FOLDER}/METADATA.XML"]
    theirs = _official_metadata(official / "xdm" / FOLDER)
    assert _facts(etree.fromstring(ours)) == _facts(theirs)


def test_metadata_is_valid_with_and_without_entry_uuid(lot: ArchivedLot, schema: etree.XMLSchema) -> None:
    for one in (lot, replace(lot, entry_uuid=None)):
        data = dict(archive_files([one], sender=SENDER))[f"{FOLDER}/METADATA.XML"]
        assert schema.validate(etree.fromstring(data)), schema.error_log


def test_readme_says_what_the_official_one_says(official: Path, lot: ArchivedLot) -> None:
    ours = dict(archive_files([lot], sender=SENDER))["KA202401/README.TXT"].decode()
    theirs = (official / "xdm" / "KA202401" / "README.TXT").read_text("utf-8")
    for line in (
        "BCOM (499700367909006)",
        "8 Rue Frédéric Bastia",
        "0174589607",
        "SS000001",
        "METADATA.XML",
        "CR.TXT",
    ):
        assert line in theirs
        assert line in ours
