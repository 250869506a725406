"""Header and DICOM JSON of the next instance of a series, for what differs from the ones before it alone. Pure.

Instances of a series have nearly all of their header in common, in the same order. A template is learned from two
that were read by `header` and `dicom_json`: the elements whose bytes are equal become runs, each compared at once,
with its JSON written already; the others are variable: their tag and VR are those of the template, their value is
read by the very code of these two modules. A template does nothing of its own: what it does not know in every respect
is read by them as a whole, and what it gives are their results, byte for byte.

A run holds nothing that depends on what comes behind it, or on where the data set is in its file (bulk data).
SpecificCharacterSet and PixelRepresentation, which say how others are read, are never variable.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dicom_store.dicom_json import (
    CHARACTER_SET,
    ELEMENT_COST,
    RestingWalk,
    Scope,
    Walk,
    instance_json,
)
from dicom_store.header import (
    ATTRIBUTES,
    DEFLATED,
    ENCODINGS,
    WANTED,
    Attribute,
    HeaderRefused,
    header_of,
    python_encodings,
    read_beginning,
    value_of,
    values_of,
)
from dicom_store.instance import InstanceHeader
from dicom_store.scanner import (
    LAST_TAG,
    UNDEFINED_LENGTH,
    VALUE_BYTES,
    Buffer,
    Encoding,
    Scanner,
    Unreadable,
    scan,
)
from dicom_store.series_layout import (
    FIRST_PIXELS,
    Draft,
    Element,
    Step,
    beginning_of,
    copy_of,
    differing,
    layout,
    member_of,
    shape,
)

SERIES = 8  # of an association, the last used ones
LEARNINGS = 8  # of a series that never matches; one more for every `MATCHES` that did
MATCHES = 16
TEXT_BYTES = 128 * 1024  # of the JSON of a template

_ATTRIBUTES = {attribute.tag: attribute for attribute in ATTRIBUTES}
_LENGTHS = {width: struct.Struct(code).unpack_from for width, code in ((2, "<H"), (4, "<I"))}

Relax = Callable[[], None] | None
_Place = tuple[int, int, int]  # start of a variable value, its length as it says, position after it


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """What the instances of a series have in common."""

    transfer_syntax: str
    steps: Sequence[Step]
    pixels: Step
    pixels_at: int  # in the pattern of `pixels`
    variable: Sequence[tuple[int, Attribute]]  # step, attribute of the header
    values: dict[str, Any]  # of the header, where they are in runs
    encodings: Sequence[str]  # of the texts in the header
    cost: int  # what a walk spends on the runs

    def match(self, beginning: bytes) -> Matched | None:
        """None: another layout, or another value in a run, or the pixels have not begun."""
        position, places = 0, []
        try:
            for pattern, _, width, _, vr, _, scope in self.steps:
                if not beginning.startswith(pattern, position):
                    return None
                position += len(pattern)
                (length,) = _LENGTHS[width](beginning, position)
                start = position + width
                position = start + length
                if length == UNDEFINED_LENGTH:
                    scanner = Scanner(beginning, _encoding(self.transfer_syntax))
                    position = scanner.after_sequence(start, vr, scope.implicit_vr)
                places.append((start, length, position))
        except (struct.error, Unreadable):
            return None
        needed = position + len(self.pixels.pattern) + self.pixels.width
        if needed > len(beginning) or not beginning.startswith(self.pixels.pattern, position):
            return None
        return Matched(self, places, position + self.pixels_at)

    def header(
        self, beginning: bytes, places: Sequence[_Place], sop_class_uid: str, sop_instance_uid: str
    ) -> InstanceHeader:
        """Of a beginning that matched. Raises `HeaderRefused` as `header.read_header`."""
        values = self.values.copy()
        for step, attribute in self.variable:
            start, length, _ = places[step]
            raw = b"" if length == UNDEFINED_LENGTH else beginning[start : start + min(length, VALUE_BYTES)]
            values[attribute.keyword] = value_of(raw, attribute.kind, self.encodings, "<")
        return header_of(values, self.transfer_syntax, sop_class_uid, sop_instance_uid)


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """A data set whose beginning is that of a template."""

    template: Template
    places: Sequence[_Place]
    pixels: int  # where they begin

    def json(self, data_set: Buffer, file_offset: int, relax: Relax = None) -> bytes:
        """`dicom_json.instance_json` of the data set whose beginning matched, `strict`; raises as it does."""
        text = None
        with suppress(Unreadable, HeaderRefused):  # the walk over the whole of it has the last word
            text = self._json(data_set, file_offset, relax)
        if text is None:
            return instance_json(data_set, self.template.transfer_syntax, file_offset, relax, strict=True)
        return text

    def _json(self, data_set: Buffer, file_offset: int, relax: Relax) -> bytes | None:
        """None: it has elements where none are awaited."""
        said = (data_set, _encoding(self.template.transfer_syntax), file_offset, True)
        walk = Walk(*said) if relax is None else RestingWalk(relax, *said)
        walk.spend(self.template.cost)
        end, parts = memoryview(data_set).nbytes, []
        for step, (start, length, after) in zip(self.template.steps, self.places, strict=True):
            walk.spend(ELEMENT_COST)
            text, position = walk.member(step.tag, step.vr, length, start, end, step.scope)
            if position != after:
                return None
            parts.append(step.text)
            if text and step.key:
                parts.append(step.key + text.encode("utf-8", "replace") + b"}")
        parts.append(self.template.pixels.text)
        rest = _rest(walk, self.pixels, end, self.template.pixels.scope)
        if min(rest, default=FIRST_PIXELS) < FIRST_PIXELS:
            return None
        parts += [member_of(tag, rest[tag]) for tag in sorted(rest)]
        return b"{" + b",".join(filter(None, parts)) + b"}"


def _rest(walk: Walk, position: int, end: int, scope: Scope) -> dict[int, str]:
    """Members from the pixels on, by tag."""
    found: dict[int, str] = {}
    with suppress(Unreadable):  # as far as it can be understood, like `Walk.members`
        walk.elements(position, end, copy_of(scope), found)
    return found


def _encoding(transfer_syntax: str) -> Encoding:
    return ENCODINGS.get(transfer_syntax, Encoding())


def template_of(
    data_set: Buffer, elements: Sequence[Element], varying: Set[int], transfer_syntax: str
) -> Template:
    """The template of data sets with the layout of this one, all alike but for the elements that vary.

    Raises `Unreadable` where there is none, or where it would spare less than half of the work.
    """
    encoding = _encoding(transfer_syntax)
    draft = Draft(data_set, encoding, varying)
    for element in elements[:-1]:
        draft.add(element)
    last = elements[-1]
    draft.close(last)
    *steps, pixels = draft.steps
    if 2 * draft.cost < draft.work or sum(len(step.text) for step in draft.steps) > TEXT_BYTES:
        raise Unreadable("a template would spare little")
    raw = scan(data_set, encoding, WANTED, LAST_TAG)
    return Template(
        transfer_syntax,
        steps,
        pixels,
        len(pixels.pattern) + pixels.width - (last.start - last.begin),
        [(place, _ATTRIBUTES[step.tag]) for place, step in enumerate(steps) if step.tag in _ATTRIBUTES],
        values_of(raw, transfer_syntax),
        python_encodings(raw.get(CHARACTER_SET, b"")),
        draft.cost,
    )


class _Series:
    """What is known of one series: the last one learned from, what varied since its shape changed, its template."""

    def __init__(self, transfer_syntax: str) -> None:
        self._transfer_syntax = transfer_syntax
        self._beginning = b""
        self._varying: frozenset[int] = frozenset()
        self._learnings = self.matches = 0
        self.template: Template | None = None

    def learn(self, data_set: Buffer) -> Matched | None:
        """See `Templates.learn`."""
        matched = self.template and self.template.match(beginning_of(data_set))
        if matched:
            self.matches += 1
            return matched
        if self._is_hopeless:
            self._beginning, self.template = b"", None
            return None
        self._learnings += 1
        with suppress(Unreadable):
            self._compare(beginning_of(data_set), data_set)
        return None

    @property
    def _is_hopeless(self) -> bool:
        """Whether it matched too rarely for what it was learned."""
        return self._learnings >= LEARNINGS + self.matches // MATCHES

    def _compare(self, beginning: bytes, data_set: Buffer) -> None:
        encoding = _encoding(self._transfer_syntax)
        elements = layout(beginning, encoding)
        before, self._beginning = self._beginning, beginning[: elements[-1].start]
        known = layout(before, encoding) if before else []
        if shape(known) != shape(elements):
            self._varying = frozenset()
            return
        self._varying |= differing(before, known, beginning, elements)
        self.template = None
        self.template = template_of(data_set, elements, self._varying, self._transfer_syntax)


class Templates:
    """Those of the last `SERIES` series of one association. Not for several threads."""

    def __init__(self) -> None:
        self._series: OrderedDict[tuple[str, str, str], _Series] = OrderedDict()

    def read(
        self, beginning: Buffer, transfer_syntax: str, sop_class_uid: str, sop_instance_uid: str
    ) -> tuple[InstanceHeader, bool, Matched | None] | None:
        """As `header.read_beginning`; the third value: by which template, if any, and its JSON later."""
        data = b""
        for key in reversed(self._series):
            template = self._series[key].template
            if template is None or key[:2] != (transfer_syntax, sop_class_uid):
                continue
            data = data or beginning_of(beginning)
            if matched := template.match(data):
                self._series[key].matches += 1
                self._series.move_to_end(key)
                said = (sop_class_uid, sop_instance_uid)
                return template.header(data, matched.places, *said), True, matched
        found = read_beginning(beginning, transfer_syntax, sop_class_uid, sop_instance_uid)
        return found and (*found, None)

    def learn(self, header: InstanceHeader, data_set: Buffer) -> Matched | None:
        """An instance that was read without a template, to the pixels at least: the second of a series makes one.

        Not None: there is one for it, that its beginning was too short for; nothing was learned.
        """
        syntax = header.TransferSyntaxUID
        if syntax in DEFLATED or _encoding(syntax).big_endian:
            return None
        key = (syntax, header.SOPClassUID, header.SeriesInstanceUID)
        series = self._series.setdefault(key, _Series(syntax))
        self._series.move_to_end(key)
        if len(self._series) > SERIES:
            self._series.popitem(last=False)
        return series.learn(data_set)
