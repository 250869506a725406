"""What the rows of `cda_rules` look at in orders, acts and encounter: (XPath, message) per breach.

Messages never repeat patient data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from dicom_store.paths import InvalidUID, check_uid
from drimbox.domain.cda_checks import Finding, Terms, shown
from drimbox.domain.cda_document import PS3_20
from drimbox.domain.cda_fields import (
    SERVICE_EVENT,
    Element,
    act_codes,
    attribute,
    code,
    every,
    first,
    identifier,
    is_ccam,
    is_misplaced_region,
    qualified,
    regions,
    study_ids,
)
from drimbox.domain.imaging_codes import CCAM_SYSTEMS, FACILITY_SYSTEM, MODALITY_ALIASES, MODALITY_QUALIFIER
from drimbox.domain.value_sets import ENCOUNTERS, MODALITIES, OLDER_REGIONS, PRACTICE_SETTINGS, REGIONS

MAX_STUDIES = 100
_STUDY_LITERAL = "studyInstanceUID"  # what older senders write as extension
_ORDER = "c:inFulfillmentOf/c:order"
_STRUCTURE = f"{SERVICE_EVENT}/c:performer/c:assignedEntity/c:representedOrganization"
_ENCOUNTER = "c:componentOf/c:encompassingEncounter"
_FACILITY = f"{_ENCOUNTER}/c:location/c:healthCareFacility/c:code"
# JDV_J02 holds 69 codes, of which the facts name seven: only their form can be judged (cda-and-xds 3.8)
_FACILITY_CODE = re.compile(r"SA[0-9]{2}")


def order_id(root: Element, _terms: Terms) -> Iterator[Finding]:
    """order/id is the placer order number, its root the OID of the ordering domain."""
    for order in every(root, _ORDER):
        if identifier(first(order, "c:id")) is None:
            yield f"{_ORDER}/c:id", "an order without placer order number"


def accession_namespace(root: Element, _terms: Terms) -> Iterator[Finding]:
    """accessionNumber belongs to urn:dicom-org:ps3-20; elsewhere it would be silently lost."""
    for order in every(root, _ORDER):
        for child in order.iterchildren("{*}accessionNumber"):
            if child.tag != f"{{{PS3_20}}}accessionNumber":
                yield f"{_ORDER}/*:accessionNumber", f"the accession number is not in the namespace {PS3_20}"


def accession_number(root: Element, _terms: Terms) -> Iterator[Finding]:
    """Every order has an accession number with its issuer."""
    for order in every(root, _ORDER):
        found = [identifier(e) for e in every(order, "ps:accessionNumber")]
        if not any(i and i.extension for i in found):
            yield f"{_ORDER}/ps:accessionNumber", "an order without accession number or without its issuer"


def accession_place(root: Element, _terms: Terms) -> Iterator[Finding]:
    """The accession number comes after the id of its order (schema); it is read wherever it stands."""
    for order in every(root, _ORDER):
        placer, accession = first(order, "c:id"), first(order, "ps:accessionNumber")
        if placer is not None and accession is not None and order.index(accession) < order.index(placer):
            yield f"{_ORDER}/ps:accessionNumber", "the accession number stands before the id of the order"


def accession_single(root: Element, _terms: Terms) -> Iterator[Finding]:
    """At most one accession number per order."""
    for order in every(root, _ORDER):
        if len(every(order, "ps:accessionNumber")) > 1:
            yield f"{_ORDER}/ps:accessionNumber", "several accession numbers in one order"


def _acts(root: Element) -> list[Element]:
    """The serviceEvents that are studies."""
    return [e for e in every(root, SERVICE_EVENT) if study_ids(e)]


def study_uid_present(root: Element, _terms: Terms) -> Iterator[Finding]:
    """At least one act says which study it documents; no schematron checks it."""
    if not _acts(root):
        yield f"{SERVICE_EVENT}/c:id/@root", "no act has a Study Instance UID"


def studies_bounded(root: Element, _terms: Terms) -> Iterator[Finding]:
    """A report of more studies than a department does in a day is an attack or a mistake."""
    count = sum(len(study_ids(event)) for event in _acts(root))
    if count > MAX_STUDIES:
        yield f"{SERVICE_EVENT}/c:id", f"{count} studies in one report, at most {MAX_STUDIES} are read"


def study_uid_valid(root: Element, _terms: Terms) -> Iterator[Finding]:
    """serviceEvent/id/@root is a UID of PS3.5 9.1."""
    for event in _acts(root):
        for element in study_ids(event):
            try:
                check_uid(attribute(element, "root"))
            except InvalidUID:
                yield f"{SERVICE_EVENT}/c:id/@root", "the Study Instance UID is not a UID"


def study_uid_extension(root: Element, _terms: Terms) -> Iterator[Finding]:
    """No extension, or the literal that older senders write."""
    for event in _acts(root):
        for element in study_ids(event):
            if attribute(element, "extension") not in {"", _STUDY_LITERAL}:
                yield f"{SERVICE_EVENT}/c:id/@extension", "a Study Instance UID has no extension"


def modality_alias(root: Element, _terms: Terms) -> Iterator[Finding]:
    """RM is read as MR."""
    for event in _acts(root):
        for found in qualified(event, MODALITY_QUALIFIER):
            if found.code in MODALITY_ALIASES:
                yield f"{SERVICE_EVENT}/c:code", f"{found.code} is read as {MODALITY_ALIASES[found.code]}"


def modality_known(root: Element, _terms: Terms) -> Iterator[Finding]:
    """The modality is in its value set; another one is left aside."""
    for event in _acts(root):
        for found in qualified(event, MODALITY_QUALIFIER):
            if MODALITIES.refuses(MODALITY_ALIASES.get(found.code, found.code)):
                yield f"{SERVICE_EVENT}/c:code", f"modality {shown(found.code)} is left aside"


def modality_present(root: Element, _terms: Terms) -> Iterator[Finding]:
    """A study has a modality; the images' is taken otherwise."""
    for event in _acts(root):
        if not qualified(event, MODALITY_QUALIFIER):
            yield f"{SERVICE_EVENT}/c:code/c:translation", "no modality: that of the images is taken"


