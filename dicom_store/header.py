"""The identifying attributes of a data set: what the door must know of an instance before it keeps it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

from pydicom.charset import convert_encodings, decode_bytes, python_encoding

from dicom_store.instance import InstanceHeader
from dicom_store.paths import InvalidUID, check_uid
from dicom_store.scanner import PREFIX_BYTES, Buffer, CutShort, Encoding, Unreadable, parse, scan
from dicom_store.status import Outcome, StoreRefused

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})


_NOT_ENCODED = "the data set is not encoded in the accepted transfer syntax"
_TOO_LATE = "what identifies the instance does not come within the first 16 MiB"


class HeaderRefused(StoreRefused):
    """The data set cannot be read, or its UIDs are missing, malformed, or not those of the command."""


class Kind(Enum):
    """How the bytes of an attribute become a value."""

    UID = "UI"
    CODE = "ASCII text"
    TEXT = "text in SpecificCharacterSet"
    INTEGER = "IS"
    UNSIGNED = "US"


@dataclass(frozen=True, slots=True)
class Attribute:
    """A row of the header: DICOM keyword, tag, kind."""

    keyword: str
    tag: int
    kind: Kind


ATTRIBUTES = (
    Attribute("SOPClassUID", 0x00080016, Kind.UID),
    Attribute("SOPInstanceUID", 0x00080018, Kind.UID),
    Attribute("StudyDate", 0x00080020, Kind.CODE),
    Attribute("StudyTime", 0x00080030, Kind.CODE),
    Attribute("AccessionNumber", 0x00080050, Kind.TEXT),
    Attribute("Modality", 0x00080060, Kind.CODE),
    Attribute("ReferringPhysicianName", 0x00080090, Kind.TEXT),
    Attribute("TimezoneOffsetFromUTC", 0x00080201, Kind.CODE),
    Attribute("StudyDescription", 0x00081030, Kind.TEXT),
    Attribute("SeriesDescription", 0x0008103E, Kind.TEXT),
    Attribute("PatientName", 0x00100010, Kind.TEXT),
    Attribute("PatientID", 0x00100020, Kind.TEXT),
    Attribute("PatientBirthDate", 0x00100030, Kind.CODE),
    Attribute("PatientSex", 0x00100040, Kind.CODE),
    Attribute("BodyPartExamined", 0x00180015, Kind.CODE),
    Attribute("StudyInstanceUID", 0x0020000D, Kind.UID),
    Attribute("SeriesInstanceUID", 0x0020000E, Kind.UID),
    Attribute("StudyID", 0x00200010, Kind.TEXT),
    Attribute("SeriesNumber", 0x00200011, Kind.INTEGER),
    Attribute("InstanceNumber", 0x00200013, Kind.INTEGER),
    Attribute("NumberOfFrames", 0x00280008, Kind.INTEGER),
    Attribute("Rows", 0x00280010, Kind.UNSIGNED),
    Attribute("Columns", 0x00280011, Kind.UNSIGNED),
    Attribute("BitsAllocated", 0x00280100, Kind.UNSIGNED),
    Attribute("PerformedProcedureStepStartDate", 0x00400244, Kind.CODE),
    Attribute("PerformedProcedureStepStartTime", 0x00400245, Kind.CODE),
)
_NUMBERS = (Kind.INTEGER, Kind.UNSIGNED)
_CHARACTER_SET = 0x00080005
_ESCAPE = b"\x1b"
_DELIMITERS = set(b"\t\n\f\r^=\\")  # each ends a code extension (PS3.5 6.1.2.5.3)
WANTED = frozenset({_CHARACTER_SET, *(attribute.tag for attribute in ATTRIBUTES)})
_UIDS = tuple(attribute for attribute in ATTRIBUTES if attribute.kind is Kind.UID)

# Transfer syntaxes that are not explicit VR little endian (PS3.5 10).
ENCODINGS = {
    IMPLICIT_VR_LITTLE_ENDIAN: Encoding(implicit_vr=True),
    EXPLICIT_VR_BIG_ENDIAN: Encoding(big_endian=True),
}


def read_header(
    data_set: Buffer, transfer_syntax: str, sop_class_uid: str, sop_instance_uid: str
) -> InstanceHeader:
    """Read the header of a data set as received (no preamble, no file meta).

    `sop_class_uid`, `sop_instance_uid`: the command's affected UIDs, repeated by the data set (PS3.4 B.2.2).
    Raises `HeaderRefused`; its reason lists every fault, by keyword, without values.
    """
    return _header(_raw_elements(data_set, transfer_syntax), transfer_syntax, sop_class_uid, sop_instance_uid)


def read_beginning(
    beginning: Buffer, transfer_syntax: str, sop_class_uid: str, sop_instance_uid: str
) -> tuple[InstanceHeader, bool] | None:
    """(header, whether nothing that follows can change it) from the first bytes of a data set; None: more are needed.

    From `PREFIX_BYTES` on what identifies the instance is enough. Raises `HeaderRefused` as `read_header` does, and
    when it does not come within `PREFIX_BYTES`.
    """
    try:
        raw, final = _beginning(beginning, transfer_syntax), True
    except CutShort as cut:
        if memoryview(beginning).nbytes < PREFIX_BYTES:
            return None
        if not all(attribute.tag in cut.found for attribute in _UIDS):
            raise HeaderRefused(Outcome.NOT_UNDERSTOOD, _TOO_LATE) from cut
        raw, final = cut.found, False
    return _header(raw, transfer_syntax, sop_class_uid, sop_instance_uid), final


def _header(
    raw: Mapping[int, bytes], transfer_syntax: str, sop_class_uid: str, sop_instance_uid: str
) -> InstanceHeader:
    return header_of(values_of(raw, transfer_syntax), transfer_syntax, sop_class_uid, sop_instance_uid)


def values_of(raw: Mapping[int, bytes], transfer_syntax: str) -> dict[str, Any]:
    """The values of `ATTRIBUTES` by keyword, from the raw values of `WANTED` tags; what is absent is empty."""
    encodings = python_encodings(raw.get(_CHARACTER_SET, b""))
    order = ">" if transfer_syntax == EXPLICIT_VR_BIG_ENDIAN else "<"
    return {
        attribute.keyword: value_of(raw.get(attribute.tag, b""), attribute.kind, encodings, order)
        for attribute in ATTRIBUTES
    }


def header_of(
    values: Mapping[str, Any], transfer_syntax: str, sop_class_uid: str, sop_instance_uid: str
) -> InstanceHeader:
    """The header with these `values_of` a data set. Raises `HeaderRefused` as `read_header` for its UIDs."""
    faults = list(_uid_faults(values, sop_class_uid, sop_instance_uid))
    if faults:
        raise HeaderRefused(faults[0][0], "; ".join(reason for _, reason in faults))
    return InstanceHeader(TransferSyntaxUID=transfer_syntax, **values)


def _raw_elements(data_set: Buffer, transfer_syntax: str) -> Mapping[int, bytes]:
    try:
        check_uid(transfer_syntax)
        if transfer_syntax in DEFLATED:
            data_set, _ = _inflated(data_set)
        encoding = ENCODINGS.get(transfer_syntax, Encoding())
        try:
            return scan(data_set, encoding, WANTED)
        except Unreadable:
            return parse(data_set, encoding, WANTED)
    except (Unreadable, InvalidUID, zlib.error) as error:
        raise HeaderRefused(Outcome.NOT_UNDERSTOOD, _NOT_ENCODED) from error


def _beginning(beginning: Buffer, transfer_syntax: str) -> Mapping[int, bytes]:
    """As `_raw_elements` where nothing that follows can change it; raises `CutShort` elsewhere."""
    try:
        check_uid(transfer_syntax)
        whole = False
        if transfer_syntax in DEFLATED:
            beginning, whole = _inflated(beginning)
        encoding = ENCODINGS.get(transfer_syntax, Encoding())
        try:
            return scan(beginning, encoding, WANTED, whole=whole)
        except CutShort:
            if not whole:
                raise
            return parse(beginning, encoding, WANTED)
        except Unreadable:
            # pydicom looks at no more than this in any case
            whole = whole or memoryview(beginning).nbytes >= PREFIX_BYTES
            return parse(beginning, encoding, WANTED, whole=whole)
    except CutShort:
        raise
    except (Unreadable, InvalidUID, zlib.error) as error:
        raise HeaderRefused(Outcome.NOT_UNDERSTOOD, _NOT_ENCODED) from error


def _inflated(data_set: Buffer) -> tuple[bytes, bool]:
    """(the first `PREFIX_BYTES` of a deflated data set, whether more of it would not change them)."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(data_set, PREFIX_BYTES)
    return inflated, inflater.eof or len(inflated) >= PREFIX_BYTES


