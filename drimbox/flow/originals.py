"""What a replacement or a deletion has in common with the documents that it is about: their author, their patient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from drimbox.domain.errors import ReportRefused
from drimbox.domain.report import Report
from drimbox.flow.ports import Transaction
from drimbox.flow.records import ReceivedReport


def author_structure(report: Report) -> str | None:
    """The id of the structure of the CDA's first author that has one."""
    structures = [author.organization.id for author in report.authors if author.organization]
    return next((one.extension for one in structures if one), None)


def is_foreign(originals: Iterable[ReceivedReport], sender: Mapping[str, str], report: Report) -> bool:
    """Whether the sending structure is neither that which sent an original nor that of its author.

    The sending structure is that of PRT SB, else of the author of the CDA; nobody is a stranger. The CDA writes a
    FINESS number with a 1 before it, HL7v2 without (drim-m-data 1).
    """
    structure = sender.get("organization_id") or author_structure(report) or ""
    for original in originals:
        known = {original.sender.get("organization_id", ""), original.author_structure or ""} - {""}
        if known and not {structure, f"1{structure}"} & (known | {f"1{one}" for one in known}):
            return True
    return False


def check_patient(original: ReceivedReport, report: Report) -> None:
    """The INS of a deletion is that of the known document (table 0533: 904). Raises `ReportRefused`."""
    ins = report.patient.ins
    if ins is None or original.patient_ins is None:
        return
    if (original.patient_ins, original.patient_oid) != (ins.value, ins.oid):
        raise ReportRefused("904", "the INS of the document is not that of the known document")


def later_order(transaction: Transaction, study: str, since: datetime | None) -> bool:
    """Whether an order about this exam was taken after the message of `since`, which is replayed; None: it is new."""
    if since is None:
        return False
    messages = transaction.inbox.messages(study=study, limit=1_000)
    return any(m.kind.startswith("OMI") and m.verdict == "AA" and m.received_at > since for m in messages)
