"""The DRIM-M profile of the manifest as a table of rules (drim-m-data section 6; its 6.4 gives the warnings).

Content Template Sequence (0040,A504) is absent from every sample: its absence is not reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo

from drimbox.domain.identifiers import INS_AUTHORITIES, InvalidIdentifier, parse_ins
from drimbox.domain.kos_iod import Finding, Rule, items_at, walk
from drimbox.domain.kos_reading import descriptions, title
from drimbox.domain.kos_tree import Item, KosFile
from drimbox.domain.violations import Severity

_EVIDENCE = "CurrentRequestedProcedureEvidenceSequence"
_QUALIFIERS = "IssuerOfPatientIDQualifiersSequence"
_PARIS = ZoneInfo("Europe/Paris")
_BIRTH_PLACE = re.compile(r"\d[0-9AB]\d{3}")
_OFFSET = re.compile(r"(\+(0\d|1[0-3])[0-5]\d|\+1400|-(0\d|1[01])[0-5]\d|-1200)")
_SERIES_LINE = re.compile(r"S[ée]rie-([0-9.]+) : (\S*) @ ?(.*?) : .*")
_XON = re.compile(r".+\^{9}[^^]+")


def _first(item: Item, keyword: str) -> Item:
    return next(iter(item.items(keyword)), Item())


def _title(kos: KosFile) -> Iterator[Finding]:
    if title(kos.root) != "113030":
        yield "ConceptNameCodeSequence", "the title must be 113030 DCM"


def _title_meaning(kos: KosFile) -> Iterator[Finding]:
    if (
        title(kos.root) == "113030"
        and _first(kos.root, "ConceptNameCodeSequence").text("CodeMeaning") != "MANIFEST"
    ):
        yield "ConceptNameCodeSequence", "the meaning of 113030 is written MANIFEST"


def _one_study(kos: KosFile) -> Iterator[Finding]:
    studies = kos.root.items(_EVIDENCE)
    if len(studies) > 1:
        yield _EVIDENCE, f"{len(studies)} studies, must be one per manifest"
    if studies and kos.root.text("StudyInstanceUID") not in {one.text("StudyInstanceUID") for one in studies}:
        yield _EVIDENCE, "another study than StudyInstanceUID"


def _ins(kos: KosFile) -> Iterator[Finding]:
    qualifier = _first(kos.root, _QUALIFIERS)
    try:
        parse_ins(kos.root.text("PatientID"), qualifier.text("UniversalEntityID"))
    except InvalidIdentifier as error:
        yield "PatientID", str(error)
    if qualifier.text("UniversalEntityIDType") != "ISO":
        yield f"{_QUALIFIERS}[1].UniversalEntityIDType", "must be ISO"


def _ins_label(kos: KosFile) -> Iterator[Finding]:
    label = INS_AUTHORITIES.get(_first(kos.root, _QUALIFIERS).text("UniversalEntityID"))
    if label and kos.root.text("IssuerOfPatientID") != label:
        yield "IssuerOfPatientID", f"must be {label} for that authority"


def _other_ids(kos: KosFile) -> Iterator[Finding]:
    if kos.root.text("PatientID") not in {
        i.text("PatientID") for i in kos.root.items("OtherPatientIDsSequence")
    }:
        yield "OtherPatientIDsSequence", "must repeat the INS"


def _other_ids_issuer(kos: KosFile) -> Iterator[Finding]:
    for number, other in enumerate(kos.root.items("OtherPatientIDsSequence"), 1):
        if not other.text("IssuerOfPatientID"):
            yield f"OtherPatientIDsSequence[{number}].IssuerOfPatientID", "missing (2023 style)"


def _traits(kos: KosFile) -> Iterator[Finding]:
    for keyword in ("PatientBirthDate", "PatientSex"):
        if not kos.root.text(keyword):
            yield keyword, "trait of the INS is empty"
    if not _BIRTH_PLACE.fullmatch(kos.root.text("PatientComments")):
        yield "PatientComments", "must be the INSEE code of the birth place"


def _names(kos: KosFile) -> Iterator[Finding]:
    family, _, given = kos.root.text("PatientName").partition("^")
    if not (family and given):
        yield "PatientName", "must be birth family name ^ first birth given name"
    if not re.fullmatch(r"\^[^^]+", kos.root.text("OtherPatientNames")):
        yield "OtherPatientNames", "the first value must be ^ and the birth given names"


def _institution(kos: KosFile) -> Iterator[Finding]:
    if not _XON.fullmatch(kos.root.text("InstitutionName")):
        yield "InstitutionName", "must be name, nine carets, identifier of the structure"


def _root_accession(kos: KosFile) -> Iterator[Finding]:
    if kos.root.text("AccessionNumber"):
        yield "AccessionNumber", "empty at the root: numbers live in Referenced Request"


def _numbering(kos: KosFile) -> Iterator[Finding]:
    if kos.root.text("SeriesNumber") != "59":
        yield "SeriesNumber", "59 in every sample"
    series = [item for _, item in items_at(kos.root, (_EVIDENCE, "ReferencedSeriesSequence"))]
    instances = [ref for one in series for ref in one.items("ReferencedSOPSequence")]
    for keyword, items in (("SeriesNumber", series), ("InstanceNumber", instances)):
        missing = sum(not one.text(keyword) for one in items)
        if missing:
            yield f"{_EVIDENCE}.{keyword}", f"missing {missing} times: a consumer may ask for it"


def _request(kos: KosFile) -> Iterator[Finding]:
    requests = kos.root.items("ReferencedRequestSequence")
    if not requests:
        yield "ReferencedRequestSequence", "at least one request is required"
    for number, one in enumerate(requests, 1):
        if one.text("StudyInstanceUID") != kos.root.text("StudyInstanceUID"):
            yield (
                f"ReferencedRequestSequence[{number}].StudyInstanceUID",
                "another study than StudyInstanceUID",
            )


_NUMBERS = (
    ("AccessionNumber", "IssuerOfAccessionNumberSequence"),
    ("PlacerOrderNumberImagingServiceRequest", "OrderPlacerIdentifierSequence"),
)


def _request_numbers(kos: KosFile) -> Iterator[Finding]:
    for where, request in items_at(kos.root, ("ReferencedRequestSequence",)):
        for number, issuer in _NUMBERS:
            if not request.text(number):
                yield where + number, "empty: the report gives no number"
            elif not _first(request, issuer).text("UniversalEntityID"):
                yield where + issuer, "the issuer of the number is missing"


def _series(kos: KosFile) -> Iterator[tuple[str, str, Item]]:
    """(place, study, series) of the evidence."""
    for where, study in items_at(kos.root, (_EVIDENCE,)):
        for place, series in items_at(study, ("ReferencedSeriesSequence",), where):
            yield f"{place}RetrieveURL", study.text("StudyInstanceUID"), series


def _split(url: str) -> SplitResult:
    """The parts of an address; of none at all when it cannot be cut."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")  # `_retrieve_path` reports it: no path of it ends with the series


