"""Defects of real messages that change nothing in how the message is read: looked for and named (hl7-mss 6).

The slugs are those of `hl7v2_grammar.TOLERANCES`; messages never repeat patient data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from drimbox.domain.hl7v2_form import Draft
from drimbox.domain.hl7v2_grammar import PARTICIPATION
from drimbox.domain.hl7v2_syntax import Segment
from drimbox.domain.timestamp import InvalidTimestamp, parse_timestamp

Finding = tuple[str, str, str]  # slug, message, place
_PLACEHOLDER = re.compile(rb"\{\{\w{1,40}\}\}")
_SMALL_TILDE = "\u02dc"
_NATIONAL = "ASIP-SANTE"  # how the national authorities are called; other names may hold blanks
_AUTHORITIES = (("PID", 3, 4), ("PRT", 5, 9), ("PRT", 8, 6))  # segment, field, HD component
_ANY_ZONE = "Europe/Paris"
_DATE = 7  # MSH-7


def note_defects(draft: Draft) -> None:
    """Name what `DEFECTS` finds in the warnings of the draft."""
    for look in DEFECTS:
        for slug, message, place in look(draft):
            draft.warn(slug, message, place)


def _fields(draft: Draft) -> Iterator[tuple[Segment, int, bytes]]:
    for segment in draft.segments:
        shift = 1 if segment.name == "MSH" else 0
        for index, content in enumerate(segment.fields[1:], start=1):
            if content:
                yield segment, index + shift, content


def _line_breaks(draft: Draft) -> Iterator[Finding]:
    for segment, number, content in _fields(draft):
        document = segment.name == "OBX" and number == 5 and segment.component(2).upper() == "ED"
        if not document and (b"\n" in content or b"\r" in content):
            yield "line-break", "a line end inside a field", segment.place(number)


def _placeholders(draft: Draft) -> Iterator[Finding]:
    for segment, number, content in _fields(draft):
        if b"{" in content and _PLACEHOLDER.search(content):
            yield "placeholder", "a placeholder that was never filled", segment.place(number)


def _message_date(draft: Draft) -> Iterator[Finding]:
    msh = draft.segments[0]
    if _PLACEHOLDER.search(msh.raw(_DATE)[:100]):
        return
    try:
        parse_timestamp(msh.component(_DATE), _ANY_ZONE)
    except InvalidTimestamp:
        yield "message-date", "MSH-7 is not a date and time", msh.place(_DATE)


def _small_tilde(draft: Draft) -> Iterator[Finding]:
    for pid in draft.all("PID"):
        for number, lost in ((3, "its identifiers"), (5, "its names"), (11, "the birth place")):
            if _SMALL_TILDE in pid.text(number):
                reason = f"U+02DC stands where ~ separates repetitions: {lost} cannot be told apart"
                yield "small-tilde", reason, pid.place(number)


def _authorities(draft: Draft) -> Iterator[Finding]:
    for name, number, component in _AUTHORITIES:
        for segment in draft.all(name):
            for value in segment.repetitions(number):
                namespace, oid = value.written_authority(component)
                compact = "".join(namespace.split())
                if compact != namespace and compact.startswith(_NATIONAL):
                    yield "authority-blank", "the name of the authority holds a blank", segment.place(number)
                if not oid and value.authority(component)[1]:
                    yield "authority-bare-oid", "the OID stands in place of a name", segment.place(number)


def _participations(draft: Draft) -> Iterator[Finding]:
    for prt in draft.all("PRT"):
        if not prt.component(4, 2):
            yield "participation-label", "PRT-4 has a code without its label", prt.place(4)
        if prt.component(4, 3) != PARTICIPATION:
            yield "participation-table", f"PRT-4.3 is not {PARTICIPATION}", prt.place(4)


def _entities(draft: Draft) -> Iterator[Finding]:
    for txa in draft.all("TXA"):
        for number in (12, 13):
            if txa.component(number, 2):
                yield "entity-stray-component", "a second component that says nothing", txa.place(number)


DEFECTS: tuple[Callable[[Draft], Iterator[Finding]], ...] = (
    _line_breaks,
    _placeholders,
    _message_date,
    _small_tilde,
    _authorities,
    _participations,
    _entities,
)
