"""VIHF 3.0 in indirect mode: the SAML 2.0 assertion that says who acts, for whom, from which structure.

Fields and their order: reference-drimbox 4.3, dmp-kos-xds 3.1. There is no Conditions element in any sample:
freshness is judged on IssueInstant, so an assertion is built for each attempt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from lxml import etree

from drimbox.domain.identifiers import Ins
from drimbox.domain.report import Professional, Report
from drimbox.domain.signer import Digest, Signer
from drimbox.domain.violations import Violation
from drimbox.domain.xds.vocabulary import PROFESSIONS, TRE_A00, TRE_G15, TRE_R01, TRE_R02
from drimbox.domain.xml_input import xml_text
from drimbox.domain.xml_signature import (
    ENVELOPED_SIGNATURE,
    EXCLUSIVE_C14N,
    Reference,
    canonical,
    digest_value,
    open_signature,
)

SAML = "urn:oasis:names:tc:SAML:2.0:assertion"
HL7 = "urn:hl7-org:v3"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
# xsi:type="CE" names a type of the default namespace: it is declared on the element itself
_HL7_DEFAULT: Mapping[Any, str] = {None: HL7}
_CLAUSE = "dmp-kos-xds 3.1"
_SPECIALTY = re.compile(r"G15_(?P<profession>\d+)(?:/(?P<know_how>\w+))?")
_ACCESS_MODES = "1.2.250.1.213.1.1.4.248"
_CODE_SYSTEM_NAMES = {
    TRE_G15: "professions",
    TRE_R01: "specialites RPPS",
    _ACCESS_MODES: "mode acces VIHF 1.0",
}
_SUBJECT_ID = "urn:oasis:names:tc:xspa:1.0:subject:subject-id"
_RESOURCE_ID = "urn:oasis:names:tc:xacml:2.0:resource:resource-id"
_CONFIDENTIALITY_CODE = "urn:oasis:names:tc:xspa:1.0:resource:patient:hl7:confidentiality-code"
_PURPOSE_OF_USE = "urn:oasis:names:tc:xspa:1.0:subject:purposeofuse"
_ROLE = "urn:oasis:names:tc:xacml:2.0:subject:role"


class VihfRefused(ValueError):
    """The assertion cannot say what is asked of it; nothing may be sent."""


@dataclass(frozen=True, slots=True)
class Role:
    """An hl7 CE: profession (TRE_G15), know-how (TRE_R01), or AUTOMATE (TRE_A00)."""

    code: str
    system: str
    display: str


_NORMAL_ACCESS = Role("normal", _ACCESS_MODES, "Acces normal")
AUTOMATE = Role("AUTOMATE", TRE_A00, "AUTOMATE")  # last resort (hl7-mss 1.9)


@dataclass(frozen=True, slots=True)
class VihfIdentity:
    """Who acts for whom. Kept with the lot, so that each attempt says the same.

    `name_id`: PS_IdNat of the responsible professional; `subject_name`: its name, given first; `sector`: code
    of TRE_R02; `patient`: CX, equal to the patientId of the lot; `structure_id`: the certificate's OU.
    """

    name_id: str
    subject_name: str
    structure_id: str
    sector: str
    patient: str
    profession: Role = AUTOMATE
    know_how: Role | None = None
    secret_connection: bool = False

    def to_json(self) -> str:
        """JSON text that `from_json` reads back."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> VihfIdentity:
        """Read what `to_json` wrote; raises ValueError, KeyError or TypeError on anything else."""
        fields = json.loads(text)
        know_how = fields.pop("know_how")
        profession = Role(**fields.pop("profession"))
        return cls(**fields, profession=profession, know_how=Role(**know_how) if know_how else None)


@dataclass(frozen=True, slots=True)
class VihfSettings:
    """What the installation says in every assertion.

    `mode_attribute`: letter case of Authentification_Mode; `secret_connection_code`: value of the
    confidentiality-code attribute, which no public document gives (empty: such requests are refused).
    """

    lps_id: str
    lps_name: str
    lps_version: str
    lps_homologation: str
    mode_attribute: str = "Authentification_Mode"
    authn_context: str = "urn:oasis:names:tc:SAML:2.0:ac:classes:TLSClient"
    digest: Digest = "sha256"
    secret_connection_code: str = ""


def identity_of(
    person: Professional, *, structure_id: str, sector: str, patient: Ins, secret_connection: bool = False
) -> VihfIdentity:
    """The identity under which the report of `person` is published (hl7-mss 1.9).

    The professional's specialty `G15_10/SM44` gives both roles; without one the role is AUTOMATE.
    """
    profession, know_how = _roles(person)
    return VihfIdentity(
        name_id=person.id.extension if person.id else "",
        subject_name=f"{person.given} {person.family}".strip(),
        structure_id=structure_id,
        sector=sector,
        patient=patient.cx,
        profession=profession,
        know_how=know_how,
        secret_connection=secret_connection,
    )


def responsible(report: Report) -> Professional | None:
    """Under whom a report is published: its legal authenticator, else its first author with an identifier."""
    candidates = (report.legal_authenticator, *report.authors)
    return next((person for person in candidates if person is not None and person.id is not None), None)


def check_identity(identity: VihfIdentity, patient: Ins) -> tuple[Violation, ...]:
    """What an assertion that the DMP can take for a lot of `patient` lacks."""
    required = {
        "NameID": identity.name_id,
        "subject-id": identity.subject_name,
        "Identifiant_Structure": identity.structure_id,
        "Secteur_Activite": identity.sector,
        "role": identity.profession.code,
    }
    found = [
        Violation("vihf-field", f"{name} missing", f"VIHF.{name}", _CLAUSE)
        for name, value in required.items()
        if not value.strip()
    ]
    if identity.patient != patient.cx:
        found.append(Violation("vihf-patient", "another patient than the lot", "VIHF.resource-id", _CLAUSE))
    return tuple(found)


