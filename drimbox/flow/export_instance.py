"""One instance leaves the archive by an operator's hand: proven first, traced before its first byte leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from drimbox.flow import trace
from drimbox.flow.ports import Transactions


class UnknownInstance(Exception):
    """No instance of that UID is here."""


class InstanceSpoilt(Exception):
    """Its bytes on disk are not those that were received."""


class Proof(Protocol):
    """Reads an instance from disk and computes its hash again."""

    def proves(self, one: Any) -> bool:
        """Whether it is there as it was received. Raises OSError when that cannot be told."""

    def read(self, one: Any) -> Iterator[bytes]:
        """Its DICOM file, piece by piece."""


@dataclass(frozen=True, slots=True)
class ExportedInstance:
    """A DICOM file of `length` bytes. `rejected`: code of the note that hides it, or None."""

    study: str
    length: int
    rejected: str | None
    pieces: Iterator[bytes]


def export_instance(
    transactions: Transactions, proof: Proof, sop: str, *, now: datetime, actor: str
) -> ExportedInstance:
    """The DICOM file of an instance as it was received, rejected ones too.

    Raises `UnknownInstance`, `InstanceSpoilt`, OSError, `errors.Unavailable`.
    """
    with transactions.reading() as transaction:
        found = transaction.storage.records_named([sop]).get(sop)
    if found is None:
        raise UnknownInstance(sop)
    study, record = found
    if not proof.proves(record):
        raise InstanceSpoilt(sop)
    with transactions.writing() as transaction:
        trace.note(
            transaction, "INSTANCE_EXPORTED", at=now, actor=actor, study=study, sop=sop, bytes=record.length
        )
        transaction.commit()
    return ExportedInstance(study, record.length, record.rejected, proof.read(record))
