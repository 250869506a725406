"""The facts of one study, and what should be public of it: `desired(facts, policy, now)`.

Arrivals only record facts; this function alone says what the DMP should hold, or why nothing can be said yet.
Its reason is what `drimbox exams show` prints.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from dicom_store.study import StudySnapshot
from drimbox.domain.kos import Request, requests_for
from drimbox.domain.report import Report

# HL7v2 MetaDMPMSS flag -> XDS confidentialityCode in 1.2.250.1.213.1.1.4.13 (cda-and-xds 3.7).
VISIBILITY_CODES = {
    "MASQUE_PS": "MASQUE_PS",
    "INVISIBLE_PATIENT": "INVISIBLE_PATIENT",
    "INVISIBLE_REP_LEGAUX": "INVISIBLE_REPRESENTANTS_LEGAUX",
}


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules that a department may tune (settings `policy.*`).

    `settle_after`: seconds without a new instance; `thinner_alarm`: share of the published instances (0 to 1) that
    may vanish from a manifest without a known cause; `publish_without_destdmp`: DESTDMP = N does not hold a manifest
    back; `secret_connections`: the VIHF code of a secret connection is known, so that one can be made.
    """

    ins_authorities: tuple[str, ...]
    ipp_authority: str
    settle_after: float
    thinner_alarm: float = 0.0
    publish_without_destdmp: bool = False
    secret_connections: bool = False


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """A report as it entered: the CDA's facts, and what the message said around it."""

    report: Report
    report_key: str  # our own id of the received report
    digest: str  # SHA-256 of the CDA bytes
    flags: tuple[str, ...]  # MetaDMPMSS codes that were Y
    destined_to_dmp: bool
    patient_class: str
    sender: Mapping[str, str]
    opposed: bool = False  # the patient opposes the feeding of the DMP for this visit


@dataclass(frozen=True, slots=True)
class ExamFacts:
    """All that is known of one study at one instant. `reports` are the current ones, oldest first.

    `withdrawn`: a deletion order or an operator withdrew the exam; `had_reports`: some report documented it once.
    """

    study_instance_uid: str
    images: StudySnapshot | None
    last_instance_at: datetime | None
    reports: tuple[ReportFacts, ...]
    withdrawn: bool = False
    had_reports: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """The manifest that should be public; equal `content_key` = nothing to do."""

    images: StudySnapshot
    source: ReportFacts
    requests: tuple[Request, ...]
    confidentiality: tuple[str, ...]
    content_key: str