def _uid_faults(
    values: Mapping[str, Any], sop_class_uid: str, sop_instance_uid: str
) -> Iterator[tuple[Outcome, str]]:
    command = {"SOPClassUID": sop_class_uid, "SOPInstanceUID": sop_instance_uid}
    for keyword, affected in command.items():
        if not _is_uid(affected):
            yield Outcome.UID_INVALID, f"Affected{keyword} is not a UID"
    for attribute in _UIDS:
        value = values[attribute.keyword]
        if not value:
            yield Outcome.UID_MISSING, f"{attribute.keyword} is missing"
        elif not _is_uid(value):
            yield Outcome.UID_INVALID, f"{attribute.keyword} is not a UID"
        elif command.get(attribute.keyword, value) != value:
            yield Outcome.UID_MISMATCH, f"{attribute.keyword} is not that of the command"


def _is_uid(value: str) -> bool:
    try:
        return bool(check_uid(value))
    except InvalidUID:
        return False


def python_encodings(value: bytes) -> list[str]:
    """Python codecs of SpecificCharacterSet (PS3.3 C.12.1.1.2); Latin-1 for terms that nobody defines."""
    return list(_encodings(value))


@lru_cache(64)
def _encodings(value: bytes) -> Sequence[str]:
    terms = [term.strip() for term in value.decode("ascii", "replace").strip("\0 ").split("\\")]
    if any(term not in python_encoding for term in terms):
        return ("iso8859",)
    try:
        return tuple(convert_encodings(terms))
    except Warning:  # where warnings are errors: terms that may not stand together
        return (python_encoding[terms[0]],)


