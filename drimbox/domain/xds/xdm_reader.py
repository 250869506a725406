"""One lot of an XDM archive, read and held against itself (drim-m-data 5.6, dmp-kos-xds 2.9).

Tolerant of how the ANS's export is written, not of what it says: whatever makes the parts of a lot contradict each
other refuses it, with every reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from lxml import etree

from drimbox.domain.identifiers import Identifier, Ins
from drimbox.domain.kos_reading import Manifest, read_manifest
from drimbox.domain.kos_tree import NotAManifest
from drimbox.domain.timestamp import InvalidTimestamp, parse_timestamp
from drimbox.domain.vihf import VihfIdentity, check_identity
from drimbox.domain.violations import Severity, Violation, errors
from drimbox.domain.xds import vocabulary as v
from drimbox.domain.xds.ebxml_reader import NotALot, lot_of
from drimbox.domain.xds.metadata import DocumentEntry, Lot
from drimbox.domain.xds.rules import LotRefused
from drimbox.domain.xds.xdm import ENTRY_UUID_SCHEME, METADATA_FILE, REPORT_FILE
from drimbox.domain.xds.xdm_documents import hash_agrees
from drimbox.domain.xds.xdm_identity import archived_identity
from drimbox.domain.xds.xdm_request import OpenedMetadata, open_metadata
from drimbox.domain.xds.xdm_rules import ArchiveParts, ReportReference, check_parts, ins_of
from drimbox.domain.xml_input import UnreadableXml

_TREE = "dmp-kos-xds 2.9"
_KOS = ("KOS", ".DCM")
_SIGNATURE = ("SIGN", ".XML")
_UUID = re.compile(r"(?:urn:uuid:)?(?P<uuid>[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})")


@dataclass(frozen=True, slots=True)
class LotFiles:
    """One folder of an archive as it was found, nothing judged yet.

    `place`: its path in the archive; `order`: how many lots stood before it; `files`: by upper-case name;
    `faults`: why some of it could not be read.
    """

    place: str
    order: int
    files: Mapping[str, bytes]
    faults: tuple[Violation, ...] = ()


@dataclass(frozen=True, slots=True)
class ImportedLot:
    """One lot whose parts agree.

    `created`: aware, to the second, with the lot's place in its archive as microseconds, so that the order of the
    archive is kept; `status`: URN, "" when the archive says none; `entry_uuid`: as the archive says, not confirmed;
    `replaces`: entryUUID that its RPLC names; `reference`: the bytes of CR.TXT.
    """

    place: str
    created: datetime
    study_instance_uid: str
    kos_uid: str
    instances: int
    submission_set_uid: str
    signature_uid: str | None
    status: str
    entry_uuid: str | None
    replaces: str | None
    ins: Ins
    report_id: Identifier | None
    vihf: VihfIdentity
    metadata: bytes
    kos: bytes
    signature: bytes | None
    reference: bytes | None
    warnings: tuple[Violation, ...]


def read_archived(found: LotFiles, *, time_zone: str, sector: str) -> ImportedLot:
    """Read one lot. `time_zone`: of times without offset; `sector`: of the VIHF when the metadata name none.

    Raises `LotRefused` with every reason.
    """
    faults = [*found.faults]
    opened, lot = _metadata(found, faults)
    entry, signature_entry = _entries(lot, faults)
    kos = _document(found, entry, _KOS, faults)
    manifest = _manifest(kos, faults)
    signature = _document(found, signature_entry, _SIGNATURE, faults)
    reference = _reference(found, faults)
    if opened is None or lot is None or entry is None or kos is None or manifest is None:
        raise LotRefused(faults)
    parts = ArchiveParts(lot, entry, manifest, kos, opened.repaired, signature_entry, signature, reference)
    faults += check_parts(parts)
    ins = Ins(*ins_of(lot.submission_set.patient_id))
    vihf = archived_identity(opened.document, lot, entry, patient=ins, sector=sector)
    faults += check_identity(vihf, ins)
    if errors(faults):
        raise LotRefused(errors(faults))
    return ImportedLot(
        place=found.place,
        created=_created(parts, time_zone).replace(microsecond=found.order % 1_000_000),
        study_instance_uid=manifest.study_instance_uid,
        kos_uid=manifest.sop_instance_uid,
        instances=sum(len(series.instances) for series in manifest.series),
        submission_set_uid=lot.submission_set.unique_id,
        signature_uid=signature_entry.unique_id if signature_entry else None,
        status=entry.status,
        entry_uuid=_entry_uuid(opened.request, entry.id),
        replaces=next((_urn(one.target) for one in lot.associations if one.type == v.RPLC), None),
        ins=ins,
        report_id=reference.report_id if reference else None,
        vihf=vihf,
        metadata=found.files[METADATA_FILE],
        kos=kos,
        signature=signature,
        reference=found.files[REPORT_FILE] if reference else None,
        warnings=tuple(one for one in faults if one.severity is Severity.WARNING),
    )


def read_reference(data: bytes) -> ReportReference:
    """CR.TXT: `cdaRoot;cdaExtension;INS;INS OID[;IPP;IPP OID]`. Raises ValueError when it is not that."""
    fields = data.decode("utf-8-sig").strip().split(";")
    if len(fields) not in (4, 6) or not fields[0]:
        raise ValueError("CR.TXT has not the six fields of a report reference")
    root, extension, value, oid, *local = (field.strip() for field in fields)
    ipp = Identifier(local[1], local[0]) if local and local[0] else None
    return ReportReference(Identifier(root, extension), (value, oid), ipp)


def _metadata(found: LotFiles, faults: list[Violation]) -> tuple[OpenedMetadata | None, Lot | None]:
    data = found.files.get(METADATA_FILE)
    if data is None:
        faults.append(Violation("metadata-missing", "METADATA.XML missing", "METADATA", _TREE))
        return None, None
    try:
        opened = open_metadata(data)
        return opened, lot_of(opened.request)
    except (UnreadableXml, NotALot) as error:
        faults.append(Violation("metadata-unreadable", str(error), "METADATA", "drim-m-data 5.6"))
        return None, None


def _entries(lot: Lot | None, faults: list[Violation]) -> tuple[DocumentEntry | None, DocumentEntry | None]:
    """The entry of the manifest and that of the signature, which may be missing."""
    if lot is None:
        return None, None
    manifests = [entry for entry in lot.entries if entry.mime_type == "application/dicom"]
    signatures = [entry for entry in lot.entries if entry.mime_type == "text/xml"]
    others = len(lot.entries) - len(manifests) - len(signatures)
    if len(manifests) != 1 or len(signatures) > 1 or others:
        counts = f"{len(manifests)} DICOM, {len(signatures)} XML, {others} other entries"
        message = f"{counts} instead of one manifest and its signature"
        faults.append(Violation("entries", message, "METADATA", "drim-m-data 5.1"))
        return None, None
    return manifests[0], next(iter(signatures), None)


def _document(
    found: LotFiles, entry: DocumentEntry | None, kind: tuple[str, str], faults: list[Violation]
) -> bytes | None:
    """The file that the URI of `entry` names, else the only file of that kind, or the one with its hash."""
    prefix, suffix = kind
    if entry is not None and entry.uri:
        steps = entry.uri.split("/")
        if entry.uri[0] == "/" or ".." in steps or any(character in entry.uri for character in "\\:\0"):
            faults.append(Violation("uri", "the URI leads out of the archive", prefix, "ITI TF-2 3.32.4.1.2"))
            return None
        if (named := found.files.get(steps[-1].upper())) is not None:
            return named
    alike = [data for name, data in found.files.items() if name.startswith(prefix) and name.endswith(suffix)]
    if len(alike) > 1 and entry is not None:
        alike = _with_hash(alike, entry.hash)
    if len(alike) > 1 or (prefix == "KOS" and not alike):
        count = len(alike) or "no"
        faults.append(Violation("document", f"{count} files can be the {prefix}", prefix, _TREE))
        return None
    return alike[0] if alike else None


def _with_hash(documents: Sequence[bytes], digest: str) -> list[bytes]:
    return [data for data in documents if hash_agrees(digest, data)] or list(documents)


def _manifest(kos: bytes | None, faults: list[Violation]) -> Manifest | None:
    if kos is None:
        return None
    try:
        return read_manifest(kos)
    except NotAManifest as error:
        faults.append(Violation("kos-unreadable", str(error), "KOS", "drim-m-data 6"))
        return None


def _reference(found: LotFiles, faults: list[Violation]) -> ReportReference | None:
    data = found.files.get(REPORT_FILE)
    if data is None:
        return None
    try:
        return read_reference(data)
    except ValueError as error:
        words = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        faults.append(Violation("report-unreadable", words, "CR.TXT", _TREE))
        return None


def _created(parts: ArchiveParts, time_zone: str) -> datetime:
    """When the manifest was made: as it says itself, else as its entry says; UTC."""
    created = parts.manifest.created
    if created is None:
        created = _first_time(
            (parts.entry.creation_time, parts.lot.submission_set.submission_time), time_zone
        )
    if created.tzinfo is None:
        created = created.replace(tzinfo=ZoneInfo(time_zone))
    return created.astimezone(UTC)


def _first_time(values: Iterable[str], time_zone: str) -> datetime:
    for value in values:
        try:
            return parse_timestamp(value, time_zone).at
        except InvalidTimestamp:
            continue  # the next one
    raise LotRefused(
        [Violation("created", "neither manifest nor metadata say when it was made", "KOS", "drim-m-data 5.3")]
    )


def _entry_uuid(request: etree._Element, owner: str) -> str | None:
    for entry in request.iter(f"{{{v.RIM}}}ExtrinsicObject"):
        if entry.get("id", "") == owner:
            path = f"{{{v.RIM}}}ExternalIdentifier[@identificationScheme='{ENTRY_UUID_SCHEME}']"
            found = entry.find(path)
            return None if found is None else _urn(found.get("value", ""))
    return None


def _urn(value: str) -> str | None:
    """An entryUUID as the registry writes it; None for what is none."""
    match = _UUID.fullmatch(value.strip())
    return f"urn:uuid:{match['uuid'].lower()}" if match else None
