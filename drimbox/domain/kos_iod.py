"""What DICOM asks of the attributes of a Key Object Selection: presence, values, VR (PS3.3 A.35.4, PS3.5).

Tables first, the walk that applies them below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from pydicom.datadict import dictionary_VM, dictionary_VR

from drimbox.domain.kos_content import KOS_CLASS
from drimbox.domain.kos_tree import Element, Item, KosFile
from drimbox.domain.violations import Severity, Violation

Finding = tuple[str, str]  # where, message


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of a table of rules: `check` yields (where, message) for each place that breaks it."""

    slug: str
    clause: str
    severity: Severity
    check: Callable[[KosFile], Iterator[Finding]]

    def apply(self, kos: KosFile) -> Iterator[Violation]:
        """The violations of this rule."""
        for where, message in self.check(kos):
            yield Violation(self.slug, message, where, self.clause, self.severity)


_REQUEST = ("ReferencedRequestSequence",)
_STUDY = ("CurrentRequestedProcedureEvidenceSequence",)
_SERIES = (*_STUDY, "ReferencedSeriesSequence")
_SOP = (*_SERIES, "ReferencedSOPSequence")
_CONTENT = ("ContentSequence",)
_CONTENT_SOP = (*_CONTENT, "ReferencedSOPSequence")
_ORDER = "ImagingServiceRequest"

# Where (sequences from the root), clause, type 1 attributes, type 2 attributes.
ATTRIBUTES: tuple[tuple[tuple[str, ...], str, str, str], ...] = (
    ((), "PS3.3 C.7.1.1", "", "PatientName PatientID PatientBirthDate PatientSex"),
    (
        (),
        "PS3.3 C.7.2.1",
        "StudyInstanceUID",
        "StudyDate StudyTime ReferringPhysicianName StudyID AccessionNumber",
    ),
    (
        (),
        "PS3.3 C.17.6.1",
        "Modality SeriesInstanceUID SeriesNumber",
        "ReferencedPerformedProcedureStepSequence",
    ),
    ((), "PS3.3 C.7.5.1", "", "Manufacturer"),
    (
        (),
        "PS3.3 C.17.6.2",
        "InstanceNumber ContentDate ContentTime CurrentRequestedProcedureEvidenceSequence",
        "",
    ),
    ((), "PS3.3 C.17.3", "ValueType ConceptNameCodeSequence ContinuityOfContent ContentSequence", ""),
    ((), "PS3.3 C.12.1", "SOPClassUID SOPInstanceUID", ""),
    (
        _REQUEST,
        "PS3.3 C.17.6.2",
        "StudyInstanceUID",
        "ReferencedStudySequence AccessionNumber RequestedProcedureID RequestedProcedureDescription "
        f"RequestedProcedureCodeSequence PlacerOrderNumber{_ORDER} FillerOrderNumber{_ORDER}",
    ),
    (_STUDY, "PS3.3 C.17-3", "StudyInstanceUID ReferencedSeriesSequence", ""),
    (_SERIES, "PS3.3 C.17-3", "SeriesInstanceUID ReferencedSOPSequence", ""),
    (_SOP, "PS3.3 C.17-3", "ReferencedSOPClassUID ReferencedSOPInstanceUID", ""),
    (_CONTENT, "PS3.3 C.17.3", "RelationshipType ValueType", ""),
    (_CONTENT_SOP, "PS3.3 C.17.3", "ReferencedSOPClassUID ReferencedSOPInstanceUID", ""),
    (("ConceptNameCodeSequence",), "PS3.3 8.8", "CodeValue CodingSchemeDesignator CodeMeaning", ""),
    ((*_CONTENT, "ConceptNameCodeSequence"), "PS3.3 8.8", "CodeValue CodingSchemeDesignator CodeMeaning", ""),
)

META = (
    "MediaStorageSOPClassUID MediaStorageSOPInstanceUID TransferSyntaxUID ImplementationClassUID "
    "FileMetaInformationVersion"
)

# Root attributes with one possible value: keyword, value, clause.
FIXED: tuple[tuple[str, str, str], ...] = (
    ("SOPClassUID", KOS_CLASS, "PS3.3 A.35.4"),
    ("Modality", "KO", "PS3.3 C.17.6.1"),
    ("ValueType", "CONTAINER", "PS3.3 C.17.3"),
    ("ContinuityOfContent", "SEPARATE", "PS3.16 TID 2010"),
)

