"""The rules of an imaging report, one row each, what no validator catches included (cda-and-xds 4.6, 6).

A check yields (XPath, message) for every place that breaks its rule; messages never repeat patient data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from drimbox.domain import cda_act_checks as acts
from drimbox.domain import cda_body_checks as body
from drimbox.domain import cda_checks as checks
from drimbox.domain import cda_people_checks as people
from drimbox.domain.cda_checks import Check, Terms, absent
from drimbox.domain.cda_fields import Element
from drimbox.domain.violations import Severity, Violation

_ERROR, _WARNING = Severity.ERROR, Severity.WARNING
MAX_FINDINGS = 20  # places reported per rule: enough to repair, too few to flood a log
_ORDER = "c:inFulfillmentOf/c:order"
_LOCATION = "c:componentOf/c:encompassingEncounter/c:location"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: stable slug, clause of the facts, how severe, and the check.

    `publication`: the rule belongs to "accept for publication" (cda-and-xds 4.6) and not to reading; it is a warning
    when the report is not read for publication.
    """

    slug: str
    severity: Severity
    clause: str
    check: Check
    publication: bool = False

    def severity_on(self, terms: Terms) -> Severity:
        """ERROR or WARNING, on these terms."""
        return Severity.WARNING if self.publication and not terms.for_publication else self.severity


