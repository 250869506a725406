"""The rules that a validator of attributes misses, and `check_manifest`, which applies every table.

This table: references and content tree (PS3.3 C.17, PS3.16 TID 2010). `kos_iod`: attributes. `kos_profile`:
DRIM-M.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.uid import UID_dictionary

from drimbox.domain.kos_content import value_type
from drimbox.domain.kos_iod import Finding, Rule, check_attributes
from drimbox.domain.kos_profile import PROFILE
from drimbox.domain.kos_reading import descriptions
from drimbox.domain.kos_tree import Item, KosFile, NotAManifest, parse_kos
from drimbox.domain.violations import Severity, Violation

_REFERENCES = frozenset({"IMAGE", "WAVEFORM", "COMPOSITE"})

# Value types allowed under each relationship with the root (PS3.3 A.35.4.3.1, TID 2010, TID 1002, TID 1204).
_CHILDREN: dict[str, frozenset[str]] = {
    "CONTAINS": _REFERENCES | {"TEXT"},
    "HAS CONCEPT MOD": frozenset({"CODE"}),
    "HAS OBS CONTEXT": frozenset({"TEXT", "CODE", "UIDREF", "PNAME"}),
}


def check_manifest(data: bytes) -> tuple[Violation, ...]:
    """Every violation of the IOD, of TID 2010 and of the DRIM-M profile; never raises for what the bytes are.

    The differences that a reader must tolerate (drim-m-data 6.4) are warnings.
    """
    try:
        kos = parse_kos(data)
    except NotAManifest as error:
        return (Violation("not-dicom", str(error), "", "PS3.10 7"),)
    found = list(check_attributes(kos))
    for rule in (*STRUCTURE, *PROFILE):
        found.extend(rule.apply(kos))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Reference:
    """One reference of the content tree: `where`, the content item, the referenced class and instance."""

    where: str
    item: Item
    sop_class: str
    sop_instance: str


def _evidence(root: Item) -> Iterator[tuple[str, str, str]]:
    """(series, class, instance) of the evidence."""
    for study in root.items("CurrentRequestedProcedureEvidenceSequence"):
        for series in study.items("ReferencedSeriesSequence"):
            for ref in series.items("ReferencedSOPSequence"):
                uids = ref.text("ReferencedSOPClassUID"), ref.text("ReferencedSOPInstanceUID")
                yield series.text("SeriesInstanceUID"), *uids


def _content(root: Item) -> Iterator[_Reference]:
    for number, item in enumerate(root.items("ContentSequence"), 1):
        for ref in item.items("ReferencedSOPSequence"):
            uids = ref.text("ReferencedSOPClassUID"), ref.text("ReferencedSOPInstanceUID")
            yield _Reference(f"ContentSequence[{number}]", item, *uids)


def _meta(kos: KosFile) -> Iterator[Finding]:
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        if kos.meta.text(f"MediaStorage{keyword}") != kos.root.text(keyword):
            yield f"MediaStorage{keyword}", f"differs from {keyword}"


def _identical_documents(kos: KosFile) -> Iterator[Finding]:
    studies = kos.root.items("CurrentRequestedProcedureEvidenceSequence")
    if len({one.text("StudyInstanceUID") for one in studies}) > 1 and not kos.root.items(
        "IdenticalDocumentsSequence"
    ):
        yield "IdenticalDocumentsSequence", "required when several studies are referenced"


def _repeated(kos: KosFile) -> Iterator[Finding]:
    studies = kos.root.items("CurrentRequestedProcedureEvidenceSequence")
    series = [s.text("SeriesInstanceUID") for one in studies for s in one.items("ReferencedSeriesSequence")]
    places = {
        "CurrentRequestedProcedureEvidenceSequence": [one.text("StudyInstanceUID") for one in studies],
        "ReferencedSeriesSequence": series,
        "ReferencedSOPSequence": [uid for _, _, uid in _evidence(kos.root)],
        "ContentSequence": [ref.sop_instance for ref in _content(kos.root)],
    }
    for where, uids in places.items():
        for uid, times in Counter(uids).items():
            if uid and times > 1:
                yield where, f"{uid} is listed {times} times"


def _same_instances(kos: KosFile) -> Iterator[Finding]:
    evidence = {uid for _, _, uid in _evidence(kos.root)}
    content = {ref.sop_instance for ref in _content(kos.root)}
    for uid in sorted(content - evidence):
        yield "CurrentRequestedProcedureEvidenceSequence", f"{uid} of the content tree is not in the evidence"
    for uid in sorted(evidence - content):
        yield "ContentSequence", f"{uid} of the evidence is not in the content tree"


def _same_classes(kos: KosFile) -> Iterator[Finding]:
    classes = {uid: sop_class for _, sop_class, uid in _evidence(kos.root)}
    for ref in _content(kos.root):
        if classes.get(ref.sop_instance, ref.sop_class) != ref.sop_class:
            yield ref.where, "another SOP class than in the evidence"


def _own_series(kos: KosFile) -> Iterator[Finding]:
    own = kos.root.text("SeriesInstanceUID")
    if own and own in {series for series, _, _ in _evidence(kos.root)}:
        yield "SeriesInstanceUID", "the manifest is in a series that it references"
    if kos.root.text("SOPInstanceUID") in {uid for _, _, uid in _evidence(kos.root)}:
        yield "CurrentRequestedProcedureEvidenceSequence", "the manifest references itself"


def _value_type(kos: KosFile) -> Iterator[Finding]:
    for ref in _content(kos.root):
        said, right = ref.item.text("ValueType"), value_type(ref.sop_class)
        if said in ("IMAGE", "WAVEFORM") and said != right and ref.sop_class in UID_dictionary:
            yield ref.where, f"{UID_dictionary[ref.sop_class][0]} referenced as {said}, must be {right}"


def _vague_value_type(kos: KosFile) -> Iterator[Finding]:
    vague = [r for r in _content(kos.root) if r.item.text("ValueType") == "COMPOSITE"]
    count = sum(value_type(ref.sop_class) != "COMPOSITE" for ref in vague)
    if count:
        yield "ContentSequence", f"{count} images or waveforms referenced as COMPOSITE"


def _children(kos: KosFile) -> Iterator[Finding]:
    for number, item in enumerate(kos.root.items("ContentSequence"), 1):
        where, relation, kind = (
            f"ContentSequence[{number}]",
            item.text("RelationshipType"),
            item.text("ValueType"),
        )
        if kind not in _CHILDREN.get(relation, ()):
            yield (
                where,
                f"{relation or '(no relationship)'} {kind or '(no value type)'} is not in the template",
            )
        if kind in _REFERENCES and len(item.items("ReferencedSOPSequence")) != 1:
            yield where, f"{kind} must reference one instance"
        if kind in ("IMAGE", "WAVEFORM") and "ContentSequence" in item:
            yield where, f"{kind} must have no children"
        if "ReferencedContentItemIdentifier" in item:
            yield where, "relationships are by value only"


def _something(kos: KosFile) -> Iterator[Finding]:
    if not _REFERENCES & {item.text("ValueType") for item in kos.root.items("ContentSequence")}:
        yield "ContentSequence", "at least one IMAGE, WAVEFORM or COMPOSITE is required"


def _one_description(kos: KosFile) -> Iterator[Finding]:
    if len(descriptions(kos.root)) > 1:
        yield "ContentSequence", "at most one Key Object Description (113012)"


def _template(kos: KosFile) -> Iterator[Finding]:
    for item in kos.root.items("ContentTemplateSequence"):
        if (item.text("MappingResource"), item.text("TemplateIdentifier")) != ("DCMR", "2010"):
            yield "ContentTemplateSequence", "must be TID 2010 of DCMR"


_TREE = "PS3.3 A.35.4.3.1"
STRUCTURE: tuple[Rule, ...] = (
    Rule("meta-agrees", "PS3.10 7.1", Severity.ERROR, _meta),
    Rule("identical-documents", "PS3.3 C.17.6.2", Severity.ERROR, _identical_documents),
    Rule("listed-once", "PS3.3 C.17-3", Severity.ERROR, _repeated),
    Rule("evidence-is-content", "PS3.3 C.17.6.2", Severity.ERROR, _same_instances),
    Rule("class-agrees", "PS3.3 C.17-3", Severity.ERROR, _same_classes),
    Rule("own-series", "PS3.3 C.17.6.1", Severity.ERROR, _own_series),
    Rule("value-type", "PS3.16 TID 2010 rows 8-10", Severity.ERROR, _value_type),
    Rule("value-type-vague", "PS3.16 TID 2010 rows 8-10", Severity.WARNING, _vague_value_type),
    Rule("children", _TREE, Severity.ERROR, _children),
    Rule("something-referenced", "PS3.16 TID 2010 rows 8-10", Severity.ERROR, _something),
    Rule("one-description", "PS3.16 TID 2010 row 7", Severity.ERROR, _one_description),
    Rule("template", "PS3.16 TID 2010", Severity.ERROR, _template),
)
