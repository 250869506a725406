"""The rules that one DocumentEntry of ours must keep, as rows with their clause."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from drimbox.domain.identifiers import is_oid
from drimbox.domain.xds import hl7_types
from drimbox.domain.xds import vocabulary as v
from drimbox.domain.xds.metadata import Coded, DocumentEntry
from drimbox.domain.xds.rule import (
    MAX_OID,
    MAX_VALUE,
    Rule,
    author_faults,
    coded_faults,
    dtm_faults,
    length_faults,
    patient_id_faults,
)

# attribute, its IHE name (cda-and-xds 3.3, column "req.", R); those of the KOS only are in the second table
_REQUIRED = (
    ("mime_type", "mimeType"),
    ("creation_time", "creationTime"),
    ("language_code", "languageCode"),
    ("legal_authenticator", "legalAuthenticator"),
    ("service_start_time", "serviceStartTime"),
    ("source_patient_id", "sourcePatientId"),
    ("hash", "hash"),
    ("size", "size"),
    ("title", "title"),
    ("authors", "author"),
    ("class_code", "classCode"),
    ("type_code", "typeCode"),
    ("format_code", "formatCode"),
    ("confidentiality_codes", "confidentialityCode"),
    ("healthcare_facility_type_code", "healthcareFacilityTypeCode"),
    ("practice_setting_code", "practiceSettingCode"),
)
_REQUIRED_OF_KOS = (("source_patient_info", "sourcePatientInfo"), ("reference_id_list", "referenceIdList"))
_MEDIA = {v.IMG_KOS: ("application/dicom", "fr-FR"), v.LOT_SIGNATURE: ("text/xml", "art")}
_FORMATS = {v.IMG_KOS: (v.KOS_FORMAT, v.DICOM_UID), v.LOT_SIGNATURE: (v.SIGNATURE_FORMAT, "URN")}
_PATIENT_INFO = re.compile(r"PID-(?:3|5|7|8|11)\|[^|]+")
_TIMES = ("creation_time", "service_start_time", "service_stop_time")
_MODALITY_SCHEMES = {modality for modality, _ in v.EVENT_CODE_SCHEMES.values()}
_REGION_SCHEMES = {region for _, region in v.EVENT_CODE_SCHEMES.values()}


def _type(entry: DocumentEntry) -> str:
    return entry.type_code.code if entry.type_code else ""


def _required(entry: DocumentEntry) -> Iterator[str]:
    table = _REQUIRED + (_REQUIRED_OF_KOS if _type(entry) == v.IMG_KOS else ())
    for attribute, name in table:
        if getattr(entry, attribute) in ("", None, ()):
            yield f"{name} missing"


def _unique_id(entry: DocumentEntry) -> Iterator[str]:
    oid, _, extension = entry.unique_id.partition("^")
    if not is_oid(oid):
        yield "not an OID" if oid else "missing"
    if len(oid) > MAX_OID:
        yield f"{len(oid)} characters, at most {MAX_OID}"
    if len(extension) > 16:
        yield f"extension of {len(extension)} characters, at most 16"


def _media(entry: DocumentEntry) -> Iterator[str]:
    expected = _MEDIA.get(_type(entry))
    if expected and (entry.mime_type, entry.language_code) != expected:
        yield f"{entry.mime_type} in {entry.language_code}: {expected[0]} in {expected[1]} expected"


def _class(entry: DocumentEntry) -> Iterator[str]:
    expected = v.CLASS_OF_TYPE.get(_type(entry))
    if expected is None:
        yield f"typeCode {_type(entry)} is none of ours"
    elif entry.class_code and entry.class_code.code != expected:
        yield f"classCode {entry.class_code.code} does not go with typeCode {_type(entry)} ({expected})"


def _format(entry: DocumentEntry) -> Iterator[str]:
    expected = _FORMATS.get(_type(entry))
    found = entry.format_code and (entry.format_code.code, entry.format_code.scheme)
    if expected and found and found != expected:
        yield f"formatCode {found[0]} ({found[1]}) does not go with typeCode {_type(entry)}"


def _hash(entry: DocumentEntry) -> Iterator[str]:
    if entry.hash and not re.fullmatch(r"[0-9a-f]{40}", entry.hash):
        yield "not the 40 lower-case hexadecimal digits of a SHA-1"


def _size(entry: DocumentEntry) -> Iterator[str]:
    if entry.size is not None and entry.size <= 0:
        yield "the document is empty"


def _title(entry: DocumentEntry) -> Iterator[str]:
    yield from length_faults([entry.title], 128)


def _dates(entry: DocumentEntry) -> Iterator[str]:
    for attribute in _TIMES:
        value = getattr(entry, attribute)
        if value:
            yield from (f"{attribute}: {fault}" for fault in dtm_faults(value))


def _service_order(entry: DocumentEntry) -> Iterator[str]:
    start, stop = entry.service_start_time, entry.service_stop_time
    common = min(len(start), len(stop))
    if stop and stop[:common] < start[:common]:
        yield "serviceStopTime is before serviceStartTime"


def _patient_id(entry: DocumentEntry) -> Iterator[str]:
    yield from patient_id_faults(entry.patient_id)


def _source_patient_id(entry: DocumentEntry) -> Iterator[str]:
    match = hl7_types.CX.fullmatch(entry.source_patient_id)
    if entry.source_patient_id and (match is None or match["type"] not in ("PI", "NH")):
        yield "not a CX (<id>^^^&<OID>&ISO^PI, or the INS with ^NH)"


def _source_patient_info(entry: DocumentEntry) -> Iterator[str]:
    for value in entry.source_patient_info:
        if not _PATIENT_INFO.fullmatch(value):
            yield "not PID-3, PID-5, PID-7, PID-8 or PID-11 with its value"
    repeated = Counter(value.split("|")[0] for value in entry.source_patient_info)
    yield from (f"{field} given {n} times" for field, n in repeated.items() if n > 1 and field != "PID-5")


def _legal_authenticator(entry: DocumentEntry) -> Iterator[str]:
    if entry.legal_authenticator and not hl7_types.XCN.fullmatch(entry.legal_authenticator):
        yield "not an XCN (id^name^given^^^^^^&1.2.250.1.71.4.2.1&ISO^D^^^IDNPS)"


def _authors(entry: DocumentEntry) -> Iterator[str]:
    yield from author_faults(entry.authors)


def _codes(entry: DocumentEntry) -> Iterator[str]:
    single = (
        entry.class_code,
        entry.type_code,
        entry.format_code,
        entry.healthcare_facility_type_code,
        entry.practice_setting_code,
    )
    present = [coded for coded in single if coded is not None]
    for coded in (*present, *entry.confidentiality_codes, *entry.event_codes):
        yield from coded_faults(coded)


def _facility(entry: DocumentEntry) -> Iterator[str]:
    pairs = (
        (entry.healthcare_facility_type_code, v.TRE_R02),
        (entry.practice_setting_code, v.TRE_A01),
    )
    for coded, scheme in pairs:
        if coded is not None and coded.scheme != scheme:
            yield f"code {coded.code} is of {coded.scheme}, {scheme} expected"


def _confidentiality(entry: DocumentEntry) -> Iterator[str]:
    codes = [coded.code for coded in entry.confidentiality_codes]
    if codes and codes[0] not in v.BASE_CONFIDENTIALITY:
        yield f"the first is {codes[0]}: N, R or V comes first"
    if len(codes) > 4:
        yield f"{len(codes)} codes, at most 4"
    yield from (f"{code} given {n} times" for code, n in Counter(codes).items() if n > 1)
    for coded in entry.confidentiality_codes:
        if v.CONFIDENTIALITY.get(coded.code, ("", ""))[0] != coded.scheme:
            yield f"{coded.code} ({coded.scheme}) is not in JDV_J08"


def _event_codes(entry: DocumentEntry) -> Iterator[str]:
    for coded in entry.event_codes:
        if coded.scheme in _MODALITY_SCHEMES and coded.code not in v.MODALITIES:
            yield f"modality {coded.code} is not in JDV 1.2.250.1.213.1.1.5.618"
        if coded.scheme in _REGION_SCHEMES and coded.code not in v.REGIONS:
            yield f"region {coded.code} is not in JDV 1.2.250.1.213.1.1.5.695"
    yield from (
        f"{c.code} given {n} times" for c, n in Counter(map(_key, entry.event_codes)).items() if n > 1
    )


def _key(coded: Coded) -> Coded:
    return Coded(coded.code, coded.scheme)


def _reference_ids(entry: DocumentEntry) -> Iterator[str]:
    kinds = []
    for value in entry.reference_id_list:
        match = hl7_types.CXI.fullmatch(value)
        kinds.append(match["type"] if match else "")
        if match is None:
            yield "not a CXi (<id>^^^&<OID>&ISO^<type>)"
        elif match["type"] not in v.REFERENCE_TYPES:
            yield f"type {match['type']} is not in JDV_J231"
        elif match["authority"] and not is_oid(match["authority"]):
            yield f"authority {match['authority']} is not an OID"
    yield from (f"a value given {n} times" for n in Counter(entry.reference_id_list).values() if n > 1)
    if _type(entry) == v.IMG_KOS and kinds.count(v.STUDY_INSTANCE_UID) != 1:
        yield "a manifest names exactly one studyInstanceUID"


def _lengths(entry: DocumentEntry) -> Iterator[str]:
    values = [entry.legal_authenticator, entry.source_patient_id, entry.patient_id, entry.comments]
    people = [text for author in entry.authors for text in (author.person, *author.institutions)]
    yield from length_faults(
        [*values, *entry.source_patient_info, *entry.reference_id_list, *people], MAX_VALUE
    )


ENTRY_RULES: tuple[Rule[DocumentEntry], ...] = (
    Rule("required", "attributes", "cda-and-xds 3.3", _required),
    Rule("document-unique-id", "uniqueId", "ITI TF-3 4.2.3.2.26: OID <= 64, ^extension <= 16", _unique_id),
    Rule("media", "mimeType", "drim-m-data 5.3, 5.5", _media),
    Rule("class-of-type", "classCode", "NOS ASS_X16, cda-and-xds 3.8", _class),
    Rule("format-of-type", "formatCode", "drim-m-data 5.3, 5.5", _format),
    Rule("hash", "hash", "cda-and-xds 3.3: SHA-1 in CI-SIS", _hash),
    Rule("size", "size", "cda-and-xds 3.3", _size),
    Rule("title-length", "title", "dmp-kos-xds 2.3: 128 characters", _title),
    Rule("dtm", "times", "cda-and-xds 3.5: digits only", _dates),
    Rule("service-times", "serviceStopTime", "ITI TF-3 4.2.3.2.20", _service_order),
    Rule("patient-id", "patientId", "cda-and-xds 3.4: CX of an INS", _patient_id),
    Rule("source-patient-id", "sourcePatientId", "cda-and-xds 3.4", _source_patient_id),
    Rule("source-patient-info", "sourcePatientInfo", "cda-and-xds 3.4", _source_patient_info),
    Rule("legal-authenticator", "legalAuthenticator", "cda-and-xds 3.4: XCN", _legal_authenticator),
    Rule("author", "author", "cda-and-xds 3.4: XCN, XON", _authors),
    Rule("coded", "codes", "ITI TF-3 4.2.3.1.2: code, codingScheme, label", _codes),
    Rule("care-context", "codes", "cda-and-xds 3.8: TRE_R02, TRE_A01", _facility),
    Rule("confidentiality", "confidentialityCode", "cda-and-xds 3.7: JDV_J08, 1 to 4", _confidentiality),
    Rule("event-codes", "eventCodeList", "cda-and-xds 3.6: JDV .618, .695", _event_codes),
    Rule("reference-ids", "referenceIdList", "cda-and-xds 3.6: CXi, JDV_J231", _reference_ids),
    Rule("value-length", "attributes", "rim.xsd LongName: 256 characters", _lengths),
)