RULES: tuple[Rule, ...] = (
    # the document
    Rule("id-missing", _ERROR, "cda-and-xds 2.1", absent("c:id", "root", "the document has no id")),
    Rule("id-invalid", _ERROR, "cda-and-xds 3.11, 4.6", checks.document_id),
    Rule("id-too-long", _ERROR, "cda-and-xds 4.6", checks.document_id_length, publication=True),
    Rule(
        "code-missing", _ERROR, "cda-and-xds 2.1", absent("c:code", "code", "the document has no type code")
    ),
    Rule("code-not-imaging-report", _ERROR, "cda-and-xds 1.1, 2.1", checks.document_code),
    Rule(
        "effective-time-missing",
        _ERROR,
        "cda-and-xds 2.1",
        absent("c:effectiveTime", "value", "the document has no date"),
    ),
    Rule("effective-time-invalid", _ERROR, "cda-and-xds 3.5", checks.effective_time),
    Rule(
        "confidentiality-missing",
        _ERROR,
        "cda-and-xds 2.1",
        absent("c:confidentialityCode", "code", "the document does not state its confidentiality"),
    ),
    Rule("visibility-in-cda", _ERROR, "cda-and-xds section 0, row 13", checks.visibility_code),
    Rule("confidentiality-invalid", _ERROR, "cda-and-xds 2.1", checks.confidentiality_code),
    Rule("confidentiality-restricted", _WARNING, "hl7-mss 1.5", checks.confidentiality_restricted),
    Rule("confidentiality-not-for-dmp", _WARNING, "cda-and-xds 2.1", checks.confidentiality_for_dmp),
    Rule("set-id-missing", _WARNING, "cda-and-xds 2.1", absent("c:setId", "root", "no setId")),
    Rule("version-missing", _WARNING, "cda-and-xds 2.1", checks.version),
    Rule("title-missing", _WARNING, "cda-and-xds 2.1", checks.title),
    Rule("language-missing", _WARNING, "cda-and-xds 2.1", absent("c:languageCode", "code", "no language")),
    Rule("double-encoding", _WARNING, "drim-m-data section 1, generation 1", checks.double_encoding),
    Rule("time-invalid", _WARNING, "cda-and-xds 3.5", checks.other_times),
    Rule("auto-presentable", _WARNING, "cda-and-xds section 6", checks.auto_presentable),
    Rule("element-unknown", _WARNING, "cda-and-xds 4.6", checks.header_elements),
    Rule("element-order", _WARNING, "cda-and-xds 4.6", checks.header_order),
    Rule("template-missing", _WARNING, "cda-and-xds 2.1, 2.7", checks.templates),
    Rule("related-document", _WARNING, "cda-and-xds 2.4, 3.11", checks.related_documents),
    # the patient
    Rule("patient-not-one", _ERROR, "cda-and-xds 2.2", people.one_patient),
    Rule("ins-invalid", _ERROR, "hl7-mss 1.3, cda-and-xds 2.2", people.ins_valid),
    Rule("ins-ambiguous", _ERROR, "cda-and-xds 2.2", people.ins_single),
    Rule("ins-traits-incomplete", _ERROR, "cda-and-xds 2.2, hl7-mss 1.6 (905)", people.ins_traits),
    Rule(
        "ins-authority-refused",
        _ERROR,
        "cda-and-xds 4.6",
        people.ins_authority_accepted,
        publication=True,
    ),
    Rule("ins-authority-unknown", _WARNING, "cda-and-xds 2.2", people.ins_authority_known),
    Rule("ins-missing", _WARNING, "cda-and-xds 4.6", people.ins_present),
    Rule("birth-given-missing", _WARNING, "cda-and-xds 2.2", people.birth_given),
    Rule("name-qualifier-sp", _WARNING, "cda-and-xds section 6", people.spouse_name),
    Rule("sex-unknown", _WARNING, "cda-and-xds 2.2, JDV_J143", people.sex),
    Rule("ipp-missing", _WARNING, "cda-and-xds 2.2", people.local_id),
    # the actors
    Rule("author-missing", _WARNING, "cda-and-xds 2.3", absent("c:author", "", "the document has no author")),
    Rule("author-time-missing", _WARNING, "cda-and-xds 2.3", people.author_time),
    Rule("author-id-missing", _WARNING, "cda-and-xds 2.3", people.author_id),
    Rule(
        "custodian-missing",
        _WARNING,
        "cda-and-xds 2.3, 4.6",
        absent("c:custodian", "", "the document has no custodian"),
    ),
    Rule(
        "legal-authenticator-missing",
        _WARNING,
        "cda-and-xds 2.3",
        absent("c:legalAuthenticator/c:assignedEntity", "", "nobody is responsible for the document"),
    ),
    Rule("signature-time-missing", _WARNING, "cda-and-xds 2.3, section 6", people.signature_time),
    Rule("structure-id-malformed", _WARNING, "cda-and-xds 2.3, section 6", people.structure_ids),
    # orders and acts
    Rule(
        "order-missing",
        _ERROR,
        "cda-and-xds 4.6",
        absent(_ORDER, "", "no order: no accession number"),
        publication=True,
    ),
    Rule("order-id-missing", _WARNING, "cda-and-xds 2.4", acts.order_id),
    Rule("accession-namespace", _ERROR, "cda-and-xds section 6", acts.accession_namespace),
    Rule("accession-missing", _WARNING, "cda-and-xds 2.4", acts.accession_number),
    Rule("accession-order", _WARNING, "cda-and-xds 2.4, 4.6", acts.accession_place),
    Rule("accession-repeated", _WARNING, "cda-and-xds 4.6", acts.accession_single),
    Rule("study-uid-missing", _ERROR, "cda-and-xds 4.6", acts.study_uid_present),
    Rule("studies-too-many", _ERROR, "cda-and-xds 2.4", acts.studies_bounded),
    Rule("study-uid-invalid", _ERROR, "cda-and-xds 4.6, PS3.5 9.1", acts.study_uid_valid),
    Rule("study-uid-extension", _ERROR, "cda-and-xds section 0, row 3", acts.study_uid_extension),
    Rule("act-without-study", _WARNING, "cda-and-xds 4.6", acts.act_without_study),
    Rule("ccam-invalid", _ERROR, "cda-and-xds 4.6, section 6", acts.ccam_valid, publication=True),
    Rule("modality-alias", _WARNING, "cda-and-xds section 6", acts.modality_alias),
    Rule("modality-unknown", _WARNING, "cda-and-xds 2.4, JDV 1.2.250.1.213.1.1.5.618", acts.modality_known),
    Rule("modality-missing", _WARNING, "cda-and-xds 2.4", acts.modality_present),
    Rule("region-misplaced", _WARNING, "cda-and-xds section 6", acts.region_misplaced),
    Rule(
        "region-unknown",
        _ERROR,
        "cda-and-xds 4.6, JDV 1.2.250.1.213.1.1.5.695",
        acts.region_known,
        publication=True,
    ),
    Rule("region-older", _WARNING, "cda-and-xds 2.4", acts.region_older),
    Rule("start-missing", _WARNING, "cda-and-xds 2.4", acts.start_present),
    Rule("performer-missing", _WARNING, "cda-and-xds 2.4, 4.6", people.performer),
    Rule("performer-structure-missing", _WARNING, "cda-and-xds 2.4", acts.performing_structure),
    Rule("practice-setting-missing", _WARNING, "cda-and-xds 2.4", acts.practice_setting),
    Rule("practice-setting-unknown", _WARNING, "cda-and-xds 3.8, JDV_J04", acts.practice_setting_known),
    Rule(
        "facility-missing",
        _WARNING,
        "cda-and-xds 2.4",
        absent(f"{_LOCATION}/c:healthCareFacility/c:code", "code", "no type of facility"),
    ),
    Rule("facility-unknown", _WARNING, "cda-and-xds 2.4, 3.8, JDV_J02", acts.facility_known),
    Rule("encounter-unknown", _WARNING, "cda-and-xds 2.4, JDV_J142", acts.encounter_known),
    # the body
    Rule("body-missing", _ERROR, "cda-and-xds 2.5", checks.body_present, publication=True),
    Rule("body-repeated", _ERROR, "cda-and-xds 2.5, 4.6", checks.one_body, publication=True),
    Rule("body-media-type", _ERROR, "cda-and-xds 2.5, 4.6", body.media_type, publication=True),
    Rule("body-representation", _WARNING, "cda-and-xds 2.5", body.representation),
    Rule("body-content", _ERROR, "cda-and-xds 2.5, 4.6, section 6", body.content, publication=True),
    Rule("catalog-missing", _WARNING, "cda-and-xds 2.6", body.catalog_present),
    Rule("catalog-mismatch", _WARNING, "cda-and-xds 2.7, 4.6, section 6", body.catalog_agrees),
    Rule("catalog-series", _WARNING, "cda-and-xds 2.6", body.catalog_single_series),
    Rule("conclusion-missing", _WARNING, "cda-and-xds 2.6", body.conclusion),
)


def check_report(root: Element, terms: Terms) -> Iterator[Violation]:
    """Every broken rule of the table, in its order; of one rule, the first places only."""
    for rule in RULES:
        for where, message in islice(rule.check(root, terms), MAX_FINDINGS):
            yield Violation(rule.slug, message, where, rule.clause, rule.severity_on(terms))