@dataclass(frozen=True, slots=True)
class Undecided:
    """Nothing may be published now. `rule`: stable slug; `until`: when to look again, None = at the next arrival."""

    rule: str
    reason: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Unwanted:
    """The exam must not be public, and something said so: `rule` is the cause, a stable slug."""

    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition for publishing: `broken` says what is wrong, or None. `clause` is its source.

    `withdraws`: who broke it said so on purpose, hence what is published is unpublished; otherwise it stays as it is
    and nothing new leaves (a manifest is never withdrawn because something is missing or unreadable).
    """

    slug: str
    clause: str
    broken: Callable[[ExamFacts, Policy], str | None]
    withdraws: bool = False


def desired(facts: ExamFacts, policy: Policy, now: datetime) -> Wanted | Unwanted | Undecided:
    """What the DMP should hold for this study, or why that cannot be said now. Pure and idempotent."""
    for rule in RULES:
        reason = rule.broken(facts, policy)
        if reason is not None:
            return Unwanted(rule.slug, reason) if rule.withdraws else Undecided(rule.slug, reason)
    assert facts.images is not None
    assert facts.last_instance_at is not None
    quiet_at = facts.last_instance_at + timedelta(seconds=policy.settle_after)
    if now < quiet_at:
        reason = f"images still arriving: quiet until {quiet_at:%H:%M:%S}Z is awaited"
        return Undecided("receiving", reason, quiet_at)
    source = facts.reports[0]
    requests = requests_for(source.report, facts.images.AccessionNumbers)
    confidentiality = tuple(code for flag, code in VISIBILITY_CODES.items() if flag in source.flags)
    key = _content_key(facts.images, source, requests, confidentiality)
    return Wanted(facts.images, source, requests, confidentiality, key)


def thinner(wanted: Wanted, published: frozenset[str], policy: Policy) -> Undecided | None:
    """Why a replacement waits for an operator: published instances would vanish and nothing says why.

    A rejection note, a deletion order or a report says why; an unreachable source or a failed read does not.
    """
    explained = {sop for sop, _code in wanted.images.rejected}
    kept = {ref.SOPInstanceUID for ref in wanted.images.instances}
    lost = published - kept - explained
    if not published or len(lost) <= policy.thinner_alarm * len(published):
        return None
    words = f"{len(lost)} of {len(published)} published instances are missing here and nothing says why"
    return Undecided("thinner", f"{words}: an operator decides (exams release)")


def _content_key(
    images: StudySnapshot,
    source: ReportFacts,
    requests: tuple[Request, ...],
    confidentiality: tuple[str, ...],
) -> str:
    """SHA-256 over all that a reader of the manifest or of its metadata could see differ."""
    seen = [
        images.StudyInstanceUID,
        images.StudyDate,
        images.StudyTime,
        images.StudyDescription,
        [
            [s.SeriesInstanceUID, s.Modality, s.SeriesDescription, [i.SOPInstanceUID for i in s.instances]]
            for s in images.series
        ],
        source.digest,
        source.patient_class,
        [[str(r.accession), str(r.placer)] for r in requests],
        confidentiality,
    ]
    return hashlib.sha256(json.dumps(seen, separators=(",", ":")).encode()).hexdigest()


def _withdrawn(facts: ExamFacts, _policy: Policy) -> str | None:
    return "the exam was withdrawn (deletion order or operator)" if facts.withdrawn else None


def _report_withdrawn(facts: ExamFacts, _policy: Policy) -> str | None:
    return "its report was withdrawn" if facts.had_reports and not facts.reports else None


def _all_rejected(facts: ExamFacts, _policy: Policy) -> str | None:
    images = facts.images
    if images is None or images.instances or not images.rejected:
        return None
    codes = ", ".join(sorted({code for _sop, code in images.rejected}))
    return f"every image was rejected ({codes})"


def _no_images(facts: ExamFacts, _policy: Policy) -> str | None:
    return None if facts.images is not None and facts.images.instances else "no image received yet"


def _no_report(facts: ExamFacts, _policy: Policy) -> str | None:
    return None if facts.reports else "no report received yet"


def _not_for_dmp(facts: ExamFacts, policy: Policy) -> str | None:
    if facts.reports[0].destined_to_dmp or policy.publish_without_destdmp:
        return None
    return "the report is not destined to the DMP (DESTDMP = N)"


def _opposition(facts: ExamFacts, _policy: Policy) -> str | None:
    """One opposed visit among the reports of the exam is enough."""
    if any(source.opposed for source in facts.reports):
        return "the patient opposes the feeding of the DMP for this visit (ZFA-9 = IO)"
    return None


def _secret_connection(facts: ExamFacts, policy: Policy) -> str | None:
    if policy.secret_connections or "CONNEXION_SECRETE" not in facts.reports[0].flags:
        return None
    return "a secret connection is asked (CONNEXION_SECRETE = Y) and dmp.secret_connection_code is not set"


def _restricted(facts: ExamFacts, _policy: Policy) -> str | None:
    code = facts.reports[0].report.confidentiality.code
    return None if code == "N" else f"confidentialityCode {code} of the report is not shared"


def _ins_missing(facts: ExamFacts, _policy: Policy) -> str | None:
    return None if facts.reports[0].report.patient.ins else "the report carries no INS"


def _ins_authority(facts: ExamFacts, policy: Policy) -> str | None:
    ins = facts.reports[0].report.patient.ins
    if ins is None or ins.oid in policy.ins_authorities:
        return None
    return f"INS authority {ins.oid} is not accepted here (policy.ins_authorities)"


def _ins_traits(facts: ExamFacts, _policy: Policy) -> str | None:
    patient = facts.reports[0].report.patient
    traits = ("birth_family", "birth_given", "sex", "birth_date", "birth_place")
    missing = [trait for trait in traits if not getattr(patient, trait)]
    return f"the INS lacks its traits: {', '.join(missing)}" if missing else None


def _reports_disagree(facts: ExamFacts, _policy: Policy) -> str | None:
    if len({source.report.patient.ins for source in facts.reports}) > 1:
        return "the reports of this study name different patients"
    return None


def _several_patients(facts: ExamFacts, _policy: Policy) -> str | None:
    assert facts.images is not None
    if len(facts.images.PatientIDs) > 1:
        return "the images of this study carry several PatientID"
    return None


def _ipp(facts: ExamFacts, policy: Policy) -> str | None:
    assert facts.images is not None
    if not facts.images.PatientIDs or not facts.images.PatientIDs[0]:
        return "the images carry no PatientID: they cannot be tied to the patient of the report"
    patient = facts.reports[0].report.patient
    known = {i.extension for i in patient.local_ids if policy.ipp_authority in ("", i.root)}
    if patient.ins is not None:
        known.add(patient.ins.value)
    return (
        None
        if facts.images.PatientIDs[0] in known
        else "PatientID of the images is not an identifier of the report's patient"
    )


def _accession(facts: ExamFacts, _policy: Policy) -> str | None:
    assert facts.images is not None
    known = {a.extension for order in facts.reports[0].report.orders for a in order.accessions}
    foreign = [a for a in facts.images.AccessionNumbers if a and a not in known]
    if foreign:
        known_here = ", ".join(sorted(known)) or "none"
        return f"AccessionNumber {', '.join(foreign)} of the images is not in the report ({known_here})"
    return None


RULES_VERSION = 2  # raised when a rule, or the content key, comes to mean something else
# In the order in which an operator would ask; the first broken one is the reason shown.
RULES: tuple[Rule, ...] = (
    Rule("withdrawn", "drim-m-data 9, OMI^O23 CA", _withdrawn, withdraws=True),
    Rule("report-withdrawn", "seeds, FAQ: life cycle, third phase", _report_withdrawn, withdraws=True),
    Rule("all-rejected", "dmp-kos-xds 1.5", _all_rejected, withdraws=True),
    Rule("no-images", "drim-m-data 12, E8", _no_images),
    Rule("no-report", "seeds, FAQ: the report triggers the publication", _no_report),
    Rule("not-for-dmp", "hl7-mss 1.5, DESTDMP", _not_for_dmp, withdraws=True),
    Rule("opposition", "hl7-mss 1.12, ZFA-9 = IO", _opposition, withdraws=True),
    Rule("restricted", "cda-and-xds 3.7: R and V should not be shared", _restricted, withdraws=True),
    Rule("ins-missing", "hl7-mss 1.3: a qualified INS is mandatory towards the DMP", _ins_missing),
    Rule("ins-authority", "cda-and-xds 4.6: test and real must not mix", _ins_authority),
    Rule("ins-traits", "cda-and-xds 2.2: the traits go with the INS", _ins_traits),
    Rule("secret-connection", "hl7-mss 1.5, CONNEXION_SECRETE", _secret_connection),
    Rule("reports-disagree", "reference-drimbox 9.1: cross-patient mixing", _reports_disagree),
    Rule("several-patients", "reference-drimbox 9.1: cross-patient mixing", _several_patients),
    Rule("ipp-mismatch", "drim-m-data 12, E9; reference-drimbox 3.1.4", _ipp),
    Rule("accession-mismatch", "drim-m-data 6.4, cross-validator; reference-drimbox 3.1.4", _accession),
)
