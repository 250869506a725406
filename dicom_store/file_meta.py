"""A DICOM file as somebody else wrote it: what its file meta says, and where its data set begins (PS3.10 7.1)."""

from __future__ import annotations

from dataclasses import dataclass

from dicom_store.paths import InvalidUID, check_uid
from dicom_store.scanner import Buffer, Encoding, Scanner, Unreadable
from dicom_store.status import Outcome, StoreRefused

META_BYTES = 64 * 1024  # of preamble, prefix and file meta together
_PREFIX = 128
_GROUP = b"\x02\x00"
_GROUP_LENGTH, _SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX = 0x00020000, 0x00020002, 0x00020003, 0x00020010
_NEEDED = {
    _SOP_CLASS: "MediaStorageSOPClassUID",
    _SOP_INSTANCE: "MediaStorageSOPInstanceUID",
    _TRANSFER_SYNTAX: "TransferSyntaxUID",
}


@dataclass(frozen=True, slots=True)
class FileMeta:
    """Valid UIDs of the instance, and `length`: bytes before the data set."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    length: int


def read_file_meta(file: Buffer) -> FileMeta:
    """Read the beginning of a file. Raises `StoreRefused`; its reason lists every fault, without values."""
    found, length = _elements(memoryview(file)[:META_BYTES])
    faults = [fault for tag, keyword in _NEEDED.items() if (fault := _fault(found.get(tag, b""), keyword))]
    if faults:
        raise StoreRefused(faults[0][0], "; ".join(reason for _, reason in faults))
    sop_class, sop_instance, transfer_syntax = (_text(found[tag]) for tag in _NEEDED)
    return FileMeta(sop_class, sop_instance, transfer_syntax, length)


def _elements(head: memoryview) -> tuple[dict[int, bytes], int]:
    """Values of the file meta by tag, and its end.

    The group length is believed when an element ends there: what follows may be deflated and look like anything.
    """
    scanner = Scanner(head, Encoding())
    found: dict[int, bytes] = {}
    position, end = _start(head), -1
    try:
        while position != end and bytes(head[position : position + 2]) == _GROUP:
            tag, _, length, start = scanner.element(position, False)
            position = scanner.after_value(start, length)
            found.setdefault(tag, bytes(head[start:position]))
            if tag == _GROUP_LENGTH and length == 4:
                end = position + int.from_bytes(found[tag], "little")
    except Unreadable as error:
        raise StoreRefused(Outcome.NOT_UNDERSTOOD, "the file meta cannot be read") from error
    return found, position


def _start(head: memoryview) -> int:
    if bytes(head[_PREFIX : _PREFIX + 4]) == b"DICM":
        return _PREFIX + 4
    if bytes(head[:2]) == _GROUP:  # as pydicom, and so dicomweb-client, writes data sets made in memory
        return 0
    raise StoreRefused(Outcome.NOT_UNDERSTOOD, "not a DICOM file: no DICM after 128 bytes")


def _fault(value: bytes, keyword: str) -> tuple[Outcome, str] | None:
    if not _text(value):
        return Outcome.UID_MISSING, f"{keyword} is missing"
    try:
        check_uid(_text(value))
    except InvalidUID:
        return Outcome.UID_INVALID, f"{keyword} is not a UID"
    return None


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace").strip("\0 ")
