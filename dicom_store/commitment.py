"""Storage Commitment Push Model (PS3.4 J): what is asked, what is answered, why something is not committed. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from dicom_store.header import ENCODINGS
from dicom_store.paths import InvalidUID, check_uid
from dicom_store.references import TooMany, read_references
from dicom_store.scanner import Encoding

SOP_CLASS, SOP_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"  # PS3.4 J.3.5
REQUEST = 1  # Action Type ID, J.3.2.1
SUCCESSFUL, FAILURES_EXIST = 1, 2  # Event Type IDs, J.3.3.1
# What is read and written; no deflated one among them: nobody may make us inflate.
TRANSFER_SYNTAXES = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2")
MOST_REFERENCES = 50_000  # in one request


class Reason(IntEnum):
    """FailureReason (0008,1197), PS3.3 C.14.1.1; COMMITTED is ours: there is none."""

    COMMITTED = 0x0000
    PROCESSING_FAILURE = 0x0110
    NO_SUCH_INSTANCE = 0x0112
    CLASS_INSTANCE_CONFLICT = 0x0119
    DUPLICATE_TRANSACTION = 0x0131


class Status(IntEnum):
    """Statuses of the N-ACTION response, PS3.7 10.1.4.1.10 and C."""

    SUCCESS = 0x0000
    NO_SUCH_INSTANCE = 0x0112
    INVALID_ARGUMENT = 0x0115
    NO_SUCH_CLASS = 0x0118
    NO_SUCH_ACTION = 0x0123
    RESOURCE_LIMITATION = 0x0213


class RequestRefused(Exception):
    """The N-ACTION is answered with `status`. `reason` names attributes, never their values."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True, order=True)
class Asked:
    """An instance whose safekeeping is asked for."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """Action Information of a request (J.3.2.1.1). `references`: in the order of the request, each once."""

    transaction_uid: str
    references: tuple[Asked, ...]

    @property
    def key(self) -> str:
        """SHA-256 in hexadecimal, the same for the same instances in any order."""
        said = "\n".join(f"{one.sop_class_uid} {one.sop_instance_uid}" for one in sorted(self.references))
        return hashlib.sha256(said.encode("ascii")).hexdigest()


@dataclass(frozen=True, slots=True)
class Known:
    """What the index says of an instance. `rejected`: a note hides it; `proven`: its bytes are what was received."""

    sop_class_uid: str
    rejected: bool
    proven: bool


@dataclass(frozen=True, slots=True)
class CommitmentResult:
    """What became of a request: each instance with COMMITTED or why not."""

    transaction_uid: str
    judged: tuple[tuple[Asked, Reason], ...]

    @property
    def event_type(self) -> int:
        """Event Type ID of the report."""
        failed = any(reason is not Reason.COMMITTED for _, reason in self.judged)
        return FAILURES_EXIST if failed else SUCCESSFUL

    def event_information(self, retrieve_ae_title: str = "") -> Dataset:
        """The data set of the N-EVENT-REPORT (J.3.3.1.1)."""
        information = Dataset()
        if retrieve_ae_title:
            information.RetrieveAETitle = retrieve_ae_title
        information.TransactionUID = self.transaction_uid
        committed = [_item(asked) for asked, reason in self.judged if reason is Reason.COMMITTED]
        failed = [_item(asked, reason) for asked, reason in self.judged if reason is not Reason.COMMITTED]
        if committed:  # 1C: sent when there are any, never empty
            information.ReferencedSOPSequence = committed
        if failed:
            information.FailedSOPSequence = failed
        return information


def judge(asked: Asked, known: Known | None) -> Reason:
    """Why an instance is not committed, or COMMITTED. Rejected and forgotten ones are none of ours any more."""
    if known is None or known.rejected:
        return Reason.NO_SUCH_INSTANCE
    if known.sop_class_uid != asked.sop_class_uid:
        return Reason.CLASS_INSTANCE_CONFLICT
    return Reason.COMMITTED if known.proven else Reason.PROCESSING_FAILURE


def read_request(command: Mapping[str, Any], data_set: bytes, transfer_syntax: str) -> CommitmentRequest:
    """Read an N-ACTION-RQ. `command`: its elements by keyword. Raises `RequestRefused`."""
    for keyword, expected, status in _EXPECTED:
        if str(command.get(keyword, "")).strip("\0 ") != str(expected):
            raise RequestRefused(status, f"{keyword} is not of Storage Commitment")
    try:
        said, asked = read_references(data_set, _encoding(transfer_syntax), MOST_REFERENCES)
        transaction = check_uid(said)
        named = tuple(dict.fromkeys(Asked(check_uid(one), check_uid(other)) for one, other in asked))
    except TooMany as error:
        raise RequestRefused(Status.RESOURCE_LIMITATION, f"more than {MOST_REFERENCES} instances") from error
    except InvalidUID as error:
        raise RequestRefused(Status.INVALID_ARGUMENT, "a UID is missing or is not one") from error
    except ValueError as error:
        raise RequestRefused(Status.INVALID_ARGUMENT, "the action information cannot be read") from error
    if not named:
        raise RequestRefused(Status.INVALID_ARGUMENT, "ReferencedSOPSequence is missing or empty")
    return CommitmentRequest(transaction, named)


_EXPECTED = (
    ("RequestedSOPClassUID", SOP_CLASS, Status.NO_SUCH_CLASS),
    ("RequestedSOPInstanceUID", SOP_INSTANCE, Status.NO_SUCH_INSTANCE),
    ("ActionTypeID", REQUEST, Status.NO_SUCH_ACTION),
)


def _item(asked: Asked, reason: Reason | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = asked.sop_class_uid
    item.ReferencedSOPInstanceUID = asked.sop_instance_uid
    if reason is not None:
        item.FailureReason = int(reason)
    return item


def _encoding(transfer_syntax: str) -> Encoding:
    if transfer_syntax not in TRANSFER_SYNTAXES:
        raise ValueError("not a transfer syntax of Storage Commitment here")
    return ENCODINGS.get(transfer_syntax, Encoding())


def encode(information: Dataset, transfer_syntax: str) -> bytes:
    """A data set of this service as bytes. Raises ValueError for a syntax that is none of `TRANSFER_SYNTAXES`."""
    encoding = _encoding(transfer_syntax)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = encoding.implicit_vr, not encoding.big_endian
    write_dataset(buffer, information)
    return bytes(buffer.getvalue())