_PRINTABLE = r"[^\x00-\x1a\x1c-\x1f\x7f\\]"  # ESC (0x1b) is allowed, for code extensions
_GROUP = r"[^\x00-\x1a\x1c-\x1f\x7f\\=]{0,64}"

# Form of one value, PS3.5 table 6.2-1.
FORMS: dict[str, re.Pattern[str]] = {
    "CS": re.compile(r"[A-Z0-9 _]{0,16}"),
    "DA": re.compile(r"\d{8}"),
    "IS": re.compile(r"[+-]?\d{1,12}"),
    "LO": re.compile(_PRINTABLE + "{0,64}"),
    "PN": re.compile(f"{_GROUP}(={_GROUP}){{0,2}}"),
    "SH": re.compile(_PRINTABLE + "{0,16}"),
    "TM": re.compile(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?"),
    "UI": re.compile(r"(?=.{1,64}$)(0|[1-9]\d*)(\.(0|[1-9]\d*))+"),
    "UR": re.compile(r"[!-~]*"),
}


def check_attributes(kos: KosFile) -> Iterator[Violation]:
    """Every attribute that is missing, empty, of another value, VR, form or character set than DICOM asks."""
    yield from _present(kos.meta, "", "PS3.10 7.1", META.split(), filled=True)
    for path, clause, type_1, type_2 in ATTRIBUTES:
        for where, item in items_at(kos.root, path):
            yield from _present(item, where, clause, type_1.split(), filled=True)
            yield from _present(item, where, clause, type_2.split(), filled=False)
    for keyword, value, clause in FIXED:
        if kos.root.text(keyword) not in ("", value):
            yield Violation("fixed-value", f"must be {value}", keyword, clause)
    for where, element in [*walk(kos.meta), *walk(kos.root)]:
        yield from _well_formed(where, element)


def items_at(root: Item, path: tuple[str, ...], where: str = "") -> Iterator[tuple[str, Item]]:
    """Every item that a path of sequences leads to, with its place: `Sequence[1].Sequence[2].`."""
    if not path:
        yield where, root
        return
    for number, item in enumerate(root.items(path[0]), 1):
        yield from items_at(item, path[1:], f"{where}{path[0]}[{number}].")


def walk(item: Item, where: str = "") -> Iterator[tuple[str, Element]]:
    """Every element of the tree with its place."""
    for keyword, element in item.elements.items():
        yield where + keyword, element
        for number, child in enumerate(element.items, 1):
            yield from walk(child, f"{where}{keyword}[{number}].")


def _present(
    item: Item, where: str, clause: str, keywords: list[str], *, filled: bool
) -> Iterator[Violation]:
    for keyword in keywords:
        if keyword not in item:
            yield Violation(
                "missing", f"type {1 if filled else 2} attribute is missing", where + keyword, clause
            )
        elif filled and not (item.values(keyword) or item.items(keyword)):
            yield Violation("empty", "type 1 attribute is empty", where + keyword, clause)


def _well_formed(where: str, element: Element) -> Iterator[Violation]:
    expected, multiplicity = _dictionary(element.tag)
    if expected and element.vr not in expected:
        yield Violation("vr", f"VR {element.vr}, must be {'/'.join(expected)}", where, "PS3.6 6")
        return
    if element.undecodable:
        yield Violation("charset", "bytes outside the Specific Character Set", where, "PS3.3 C.12.1.1.2")
    if multiplicity == "1" and len(element.values) > 1:
        yield Violation("vm", f"{len(element.values)} values, must be 1", where, "PS3.6 6")
    if not all(fits(element.vr, value) for value in element.values):
        yield Violation("form", f"not a value of VR {element.vr}", where, "PS3.5 6.2")


def fits(vr: str, value: str) -> bool:
    """True for an empty value and for one in the form of its VR (PS3.5 6.2); a DA is a day that exists."""
    form = FORMS.get(vr)
    if value and form is not None and not form.fullmatch(value):
        return False
    return vr != "DA" or not value or _is_date(value)


def _is_date(value: str) -> bool:
    try:
        datetime.strptime(value, "%Y%m%d")  # noqa: DTZ007  (a date has no zone)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=4096)
def _dictionary(tag: int) -> tuple[tuple[str, ...], str]:
    """Possible VRs (none = any: private or unknown) and multiplicity of a tag."""
    try:
        return tuple(str(dictionary_VR(tag)).split(" or ")), str(dictionary_VM(tag))
    except KeyError:
        return (), "1-n"
