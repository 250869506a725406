"""What a lot of an archive must keep to be taken in, as rows with their clause; messages never quote an identity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from drimbox.domain.identifiers import Identifier, InvalidIdentifier, parse_ins
from drimbox.domain.kos_reading import Manifest
from drimbox.domain.violations import Severity, Violation
from drimbox.domain.xds import vocabulary as v
from drimbox.domain.xds.hl7_types import CXI
from drimbox.domain.xds.metadata import DocumentEntry, Lot
from drimbox.domain.xds.rule import Rule, judge, oid_faults
from drimbox.domain.xds.xdm_documents import hash_agrees, is_redacted, signature_faults

STATUSES = ("", v.APPROVED, v.DEPRECATED, v.DELETED)  # of the manifest's entry; the ANS export writes none


@dataclass(frozen=True, slots=True)
class ReportReference:
    """CR.TXT: the CDA that the manifest came from, the INS (value, OID), the IPP."""

    report_id: Identifier
    ins: tuple[str, str]
    ipp: Identifier | None


@dataclass(frozen=True, slots=True)
class ArchiveParts:
    """One lot of an archive, its parts read one by one and not yet held against each other."""

    lot: Lot
    entry: DocumentEntry
    manifest: Manifest
    kos: bytes
    repaired: bool
    signature_entry: DocumentEntry | None
    signature: bytes | None
    reference: ReportReference | None


def check_parts(parts: ArchiveParts) -> tuple[Violation, ...]:
    """Every reason not to import (errors), and all that was tolerated (warnings)."""
    tolerated = judge(parts, TOLERATED, "lot")
    return (*judge(parts, RULES, "lot"), *(replace(one, severity=Severity.WARNING) for one in tolerated))


def ins_of(patient_id: str) -> tuple[str, str]:
    """(INS, OID of its authority) of an XDS patientId; empty texts when it is none."""
    value, _, issuer = patient_id.partition("^^^&")
    return value, issuer.partition("&")[0]


def _manifest_of_entry(parts: ArchiveParts) -> Iterator[str]:
    if parts.manifest.sop_instance_uid != parts.entry.unique_id:
        yield "the SOP Instance UID of the manifest is not the uniqueId of its entry"


def _unique_ids(parts: ArchiveParts) -> Iterator[str]:
    named = [
        ("uniqueId of the manifest", parts.entry.unique_id),
        ("uniqueId of the submission set", parts.lot.submission_set.unique_id),
    ]
    if parts.signature_entry is not None:
        named.append(("uniqueId of the signature", parts.signature_entry.unique_id))
    for name, value in named:
        for fault in oid_faults(value):
            yield f"{name}: {fault}"


def _kos_hash(parts: ArchiveParts) -> Iterator[str]:
    yield from _digest_faults(parts.entry, parts.kos)


def _signature_hash(parts: ArchiveParts) -> Iterator[str]:
    entry, signature = parts.signature_entry, parts.signature
    if entry is not None and signature is not None and not is_redacted(signature):
        yield from _digest_faults(entry, signature)


def _digest_faults(entry: DocumentEntry, content: bytes) -> Iterator[str]:
    if entry.hash and not hash_agrees(entry.hash, content):
        yield "the hash is not that of the file"
    if entry.size is not None and entry.size != len(content):
        yield f"the size is {entry.size}, the file has {len(content)} bytes"


def _signature_content(parts: ArchiveParts) -> Iterator[str]:
    if parts.signature is not None:
        submission_set = parts.lot.submission_set.unique_id
        yield from signature_faults(parts.signature, parts.entry.unique_id, parts.kos, submission_set)


def _signature_entry(parts: ArchiveParts) -> Iterator[str]:
    if parts.signature is not None and parts.signature_entry is None:
        yield "a signature without an entry in the metadata"


def _patients(parts: ArchiveParts) -> Iterator[str]:
    ins = parts.lot.submission_set.patient_id
    if any(entry.patient_id != ins for entry in parts.lot.entries):
        yield "submission set and entries name different patients"
    value, oid = ins_of(ins)
    manifest = parts.manifest
    if manifest.patient_id != value or manifest.patient_issuer not in ("", oid):
        yield "manifest and metadata name different patients"
    if parts.reference is not None and parts.reference.ins != (value, oid):
        yield "CR.TXT and metadata name different patients"


def _ins(parts: ArchiveParts) -> Iterator[str]:
    try:
        parse_ins(*ins_of(parts.lot.submission_set.patient_id))
    except InvalidIdentifier as error:
        yield str(error)


def _study(parts: ArchiveParts) -> Iterator[str]:
    found = (CXI.fullmatch(value) for value in parts.entry.reference_id_list)
    studies = {one["id"] for one in found if one and one["type"] == v.STUDY_INSTANCE_UID}
    if studies and studies != {parts.manifest.study_instance_uid}:
        yield "manifest and referenceIdList name different studies"


def _status(parts: ArchiveParts) -> Iterator[str]:
    if parts.entry.status not in STATUSES:
        yield "the status of the manifest's entry is none that a published manifest can have"


def _repaired(parts: ArchiveParts) -> Iterator[str]:
    if parts.repaired:
        yield "prefixes or namespaces were not declared: they were declared for the reading"


def _no_signature(parts: ArchiveParts) -> Iterator[str]:
    if parts.signature is None:
        yield "SIGN missing: imported without its signature"


def _no_reference(parts: ArchiveParts) -> Iterator[str]:
    if parts.reference is None:
        yield "CR.TXT missing: imported without its report's identifier"


def _no_hash(parts: ArchiveParts) -> Iterator[str]:
    if not parts.entry.hash:
        yield "no hash in the metadata: the manifest was not compared with it"


def _redacted(parts: ArchiveParts) -> Iterator[str]:
    if parts.signature is not None and is_redacted(parts.signature):
        yield "its certificate was blanked out: its hash and size were not compared"


RULES: tuple[Rule[ArchiveParts], ...] = (
    Rule("kos-uid", "KOS", "drim-m-data 5.3: uniqueId = SOP Instance UID", _manifest_of_entry),
    Rule("unique-id", "METADATA", "ITI TF-3 4.2.3.2.26, 4.2.3.3.12", _unique_ids),
    Rule("kos-digest", "KOS", "ITI TF-3 4.2.3.2.10, 4.2.3.2.23", _kos_hash),
    Rule("signature-digest", "SIGN", "ITI TF-3 4.2.3.2.10, 4.2.3.2.23", _signature_hash),
    Rule("signature-content", "SIGN", "drim-m-data 5.5", _signature_content),
    Rule("signature-entry", "SIGN", "drim-m-data 5.5", _signature_entry),
    Rule("patient", "METADATA", "drim-m-data 5.2, 5.3, 6.1", _patients),
    Rule("ins", "METADATA", "hl7-mss 1.3", _ins),
    Rule("study", "METADATA", "drim-m-data 5.3: referenceIdList", _study),
    Rule("status", "METADATA", "dmp-kos-xds 2.5", _status),
)
TOLERATED: tuple[Rule[ArchiveParts], ...] = (
    Rule("metadata-repaired", "METADATA", "drim-m-data 5.6", _repaired),
    Rule("signature-missing", "SIGN", "dmp-kos-xds 2.9", _no_signature),
    Rule("report-missing", "CR.TXT", "dmp-kos-xds 2.9", _no_reference),
    Rule("hash-missing", "METADATA", "drim-m-data 5.3: absent in one sample", _no_hash),
    Rule("signature-redacted", "SIGN", "drim-m-data 5.6", _redacted),
)