def decode_text(raw: bytes, encodings: Sequence[str]) -> str:
    """Text in these `python_encodings`, code extensions included (PS3.5 6.1.2.5); what is invalid is replaced."""
    try:
        if _ESCAPE in raw:
            return str(decode_bytes(raw, encodings, _DELIMITERS))
        return raw.decode(encodings[0])
    except (UnicodeError, Warning):
        return raw.decode(encodings[0], "replace")


def value_of(raw: bytes, kind: Kind, encodings: Sequence[str], order: str) -> str | int | None:
    """One raw value, decoded and stripped; `order`: `<` or `>`, the byte order."""
    if not raw:
        return None if kind in _NUMBERS else ""
    if kind is Kind.TEXT:
        # NUL: padding by mistake, which no database text may hold
        return decode_text(raw, encodings).replace("\0", "").strip()
    if kind is Kind.UNSIGNED:
        return int(struct.unpack(order + "H", raw[:2])[0]) if len(raw) >= 2 else None
    text = raw.decode("ascii", "replace").strip("\0 ")
    return _integer(text) if kind is Kind.INTEGER else text.replace("\0", "\ufffd")


def _integer(text: str) -> int | None:
    """An IS value (PS3.5 6.2: -2^31..2^31-1); None when empty or not one."""
    digits = text.lstrip("+-")
    if not (digits.isascii() and digits.isdigit()) or len(text) > 12:
        return None
    number = int(text) if len(text) - len(digits) <= 1 else 1 << 31
    return number if -(1 << 31) <= number < 1 << 31 else None
