"""Rejection notes (IHE RAD IOCM) and key image notes: what a Key Object Selection says of other instances. Pure.

A rejection note hides instances of its study, a key image note marks some; both are told by their title
(CID 7010). When several notes reject one instance, the reason that overrides the others counts, whatever the
order in which they came.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO

from pydicom import Dataset, Sequence
from pydicom.charset import decode_bytes
from pydicom.dataelem import RawDataElement
from pydicom.errors import BytesLengthException
from pydicom.filereader import read_dataset

from dicom_store.header import DEFLATED, ENCODINGS, python_encodings
from dicom_store.paths import check_uid
from dicom_store.scanner import UNDEFINED_LENGTH, Buffer, Encoding
from dicom_store.status import Outcome, StoreRefused
from dicom_store.study import KeyImageNote

KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"
MAX_NOTE_BYTES = 4 * 1024 * 1024  # a note that names 15,000 instances; inflated
_IOCM = "IHE RAD TF-3 4.66.4.1.3; dmp-kos-xds 1.5"


@dataclass(frozen=True, slots=True)
class Reason:
    """One row: a reason of rejection and what follows from it.

    `stops_serving_at_once`: refused to partners from the note on, even while a manifest still lists the
    instance; otherwise it is hidden from new manifests, and served until they have replaced the old one.
    `returns_when_stored_again`: the same instance sent again is no longer rejected.
    """

    code: str
    meaning: str
    overrides: frozenset[str]
    stops_serving_at_once: bool
    returns_when_stored_again: bool
    clause: str


# Each of two reasons overrides the other one way: the result is the same in every order. Retention is the weakest,
# so that what was rejected for another reason does not come back because it had expired as well.
REASONS: Mapping[str, Reason] = {
    reason.code: reason
    for reason in (
        Reason("113039", "Data Retention Policy Expired", frozenset(), False, True, _IOCM),
        Reason("113001", "Rejected for Quality Reasons", frozenset({"113039"}), False, False, _IOCM),
        Reason(
            "113037",
            "Rejected for Patient Safety Reasons",
            frozenset({"113039", "113001"}),
            True,
            False,
            _IOCM,
        ),
        Reason(
            "113038",
            "Incorrect Modality Worklist Entry",
            frozenset({"113039", "113001", "113037"}),
            True,
            False,
            _IOCM,
        ),
    )
}

# Titles of CID 7010 by which somebody marks images (dmp-kos-xds 1.3): Of Interest, For Referring Provider, Surgery,
# Teaching, Conference, Therapy, Patient, Peer Review, Research, Quality Issue, Best In Set, For Printing, For Report
# Attachment. The others name manifests and complete contents (113030 to 113035), or results of a workflow.
KEY_IMAGE_TITLES = frozenset(str(code) for code in (113000, *range(113002, 113011), 113013, 113018, 113020))


@dataclass(frozen=True, slots=True)
class Reference:
    """An instance that a note names; `SeriesInstanceUID` is "" where the note does not say it."""

    StudyInstanceUID: str
    SeriesInstanceUID: str
    SOPInstanceUID: str


@dataclass(frozen=True, slots=True)
class RejectionNote:
    """A rejection note; `code` is a key of `REASONS`, `references` are of its own study, each once."""

    SOPInstanceUID: str
    StudyInstanceUID: str
    code: str
    references: tuple[Reference, ...]


# What pydicom is known to raise on bytes that are no data set, or a broken one.
UNREADABLE = (
    ArithmeticError,
    BytesLengthException,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    Warning,  # of a value that pydicom converts by itself, where warnings are errors
    struct.error,
    zlib.error,
)


def stronger(current: str | None, code: str) -> str:
    """The reason that counts when an instance is rejected for `current` (None = not yet) and for `code`."""
    return code if current is None or current in REASONS[code].overrides else current


def strongest(codes: Iterable[str]) -> str | None:
    """The reason that counts among several; None without any."""
    counting: str | None = None
    for code in codes:
        counting = stronger(counting, code)
    return counting


def read_note(data_set: Buffer, transfer_syntax: str) -> RejectionNote | KeyImageNote | None:
    """What a Key Object Selection data set (as received, no file meta) says; None for every other title.

    A key image note whose references cannot be read is None too: it is kept like any instance. Raises
    `StoreRefused` (NOT_UNDERSTOOD) for what could be a rejection and cannot be followed: a data set that cannot
    be read or is longer than `MAX_NOTE_BYTES`; a rejection without readable references, or of another study.
    """
    try:
        root = _parse(data_set, transfer_syntax)
        title = next(iter(_items(root, "ConceptNameCodeSequence")), Dataset())
        scheme, code = _ascii(title, "CodingSchemeDesignator"), _ascii(title, "CodeValue")
    except UNREADABLE as error:
        raise _refusal("the Key Object Selection cannot be read") from error
    if scheme != "DCM":
        return None
    if code in REASONS:
        return _rejection_note(root, code)
    return _key_image_note(root, title) if code in KEY_IMAGE_TITLES else None


def _refusal(reason: str) -> StoreRefused:
    return StoreRefused(Outcome.NOT_UNDERSTOOD, reason)


def _rejection_note(root: Dataset, code: str) -> RejectionNote:
    try:
        own, study = _uid(root, "SOPInstanceUID"), _uid(root, "StudyInstanceUID")
        evidence = list(_evidence(root))
        named = {one.SOPInstanceUID: one for one in (*_content(root, study), *evidence)}
    except UNREADABLE as error:
        raise _refusal("the references of the rejection note cannot be read") from error
    if any(one.StudyInstanceUID != study for one in evidence):
        raise _refusal("the rejection note names another study than its own")
    named.pop(own, None)
    if not named:
        raise _refusal("the rejection note names no instance")
    return RejectionNote(own, study, code, tuple(named.values()))


def _key_image_note(root: Dataset, title: Dataset) -> KeyImageNote | None:
    try:
        encodings = python_encodings(_raw(root, "SpecificCharacterSet"))
        own, study = _uid(root, "SOPInstanceUID"), _uid(root, "StudyInstanceUID")
        named = dict.fromkeys(
            one.SOPInstanceUID
            for one in (*_evidence(root), *_content(root, study))
            if one.StudyInstanceUID == study and one.SOPInstanceUID != own
        )
        return KeyImageNote(
            SOPInstanceUID=own,
            SeriesInstanceUID=_uid(root, "SeriesInstanceUID"),
            CodeValue=_ascii(title, "CodeValue"),
            CodingSchemeDesignator=_ascii(title, "CodingSchemeDesignator"),
            CodeMeaning=_text(title, "CodeMeaning", encodings),
            description=_description(root, encodings),
            references=tuple(named),
        )
    except UNREADABLE:
        return None  # documented: it marks nothing, and nothing is lost by keeping it like any instance


def _evidence(root: Dataset) -> Iterator[Reference]:
    """PS3.3 C.17.6.2: every instance that the content names."""
    for study in _items(root, "CurrentRequestedProcedureEvidenceSequence"):
        for series in _items(study, "ReferencedSeriesSequence"):
            for one in _items(series, "ReferencedSOPSequence"):
                yield Reference(
                    _uid(study, "StudyInstanceUID"),
                    _uid(series, "SeriesInstanceUID"),
                    _uid(one, "ReferencedSOPInstanceUID"),
                )


def _content(root: Dataset, study: str) -> Iterator[Reference]:
    """What the content tree names; an instance missing from the evidence can only be of the note's study."""
    for item in _items(root, "ContentSequence"):
        for one in _items(item, "ReferencedSOPSequence"):
            yield Reference(study, "", _uid(one, "ReferencedSOPInstanceUID"))