def region_misplaced(root: Element, _terms: Terms) -> Iterator[Finding]:
    """A SNOMED number under the OID of the CCAM."""
    for event in _acts(root):
        if any(map(is_misplaced_region, act_codes(event))):
            yield f"{SERVICE_EVENT}/c:code", "a SNOMED number under the OID of the CCAM is read as the region"


def region_known(root: Element, _terms: Terms) -> Iterator[Finding]:
    """The region is in its value set."""
    for event in _acts(root):
        for found in regions(event):
            if REGIONS.refuses(found.code) and found.code not in OLDER_REGIONS:
                yield f"{SERVICE_EVENT}/c:code", f"{shown(found.code)} is not an anatomical region"


def region_older(root: Element, _terms: Terms) -> Iterator[Finding]:
    """Three codes of an older list are accepted and left aside."""
    for event in _acts(root):
        for found in regions(event):
            if found.code in OLDER_REGIONS:
                yield f"{SERVICE_EVENT}/c:code", f"region {found.code} of an older list is left aside"


def ccam_valid(root: Element, _terms: Terms) -> Iterator[Finding]:
    """Four letters and three digits under the OID of the CCAM; a number there is a region."""
    for event in _acts(root):
        for found in act_codes(event):
            if found.system in CCAM_SYSTEMS and not (is_ccam(found) or is_misplaced_region(found)):
                yield f"{SERVICE_EVENT}/c:code", f"{shown(found.code)} is not a code of the CCAM"


def start_present(root: Element, _terms: Terms) -> Iterator[Finding]:
    """A study has a start."""
    for event in _acts(root):
        if not attribute(first(event, "c:effectiveTime/c:low"), "value"):
            yield f"{SERVICE_EVENT}/c:effectiveTime/c:low", "a study without start"


def act_without_study(root: Element, _terms: Terms) -> Iterator[Finding]:
    """An act with a modality but without Study Instance UID is no screening: its study is not told."""
    for event in every(root, SERVICE_EVENT):
        if not study_ids(event) and qualified(event, MODALITY_QUALIFIER):
            yield (
                f"{SERVICE_EVENT}/c:id/@root",
                "an act with a modality has no Study Instance UID: it is skipped",
            )


def performing_structure(root: Element, _terms: Terms) -> Iterator[Finding]:
    """The structure is mandatory for a DRIMBox (comment of the CI-SIS example)."""
    if not any(identifier(e) for e in every(root, f"{_STRUCTURE}/c:id")):
        yield f"{_STRUCTURE}/c:id", "no performing structure"


def practice_setting(root: Element, _terms: Terms) -> Iterator[Finding]:
    """The practice setting of the performing structure."""
    if not any(code(e) for e in every(root, f"{_STRUCTURE}/c:standardIndustryClassCode")):
        yield f"{_STRUCTURE}/c:standardIndustryClassCode", "no practice setting"


def practice_setting_known(root: Element, _terms: Terms) -> Iterator[Finding]:
    """It is in its value set."""
    for found in map(code, every(root, f"{_STRUCTURE}/c:standardIndustryClassCode")):
        if found and PRACTICE_SETTINGS.refuses(found.code):
            place = f"{_STRUCTURE}/c:standardIndustryClassCode"
            yield place, f"{shown(found.code)} is not a practice setting"


def facility_known(root: Element, _terms: Terms) -> Iterator[Finding]:
    """The type of facility has the form of its nomenclature."""
    for found in map(code, every(root, _FACILITY)):
        if found and not (found.system == FACILITY_SYSTEM and _FACILITY_CODE.fullmatch(found.code)):
            yield _FACILITY, f"{shown(found.code)} of {shown(found.system)} is not a type of facility"


def encounter_known(root: Element, _terms: Terms) -> Iterator[Finding]:
    """The type of encounter, where given, is in its value set."""
    for found in map(code, every(root, f"{_ENCOUNTER}/c:code")):
        if found and ENCOUNTERS.refuses(found.code):
            yield f"{_ENCOUNTER}/c:code", f"{shown(found.code)} is not a type of encounter"