def build_assertion(
    identity: VihfIdentity, settings: VihfSettings, *, assertion_id: str, now: datetime, signer: Signer
) -> bytes:
    """The signed `saml2:Assertion`, UTF-8, no XML declaration; put it into wsse:Security as it is.

    `assertion_id` starts with a letter or `_` (xs:ID); the signature is enveloped, exclusive C14N, right
    after Issuer. Raises `VihfRefused` for a secret connection whose code is not configured, or a bad ID.
    """
    if not re.fullmatch(r"[A-Za-z_][\w.-]*", assertion_id):
        raise VihfRefused("the assertion's ID is not an xs:ID")
    instant = now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assertion = etree.Element(saml("Assertion"), nsmap={"saml2": SAML, "xsi": XSI})
    assertion.set("ID", assertion_id)
    assertion.set("IssueInstant", instant)
    assertion.set("Version", "2.0")
    issuer = _text(assertion, "Issuer", signer.subject)
    issuer.set("Format", "urn:oasis:names:tc:SAML:1.1:nameid-format:X509SubjectName")
    _text(etree.SubElement(assertion, saml("Subject")), "NameID", identity.name_id)
    statement = etree.SubElement(assertion, saml("AuthnStatement"), AuthnInstant=instant)
    _text(etree.SubElement(statement, saml("AuthnContext")), "AuthnContextClassRef", settings.authn_context)
    _attributes(assertion, identity, settings)
    issuer.addnext(_signature(assertion, assertion_id, settings.digest, signer))
    return etree.tostring(assertion, encoding="UTF-8", xml_declaration=False)


def saml(name: str) -> str:
    """The qualified name of a SAML 2.0 assertion element."""
    return f"{{{SAML}}}{name}"


def _signature(
    assertion: etree._Element, assertion_id: str, digest: Digest, signer: Signer
) -> etree._Element:
    value = digest_value(canonical(assertion, exclusive=True), digest)
    reference = Reference(f"#{assertion_id}", value, transforms=(ENVELOPED_SIGNATURE, EXCLUSIVE_C14N))
    return open_signature(
        [reference], canonicalization=EXCLUSIVE_C14N, digest=digest, signer=signer, prefix="ds"
    )


def _attributes(assertion: etree._Element, identity: VihfIdentity, settings: VihfSettings) -> None:
    statement = etree.SubElement(assertion, saml("AttributeStatement"))
    for name, value in _plain_attributes(identity, settings):
        _text(etree.SubElement(statement, saml("Attribute"), Name=name), "AttributeValue", value)
    purpose = etree.SubElement(statement, saml("Attribute"), Name=_PURPOSE_OF_USE)
    _coded(purpose, "PurposeOfUse", _NORMAL_ACCESS)
    roles = etree.SubElement(statement, saml("Attribute"), Name=_ROLE)
    for role in filter(None, (identity.profession, identity.know_how)):
        _coded(roles, "Role", role)


def _plain_attributes(identity: VihfIdentity, settings: VihfSettings) -> Iterator[tuple[str, str]]:
    yield "VIHF_Version", "3.0"
    yield "Secteur_Activite", f"{identity.sector}^{TRE_R02}"
    yield "Ressource_URN", "urn:dmp"
    yield _SUBJECT_ID, identity.subject_name
    yield "Identifiant_Structure", identity.structure_id
    yield "LPS_ID", settings.lps_id
    yield "LPS_Nom", settings.lps_name
    yield "LPS_ID_HOMOLOGATION_DMP", settings.lps_homologation
    yield "LPS_Version", settings.lps_version
    yield _RESOURCE_ID, identity.patient
    yield settings.mode_attribute, "INDIRECTE"
    if identity.secret_connection:
        if not settings.secret_connection_code:
            raise VihfRefused("a secret connection is asked and its VIHF code is not configured")
        yield _CONFIDENTIALITY_CODE, settings.secret_connection_code


def _roles(person: Professional) -> tuple[Role, Role | None]:
    match = _SPECIALTY.fullmatch(person.specialty.code) if person.specialty else None
    if person.specialty is None or match is None:
        return AUTOMATE, None
    profession = Role(match["profession"], TRE_G15, PROFESSIONS.get(match["profession"], person.role))
    if not match["know_how"]:
        return profession, None
    # JDV_J01 labels are `<profession> - <know-how>`
    display = person.specialty.display.partition(" - ")[2] or person.specialty.display
    return profession, Role(match["know_how"], TRE_R01, display)


def _text(parent: etree._Element, name: str, text: str) -> etree._Element:
    node = etree.SubElement(parent, saml(name))
    node.text = xml_text(text)
    return node


def _coded(parent: etree._Element, name: str, coded: Role) -> None:
    value = etree.SubElement(parent, saml("AttributeValue"))
    node = etree.SubElement(value, f"{{{HL7}}}{name}", nsmap=_HL7_DEFAULT)
    node.set("code", coded.code)
    node.set("codeSystem", coded.system)
    if coded.system in _CODE_SYSTEM_NAMES:
        node.set("codeSystemName", _CODE_SYSTEM_NAMES[coded.system])
    if coded.display:
        node.set("displayName", xml_text(coded.display))
    node.set(f"{{{XSI}}}type", "CE")