def _retrieve_path(kos: KosFile) -> Iterator[Finding]:
    for where, study, series in _series(kos):
        tail = f"/studies/{study}/series/{series.text('SeriesInstanceUID')}"
        parts = _split(series.text("RetrieveURL"))
        if not parts.path.endswith(tail) or parts.query or parts.fragment:
            yield where, "must be <base>/studies/{study}/series/{series} of its own series"


def _retrieve_https(kos: KosFile) -> Iterator[Finding]:
    for where, _, series in _series(kos):
        url = series.text("RetrieveURL")
        if url and _split(url).scheme != "https":
            yield where, "is no https address: partners of the mesh will not fetch it"


def _retrieve_user(kos: KosFile) -> Iterator[Finding]:
    for where, _, series in _series(kos):
        if "@" in _split(series.text("RetrieveURL")).netloc:
            yield where, "must not carry a user"


def _retrieve_base(kos: KosFile) -> Iterator[Finding]:
    bases = {series.text("RetrieveURL").partition("/studies/")[0] for _, _, series in _series(kos)}
    if len(bases) > 1:
        yield _EVIDENCE, f"{len(bases)} different bases of Retrieve URLs"


def _description(kos: KosFile) -> Iterator[Finding]:
    if not descriptions(kos.root):
        yield "ContentSequence", "the text 113012 (Key Object Description) is required: consumers read it"


def _layout(kos: KosFile) -> Iterator[Finding]:
    for text in descriptions(kos.root):
        lines = text.splitlines()
        yield from (
            ("TextValue", f"no line '{m}'") for m in _MARKS if not any(one.startswith(m) for one in lines)
        )
        if "\r" in text:
            yield "TextValue", "lines end with LF"
        said = {match[1] for match in map(_SERIES_LINE.fullmatch, lines) if match}
        listed = {series.text("SeriesInstanceUID") for _, _, series in _series(kos)}
        yield from (("TextValue", f"no line for series {uid}") for uid in sorted(listed - said))
        yield from (
            ("TextValue", f"a line for series {uid}, not referenced") for uid in sorted(said - listed)
        )


_MARKS = ("Examen : ", "Acte = ")


