"""The rules of eSignSanté, derived from our numbered steps (trust-and-identity 4.3 laid beside 3.5).

A rule rests on steps; it fails when one of them does. Where a step holds several rules of eSignSanté, the facts
about the signer say which of them is not to blame; every failed step is named by one rule at least.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509

from whitelist.certificate import extension, issued_by, validity_fault
from whitelist.chain import Anchors, Crls
from whitelist.trust import Held, Report, Step

ESIGNSANTE_STEP = 15  # the verdict of an external eSignSanté, after our fourteen


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a verification really used: the signer's leaf, (intermediate, root) as pinned, the CRLs."""

    leaf: x509.Certificate | None = None
    anchors: tuple[x509.Certificate, ...] = ()
    crls: tuple[x509.CertificateRevocationList, ...] = ()


def evidence_of(report: Report, anchors: Anchors, crls: Crls) -> Evidence:
    """The evidence of a verification: what the file says its signer is, and what it was judged with."""
    used = tuple(crl for crl in (crls.of_intermediate, crls.of_root) if crl is not None)
    return Evidence(report.signer, (anchors.intermediate, anchors.root), used)


Facts = Callable[[Report, Evidence], bool]


@dataclass(frozen=True, slots=True)
class Rule:
    """A row: French name, steps it rests on, error code, meaning, and when it is not to blame for its steps."""

    name: str
    steps: tuple[int, ...]
    error: str
    meaning: str
    spared: Facts = lambda _report, _evidence: False


@dataclass(frozen=True, slots=True)
class RuleResult:
    """One rule judged: FAILED with the steps' reasons, SKIPPED when a step could not be judged, else HELD."""

    rule: Rule
    outcome: Held
    why: str


def _issued(_report: Report, evidence: Evidence) -> bool:
    leaf = evidence.leaf
    return leaf is not None and any(issued_by(leaf, anchor) for anchor in evidence.anchors)


def _in_force(report: Report, evidence: Evidence) -> bool:
    return evidence.leaf is not None and validity_fault(evidence.leaf, report.at) is None


def _may_sign(_report: Report, evidence: Evidence) -> bool:
    usage = extension(evidence.leaf, x509.KeyUsage) if evidence.leaf else None
    return usage is not None and usage.digital_signature and usage.content_commitment


def _has_leaf(_report: Report, evidence: Evidence) -> bool:
    return evidence.leaf is not None


def _has_time(report: Report, _evidence: Evidence) -> bool:
    return report.signed_at is not None


# fmt: off
# The first eleven are those of eSignSanté, with its codes; the others are ours, for steps that it has no rule for.
RULES: tuple[Rule, ...] = (
    Rule("DocumentIntact", (6,), "ERDOCN01", "les données signées sont retrouvées et leur empreinte est égale"),
    Rule("SignatureIntacte", (8,), "ERSIGN08", "la valeur de la signature est celle de la clé du signataire"),
    Rule("SignatureCertificatValide", (9,), "ERSIGN02", "le certificat est signé par son autorité", _issued),
    Rule("TrustedCertificat", (9,), "ERSIGN02", "la chaîne mène à une autorité configurée", _issued),
    Rule("ExistenceDuCertificatDeSignature", (7, 8), "ERSIGN01", "le certificat de signature est identifié", _has_leaf),
    Rule("ExpirationCertificat", (9,), "ERSIGN05", "le certificat est en cours de validité", _in_force),
    Rule("RevocationCertificat", (11,), "ERSIGN04", "le certificat n'est pas révoqué, selon les CRL"),
    Rule("NonRepudiation", (9,), "ERSIGN06", "l'usage de la clé permet la signature", _may_sign),
    Rule("FormatSignature", (4, 5), "ERSIGN07", "le format de la signature est celui attendu"),
    Rule("ExistenceBaliseSigningTime", (7,), "ERSIGN09", "la balise SigningTime est présente", _has_time),
    Rule("SignatureNonVide", (3,), "ERSIGN10", "le document porte une signature, et une seule"),
    Rule("SyntaxeDocument", (2,), "ERSIGN11", "le document est un XML acceptable, de la racine attendue"),
    Rule("TransportVerifie", (1,), "DRIMBOX01", "le fichier vient d'un serveur vérifié, entier"),
    Rule("ProprietesSignees", (7,), "DRIMBOX07", "les propriétés signées désignent ce certificat, à une date passée"),
    Rule("ProfilCertificat", (9,), "DRIMBOX09", "chaîne, validité, usages, politique et environnement conviennent"),
    Rule("SignataireAttendu", (10,), "DRIMBOX10", "le sujet du certificat est celui du signataire configuré"),
    Rule("SansRetourArriere", (12,), "DRIMBOX12", "la liste n'est pas plus ancienne que celle qui est archivée"),
    Rule("ContenuExploitable", (13,), "DRIMBOX13", "la liste nomme au moins un hôte"),
    Rule("Archivage", (14,), "DRIMBOX14", "la liste et son rapport sont archivés"),
    Rule("VerdictESignSante", (ESIGNSANTE_STEP,), "DRIMBOX15", "eSignSanté, s'il est configuré, ne refuse pas"),
)
# fmt: on
_OPTIONAL = frozenset(
    {"VerdictESignSante", "Archivage"}
)  # absent from the report = not asked, or not yet done


def judge_rules(report: Report, evidence: Evidence) -> tuple[RuleResult, ...]:
    """Every rule that the report speaks of, in the order of RULES."""
    steps = {step.number: step for step in report.steps}
    return tuple(
        _judged(rule, [steps[n] for n in rule.steps if n in steps], report, evidence)
        for rule in RULES
        if rule.name not in _OPTIONAL or set(rule.steps) <= steps.keys()
    )


def errors_of(results: tuple[RuleResult, ...]) -> tuple[str, ...]:
    """One sentence per failed rule: its code, its name, the steps' reasons."""
    failed = (result for result in results if result.outcome is Held.FAILED)
    return tuple(f"{r.rule.error} {r.rule.name} : {r.why}".replace(";", ",") for r in failed)


def _judged(rule: Rule, steps: list[Step], report: Report, evidence: Evidence) -> RuleResult:
    failed = [step for step in steps if step.outcome is Held.FAILED]
    if failed and not rule.spared(report, evidence):
        return RuleResult(rule, Held.FAILED, _reasons(failed))
    unjudged = [step for step in steps if step.outcome is Held.SKIPPED]
    if unjudged or len(steps) < len(rule.steps):
        return RuleResult(rule, Held.SKIPPED, _reasons(unjudged) or "étape absente du rapport")
    warned = [step for step in steps if step.outcome is Held.WARNED]
    return RuleResult(rule, Held.WARNED if warned else Held.HELD, _reasons(warned))


def _reasons(steps: list[Step]) -> str:
    return ", ".join(f"étape {step.number} : {step.why}" for step in steps)
