"""The two long sequences of a manifest as bytes, Explicit VR Little Endian (PS3.5 7.1.2): evidence and content.

The same attributes as `kos_content.evidence` and `kos_content.content`, written as pydicom writes them; the
properties compare both byte for byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache

from dicom_store.study import InstanceRef, KeyImageNote, StudySnapshot
from drimbox.domain.kos_content import line, long_string, marks, series_url, value_type

_SHORT = struct.Struct("<HH2sH").pack
_LONG = struct.Struct("<HH2sHI").pack
_ITEM = struct.Struct("<HHI").pack

_Tag = tuple[int, int]
_CLASS, _INSTANCE, _URL = (0x0008, 0x1150), (0x0008, 0x1155), (0x0008, 0x1190)
_SOPS, _SERIES_ITEMS = (0x0008, 0x1199), (0x0008, 0x1115)
_CODE, _SCHEME, _MEANING = (0x0008, 0x0100), (0x0008, 0x0102), (0x0008, 0x0104)
_STUDY, _SERIES, _SERIES_NUMBER, _NUMBER = (
    (0x0020, 0x000D),
    (0x0020, 0x000E),
    (0x0020, 0x0011),
    (0x0020, 0x0013),
)
_RELATION, _VALUE_TYPE, _CONCEPT = (0x0040, 0xA010), (0x0040, 0xA040), (0x0040, 0xA043)
_TEXT, _EVIDENCE, _CONTENT = (0x0040, 0xA160), (0x0040, 0xA375), (0x0040, 0xA730)


def evidence(study: StudySnapshot, base: str, codec: str) -> bytes:
    """Current Requested Procedure Evidence Sequence (0040,A375). `codec`: of Specific Character Set."""
    marked = {
        uid: _sequence(_SOPS, [_note(note, codec) for note in notes]) for uid, notes in marks(study).items()
    }
    series = []
    for one in study.series:
        url = series_url(base, study.StudyInstanceUID, one.SeriesInstanceUID)
        parts = (
            _long(_URL, b"UR", url.encode("ascii")),
            _sequence(_SOPS, [_reference(ref, marked.get(ref.SOPInstanceUID, b"")) for ref in one.instances]),
            _uid(_SERIES, one.SeriesInstanceUID),
            _integer(_SERIES_NUMBER, one.SeriesNumber),
        )
        series.append(b"".join(parts))
    of_study = _sequence(_SERIES_ITEMS, series) + _uid(_STUDY, study.StudyInstanceUID)
    return _sequence(_EVIDENCE, [of_study])


def content(instances: Iterable[InstanceRef], text: str, codec: str) -> bytes:
    """Content Sequence (0040,A730): one reference per instance, then the text 113012."""
    items = [
        _sequence(_SOPS, [_reference(ref)]) + _relation(value_type(ref.SOPClassUID)) for ref in instances
    ]
    concept = _concept("113012", "DCM", "Key Object Description", codec)
    items.append(_relation("TEXT") + concept + _long(_TEXT, b"UT", text.encode(codec)))
    return _sequence(_CONTENT, items)


def _reference(ref: InstanceRef, notes: bytes = b"") -> bytes:
    return (
        _class(ref.SOPClassUID)
        + _uid(_INSTANCE, ref.SOPInstanceUID)
        + notes
        + _integer(_NUMBER, ref.InstanceNumber)
    )


def _note(note: KeyImageNote, codec: str) -> bytes:
    text = line(note.description).encode(codec)
    return b"".join(
        (
            _uid(_INSTANCE, note.SOPInstanceUID),
            _uid(_SERIES, note.SeriesInstanceUID),
            _concept(note.CodeValue, note.CodingSchemeDesignator, long_string(note.CodeMeaning), codec),
            _sequence(_CONTENT, [_long(_TEXT, b"UT", text)]) if text else b"",
        )
    )


def _concept(value: str, scheme: str, meaning: str, codec: str) -> bytes:
    parts = (
        _short(_CODE, b"SH", value.encode(codec)),
        _short(_SCHEME, b"SH", scheme.encode(codec)),
        _short(_MEANING, b"LO", meaning.encode(codec)),
    )
    return _sequence(_CONCEPT, [b"".join(parts)])


@lru_cache(maxsize=1024)
def _class(sop_class_uid: str) -> bytes:
    return _uid(_CLASS, sop_class_uid)


@lru_cache(maxsize=16)
def _relation(kind: str) -> bytes:
    return _short(_RELATION, b"CS", b"CONTAINS") + _short(_VALUE_TYPE, b"CS", kind.encode("ascii"))


def _uid(tag: _Tag, uid: str) -> bytes:
    value = uid.encode("ascii")
    value += b"\0" * (len(value) % 2)
    return _SHORT(*tag, b"UI", len(value)) + value


def _integer(tag: _Tag, number: int | None) -> bytes:
    """An IS element; nothing at all for None."""
    return b"" if number is None else _short(tag, b"IS", b"%d" % number)


def _short(tag: _Tag, vr: bytes, value: bytes) -> bytes:
    value += b" " * (len(value) % 2)
    return _SHORT(*tag, vr, len(value)) + value


def _long(tag: _Tag, vr: bytes, value: bytes) -> bytes:
    value += b" " * (len(value) % 2)
    return _LONG(*tag, vr, 0, len(value)) + value


def _sequence(tag: _Tag, items: Iterable[bytes]) -> bytes:
    """A sequence of defined length, of items of defined length."""
    value = b"".join([_ITEM(0xFFFE, 0xE000, len(one)) + one for one in items])
    return _LONG(*tag, b"SQ", 0, len(value)) + value