def _description(root: Dataset, encodings: list[str]) -> str:
    """The text 113012 (Key Object Description), or ""."""
    for item in _items(root, "ContentSequence"):
        if any(
            _ascii(concept, "CodeValue") == "113012" for concept in _items(item, "ConceptNameCodeSequence")
        ):
            return _text(item, "TextValue", encodings)
    return ""


def _parse(data_set: Buffer, transfer_syntax: str) -> Dataset:
    data = bytes(memoryview(data_set)[: MAX_NOTE_BYTES + 1])
    if transfer_syntax in DEFLATED:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        data = inflater.decompress(data, MAX_NOTE_BYTES + 1)
        if not inflater.eof:
            raise ValueError("cut short, or longer than a note may be")
    if len(data) > MAX_NOTE_BYTES:
        raise ValueError("longer than a note may be")
    encoding = ENCODINGS.get(transfer_syntax, Encoding())
    root = read_dataset(BytesIO(data), encoding.implicit_vr, not encoding.big_endian)
    _require_whole(root)
    return root


def _require_whole(item: Dataset) -> None:
    """pydicom reads on when a value is cut short: refuse it, references may be missing."""
    raw = (element for element in item.values() if isinstance(element, RawDataElement))
    if any(len(one.value or b"") != one.length for one in raw if one.length != UNDEFINED_LENGTH):
        raise ValueError("a value is cut short")


def _items(item: Dataset, keyword: str) -> list[Dataset]:
    if keyword not in item:
        return []
    value = item[keyword].value
    if not isinstance(value, Sequence):
        raise TypeError(f"{keyword} is no sequence")
    items = list(value)
    for one in items:
        _require_whole(one)
    return items


def _raw(item: Dataset, keyword: str) -> bytes:
    """Bytes as written: pydicom's own conversions would warn, with values in the warning."""
    value = item.get_item(keyword).value if keyword in item else b""
    return value if isinstance(value, bytes) else str(value or "").encode("ascii", "replace")


def _ascii(item: Dataset, keyword: str) -> str:
    return _raw(item, keyword).decode("ascii", "replace").strip("\0 ")


def _uid(item: Dataset, keyword: str) -> str:
    return check_uid(_ascii(item, keyword))


def _text(item: Dataset, keyword: str, encodings: list[str]) -> str:
    decoded: str = decode_bytes(_raw(item, keyword), encodings, set())
    return decoded.replace("\0", "").strip()