def _time_zone(kos: KosFile) -> Iterator[Finding]:
    offset = kos.root.text("TimezoneOffsetFromUTC")
    if offset and not _OFFSET.fullmatch(offset):
        yield "TimezoneOffsetFromUTC", "must be &ZZXX between -1200 and +1400"


def _summer_time(kos: KosFile) -> Iterator[Finding]:
    """Only the two offsets of Europe/Paris can be wrong by the season; overseas has no summer time."""
    offset, at = kos.root.text("TimezoneOffsetFromUTC"), _content_time(kos.root)
    if not offset:
        yield "TimezoneOffsetFromUTC", "missing"
    elif offset in ("+0100", "+0200") and at and at.astimezone(_PARIS).utcoffset() != at.utcoffset():
        yield "TimezoneOffsetFromUTC", "not the offset of Europe/Paris at the time of creation"


def _content_time(root: Item) -> datetime | None:
    digits = root.text("ContentDate") + root.text("ContentTime").partition(".")[0]
    try:
        return datetime.strptime(digits + root.text("TimezoneOffsetFromUTC"), "%Y%m%d%H%M%S%z")
    except ValueError:
        return None  # the form of each is another rule's matter


def _character_set(kos: KosFile) -> Iterator[Finding]:
    declared = kos.root.values("SpecificCharacterSet")
    if declared and set(declared) - {"ISO_IR 100", "ISO_IR 192"}:
        yield "SpecificCharacterSet", "neither ISO_IR 100 nor ISO_IR 192"
    if not declared and not all(v.isascii() for _, e in walk(kos.root) for v in e.values):
        yield "SpecificCharacterSet", "required: a text is not ASCII"


def _key_image_notes(kos: KosFile) -> Iterator[Finding]:
    references = list(items_at(kos.root, (_EVIDENCE, "ReferencedSeriesSequence", "ReferencedSOPSequence")))
    listed = {ref.text("ReferencedSOPInstanceUID") for _, ref in references}
    for where, ref in references:
        for note in ref.items("ReferencedSOPSequence"):
            if note.text("ReferencedSOPInstanceUID") not in listed:
                yield f"{where}ReferencedSOPSequence", "the key image note is not listed in its own series"


def _errors(*rows: tuple[str, str, Callable[[KosFile], Iterator[Finding]]]) -> tuple[Rule, ...]:
    return tuple(Rule(slug, clause, Severity.ERROR, check) for slug, clause, check in rows)


def _warnings(*rows: tuple[str, str, Callable[[KosFile], Iterator[Finding]]]) -> tuple[Rule, ...]:
    return tuple(Rule(slug, clause, Severity.WARNING, check) for slug, clause, check in rows)


PROFILE: tuple[Rule, ...] = (
    *_errors(
        ("drim-m-title", "drim-m-data 6.1", _title),
        ("drim-m-one-study", "dmp-kos-xds 1.4", _one_study),
        ("drim-m-ins", "drim-m-data 6.1", _ins),
        ("drim-m-other-ids", "drim-m-data 6.1", _other_ids),
        ("drim-m-request", "drim-m-data 6.1", _request),
        ("drim-m-retrieve-url", "drim-m-data 6.1", _retrieve_path),
        ("drim-m-retrieve-user", "drim-m-data 6.1", _retrieve_user),
        ("drim-m-description", "drim-m-data 6.1", _description),
        ("drim-m-key-image-note", "drim-m-data 6.3", _key_image_notes),
        ("time-zone", "PS3.3 C.12.1", _time_zone),
    ),
    *_warnings(
        ("drim-m-title-meaning", "drim-m-data 6.1", _title_meaning),
        ("drim-m-ins-label", "drim-m-data 6.1", _ins_label),
        ("drim-m-other-ids-issuer", "drim-m-data 6.4", _other_ids_issuer),
        ("drim-m-traits", "drim-m-data 6.1", _traits),
        ("drim-m-names", "drim-m-data 6.2", _names),
        ("drim-m-institution", "drim-m-data 6.4", _institution),
        ("drim-m-root-accession", "drim-m-data 6.1", _root_accession),
        ("drim-m-numbering", "drim-m-data 6.4", _numbering),
        ("drim-m-request-numbers", "drim-m-data 6.1", _request_numbers),
        ("drim-m-retrieve-https", "dmp-kos-xds 1.7; every ANS sample is http", _retrieve_https),
        ("drim-m-retrieve-base", "drim-m-data 6.1", _retrieve_base),
        ("drim-m-layout", "drim-m-data 6.1", _layout),
        ("drim-m-character-set", "drim-m-data 6.1", _character_set),
        ("summer-time", "PS3.3 C.12.1", _summer_time),
    ),
)
