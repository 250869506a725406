"""The ANS's own archive comes in (issue 3, "Holds when"), also in the shapes that its other editions have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lxml import etree

from drimbox.adapters.xdm_files import read_lots
from drimbox.domain.identifiers import Identifier, Ins
from drimbox.domain.xds.rules import LotRefused
from drimbox.domain.xds.vocabulary import APPROVED
from drimbox.domain.xds.xdm import ArchivedLot, ArchiveSender, archive_files
from drimbox.domain.xds.xdm_reader import ImportedLot, LotFiles, read_archived

SENDER = ArchiveSender("BCOM", "499700367909006", "BCOM", "1.2", "BCOM")


def read(found: LotFiles) -> ImportedLot:
    return read_archived(found, time_zone="Europe/Paris", sector="SA08")


@pytest.fixture
def found(official: Path) -> LotFiles:
    (lot,) = read_lots(official / "xdm")
    return lot


def as_fragment(found: LotFiles) -> LotFiles:
    """As the sample of the ANS's data repository: a bare request, nothing declared, CRLF, a blank line first."""
    request = re.search(
        rb"<ns3:SubmitObjectsRequest>.*</ns3:SubmitObjectsRequest>", found.files["METADATA.XML"], re.DOTALL
    )
    assert request is not None
    fragment = b"\r\n" + request[0].replace(b"><", b">\r\n<")
    assert b"xmlns" not in fragment
    return LotFiles(found.place, found.order, {**found.files, "METADATA.XML": fragment}, found.faults)


def test_the_official_sample_is_read(found: LotFiles) -> None:
    lot = read(found)
    assert (lot.kos_uid, lot.instances) == ("1.3.2.751468943.3.1234.99352.240116151112.1.1.1", 10)
    assert lot.study_instance_uid == "1.3.6.1.4.1.5962.99.1.3711725607.829148806.1687338938407.3.12"
    assert lot.submission_set_uid == "1.2.250.1.999.1.1.8121.4.9618"
    assert (lot.ins, lot.status) == (Ins("162018885045327", "1.2.250.1.213.1.4.10"), "")
    assert lot.report_id == Identifier("1.2.250.1.213.1.1.6", "A7102400008_6")
    assert lot.entry_uuid == "urn:uuid:3d188b5d-0446-468b-a750-09246812625d"
    assert [warning.rule for warning in lot.warnings] == ["signature-redacted"]
    vihf = lot.vihf
    assert (vihf.name_id, vihf.subject_name, vihf.structure_id, vihf.sector) == (
        "899700367909", "Alain PAT-SIX", "499700367909006", "SA25",
    )  # fmt: skip
    assert (vihf.profession.code, vihf.know_how.code if vihf.know_how else "") == ("10", "SM26")


def test_the_fragment_without_declarations_says_the_same(found: LotFiles) -> None:
    lot, whole = read(as_fragment(found)), read(found)
    assert (lot.kos_uid, lot.entry_uuid, lot.report_id) == (whole.kos_uid, whole.entry_uuid, whole.report_id)
    assert [warning.rule for warning in lot.warnings] == ["metadata-repaired", "signature-redacted"]
    assert lot.vihf.name_id == whole.vihf.name_id
    assert (lot.vihf.structure_id, lot.vihf.sector) == ("499700367909006", "SA25")


@pytest.mark.parametrize("shape", ["envelope", "fragment"])
def test_it_is_exported_again_as_the_schemas_want_it(official: Path, found: LotFiles, shape: str) -> None:
    lot = read(found if shape == "envelope" else as_fragment(found))
    assert lot.report_id is not None
    again = ArchivedLot(
        lot.created, lot.metadata, lot.kos, lot.signature, lot.report_id, lot.ins,
        Identifier("2.25.308558515749272265601084678280819623195.3.2.1", "627028977073869316"), None, APPROVED,
    )  # fmt: skip
    files = dict(archive_files([again], sender=SENDER))
    place = f"KA202401/IHE_XDM/{found.place.rpartition('/')[2]}"
    for name in ("KOS_1_1.DCM", "SIGN_1.XML", "CR.TXT"):
        assert files[f"{place}/{name}"] == found.files[name]
    metadata = files[f"{place}/METADATA.XML"]
    etree.XMLSchema(etree.parse(official / "xds-xsd" / "lcm.xsd")).assertValid(etree.fromstring(metadata))
    assert b"Assertion" not in metadata
    second = read(LotFiles(place, 0, {**found.files, "METADATA.XML": metadata}))
    assert (second.entry_uuid, second.status) == (lot.entry_uuid, APPROVED)


def test_a_sample_that_was_changed_is_refused(found: LotFiles) -> None:
    kos = found.files["KOS_1_1.DCM"].replace(b"162018885045327", b"162018885045328")
    with pytest.raises(LotRefused) as caught:
        read(LotFiles(found.place, 0, {**found.files, "KOS_1_1.DCM": kos}))
    rules = {violation.rule for violation in caught.value.violations}
    assert rules == {"kos-digest", "signature-content", "patient"}
