"""Who may speak to the simulated DMP: client certificate, WS-Addressing, VIHF. Each refusal is a SOAP fault.

Facts: dmp-kos-xds 2.1 (WS-Addressing), 2.7 (security faults), 3.1 (VIHF 3.0); trust-and-identity 5.2.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from cryptography import x509
from lxml import etree

from drimbox.simulators.dmp_answers import SOAP, WSA, WSSE, SoapFault
from drimbox.simulators.dmp_messages import Request
from drimbox.simulators.pki import Pki
from drimbox.simulators.trust import certificate_faults, structure_of
from drimbox.simulators.xmldsig import DS, ENVELOPED, EXC_C14N, BadSignatureError, Verified, verify

SAML = "urn:oasis:names:tc:SAML:2.0:assertion"
HL7 = "urn:hl7-org:v3"
ANONYMOUS = WSA + "/anonymous"
FRESHNESS = timedelta(minutes=5)
PATIENT_CX = r"[0-9AB]{15}\^\^\^&1\.2\.250\.1\.213\.1\.4\.[0-9]+&ISO\^NH(\^\^[0-9]{8})?"
_X509_NAME = "urn:oasis:names:tc:SAML:1.1:nameid-format:X509SubjectName"
_NCNAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")
_HEADER_REQUIRED = "A required header representing a Message Addressing Property is not present"


@dataclass(frozen=True)
class AttributeRow:
    """One VIHF attribute: its name (a pattern), the form of its value, whether it may be absent."""

    name: str
    value: str
    required: bool = True


# dmp-kos-xds 3.1; both letter cases of Authentification_mode are met.
ATTRIBUTES = (
    AttributeRow("VIHF_Version", r"3\.0"),
    AttributeRow("Authentification_[Mm]ode", "INDIRECTE"),
    AttributeRow("Identifiant_Structure", r"[0-9A-Z/]{5,}"),
    AttributeRow("Secteur_Activite", r"SA[0-9]{2}\^1\.2\.250\.1\.71\.4\.2\.4"),
    AttributeRow("urn:oasis:names:tc:xspa:1.0:subject:subject-id", r"\S(.*\S)?"),
    AttributeRow("urn:oasis:names:tc:xacml:2.0:resource:resource-id", PATIENT_CX),
    AttributeRow("Ressource_URN", "urn:dmp"),
    AttributeRow("LPS_ID", ".+", required=False),
    AttributeRow("LPS_Nom", ".+"),
    AttributeRow("LPS_Version", ".+", required=False),
    AttributeRow("LPS_ID_HOMOLOGATION_DMP", ".+"),
)


@dataclass(frozen=True)
class CodedRow:
    """One coded VIHF attribute (hl7 CE values): element name, code systems in order, code pattern.

    `alone`: the code system of a value that stands by itself instead.
    """

    name: str
    element: str
    systems: tuple[str, ...]
    code: str
    alone: str = ""


CODED = (
    CodedRow(
        "urn:oasis:names:tc:xspa:1.0:subject:purposeofuse",
        "PurposeOfUse",
        ("1.2.250.1.213.1.1.4.248",),
        "normal",
    ),
    CodedRow(
        "urn:oasis:names:tc:xacml:2.0:subject:role",
        "Role",
        ("1.2.250.1.71.1.2.7", "1.2.250.1.71.4.2.5"),
        r"[A-Za-z0-9/_]+",
        "1.2.250.1.213.1.1.4.6",  # AUTOMATE, the last resort (hl7-mss 1.9)
    ),
)


@dataclass(frozen=True)
class Vihf:
    """What a verified assertion says: the structure that speaks and the patient (CX) it speaks about."""

    structure: str
    patient_id: str


def check_client(certificate: bytes | None, pki: Pki, now: datetime) -> None:
    """The TLS client certificate must be an ORG AUTH_CLI of the ACI, in force. Raises SoapFault."""
    if certificate is None:
        raise SoapFault("wsse:FailedAuthentication", "Certificat client absent")
    faults = certificate_faults(x509.load_der_x509_certificate(certificate), "AUTH_CLI", pki, now)
    if faults:
        raise SoapFault("wsse:FailedAuthentication", f"Certificat client refusé : {faults[0]}", faults)


def check_addressing(request: Request, action: str, path: str) -> None:
    """WS-Addressing 1.0: MessageID, To, Action; ReplyTo anonymous when given. Raises SoapFault.

    action: the one of the operation that the body asks for. path: where the request was posted.
    """
    values = {name: _addressing(request, name) for name in ("MessageID", "To", "Action")}
    missing = [f"wsa:{name}" for name, value in values.items() if not value]
    if missing:
        raise SoapFault("wsa:MessageAddressingHeaderRequired", _HEADER_REQUIRED, missing)
    if not _is_uuid_urn(values["MessageID"]):
        raise SoapFault("wsa:InvalidAddressingHeader", "wsa:MessageID is not urn:uuid:<uuid>")
    if values["Action"] != action:
        raise SoapFault("wsa:ActionNotSupported", f"wsa:Action {values['Action']} is not that of the body")
    if request.action_parameter not in ("", action):
        raise SoapFault("wsa:ActionMismatch", "the action parameter of Content-Type is not wsa:Action")
    if urlsplit(values["To"]).path != path:
        raise SoapFault("wsa:DestinationUnreachable", f"wsa:To {values['To']} is not this service")
    reply_to = request.header.find(f"{{{WSA}}}ReplyTo/{{{WSA}}}Address")
    if reply_to is not None and (reply_to.text or "").strip() != ANONYMOUS:
        raise SoapFault("wsa:OnlyAnonymousAddressSupported", "wsa:ReplyTo is not anonymous")
    _check_understood(request)


def message_id(request: Request) -> str | None:
    """wsa:MessageID as sent, None when absent or repeated."""
    return _addressing(request, "MessageID") or None


def read_vihf(request: Request, pki: Pki, now: datetime, *, accept_sha1: bool) -> Vihf:
    """Verify the assertion of the header and read who speaks about whom. Raises SoapFault.

    In this order: one signed assertion; digest and signature; signer of kind SIGN; freshness; fields;
    Identifiant_Structure against the certificate's OU.
    """
    found = request.header.findall(f"{{{WSSE}}}Security/{{{SAML}}}Assertion")
    if len(found) != 1:
        raise SoapFault("wsse:InvalidSecurity", "wsse:Security must hold exactly one VIHF assertion")
    assertion = found[0]
    certificate = _verified_signer(assertion, accept_sha1)
    faults = certificate_faults(certificate, "SIGN", pki, now)
    if faults:
        raise SoapFault("DMPInvalidCertificate", "Not a valid signature certificate", faults)
    _check_freshness(assertion, now)
    violations = [
        *_form_faults(assertion, certificate),
        *_attribute_faults(assertion),
        *_coded_faults(assertion),
    ]
    if violations:
        raise SoapFault("wsse:InvalidSecurityToken", f"VIHF invalide : {violations[0]}", violations)
    values = _text_values(assertion)
    structure = values["Identifiant_Structure"][0]
    if structure != structure_of(certificate):
        raise SoapFault("wsse:FailedAuthentication", "Erreur d'authentification de la personne morale")
    return Vihf(structure, values["urn:oasis:names:tc:xacml:2.0:resource:resource-id"][0])


def _addressing(request: Request, name: str) -> str:
    found = request.header.findall(f"{{{WSA}}}{name}")
    return (found[0].text or "").strip() if len(found) == 1 else ""


def _is_uuid_urn(value: str) -> bool:
    try:
        return value.startswith("urn:uuid:") and str(uuid.UUID(value[9:])) == value[9:].lower()
    except ValueError:
        return False


def _check_understood(request: Request) -> None:
    for block in request.header:
        must = block.get(f"{{{SOAP}}}mustUnderstand", "false") in ("true", "1")
        if must and etree.QName(block).namespace not in (WSA, WSSE):
            text = f"the header {block.tag} is not understood"
            raise SoapFault("soap:MustUnderstand", text, code="soap:MustUnderstand")


def _verified_signer(assertion: etree._Element, accept_sha1: bool) -> x509.Certificate:
    signatures = assertion.findall(f"{{{DS}}}Signature")
    if len(signatures) != 1 or assertion.index(signatures[0]) != 1:
        raise SoapFault("wsse:FailedCheck", "the VIHF needs one ds:Signature, right after saml2:Issuer")
    try:
        verified = verify(signatures[0], accept_sha1=accept_sha1)
        _check_covers(verified, assertion, signatures[0])
    except BadSignatureError as error:
        raise SoapFault("wsse:FailedCheck", f"Signature du VIHF invalide : {error}") from None
    return verified.certificate


def _check_covers(verified: Verified, assertion: etree._Element, signature: etree._Element) -> None:
    if [r.element for r in verified.references] != [assertion]:
        raise BadSignatureError("the signature does not cover the assertion, the whole and alone")
    if verified.references[0].transforms != (ENVELOPED, EXC_C14N):
        raise BadSignatureError("the transforms are not enveloped-signature then exclusive C14N")
    method = signature.find(f"{{{DS}}}SignedInfo/{{{DS}}}CanonicalizationMethod")
    if method is None or method.get("Algorithm") != EXC_C14N:
        raise BadSignatureError("SignedInfo is not in exclusive C14N")


def _check_freshness(assertion: etree._Element, now: datetime) -> None:
    try:
        issued = datetime.fromisoformat(assertion.get("IssueInstant", ""))
        fresh = abs(now - issued) <= FRESHNESS
    except (ValueError, TypeError):
        raise SoapFault("wsse:InvalidSecurityToken", "IssueInstant is not an instant with its zone") from None
    if not fresh:
        raise SoapFault("wsu:MessageExpired", "VIHF expiré : IssueInstant is more than 5 minutes away")


def _form_faults(assertion: etree._Element, certificate: x509.Certificate) -> Iterator[str]:
    if assertion.get("Version") != "2.0":
        yield "Version is not 2.0"
    if not _NCNAME.match(assertion.get("ID", "")):
        yield "ID is not an xs:ID"
    issuer = assertion.find(f"{{{SAML}}}Issuer")
    if issuer is None or issuer.get("Format") != _X509_NAME:
        yield "Issuer has not the format X509SubjectName"
    elif not _names(issuer.text or "", certificate.subject):
        yield "Issuer is not the subject of the signature certificate (CN first)"
    if not (assertion.findtext(f"{{{SAML}}}Subject/{{{SAML}}}NameID") or "").strip():
        yield "Subject/NameID is empty"
    statement = assertion.find(f"{{{SAML}}}AuthnStatement")
    if statement is None or not statement.get("AuthnInstant"):
        yield "AuthnStatement/@AuthnInstant is absent"
    context = assertion.findtext(
        f"{{{SAML}}}AuthnStatement/{{{SAML}}}AuthnContext/{{{SAML}}}AuthnContextClassRef"
    )
    if not (context or "").startswith("urn:oasis:names:tc:SAML:2.0:ac:classes:"):
        yield "AuthnContextClassRef is absent or unknown"


def _names(text: str, subject: x509.Name) -> bool:
    """Whether `CN=.., OU=.., O=.., ST=.., C=FR` (RFC 2253, blanks after commas allowed) is `subject`."""
    try:
        parsed = x509.Name.from_rfc4514_string(re.sub(r"(?<!\\),\s+", ",", text.strip()))
    except ValueError:
        return False
    return _pairs(parsed) == _pairs(subject)


def _pairs(name: x509.Name) -> list[list[tuple[str, str | bytes]]]:
    return [[(attribute.oid.dotted_string, attribute.value) for attribute in rdn] for rdn in name.rdns]


def _text_values(assertion: etree._Element) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for attribute in _attributes(assertion):
        texts = [(v.text or "").strip() for v in attribute.findall(f"{{{SAML}}}AttributeValue")]
        values.setdefault(attribute.get("Name", ""), []).extend(texts)
    return values


def _attributes(assertion: etree._Element) -> Iterable[etree._Element]:
    return assertion.findall(f"{{{SAML}}}AttributeStatement/{{{SAML}}}Attribute")


def _attribute_faults(assertion: etree._Element) -> Iterator[str]:
    values = _text_values(assertion)
    for row in ATTRIBUTES:
        found = [text for name, texts in values.items() if re.fullmatch(row.name, name) for text in texts]
        if not found and row.required:
            yield f"attribute {row.name} is absent"
        elif len(found) > 1 or any(not re.fullmatch(row.value, text) for text in found):
            yield f"attribute {row.name} has not the value expected"


def _coded_faults(assertion: etree._Element) -> Iterator[str]:
    for row in CODED:
        inside = [a for a in _attributes(assertion) if a.get("Name") == row.name]
        found = [e for a in inside for e in a.iterfind(f"{{{SAML}}}AttributeValue/{{{HL7}}}{row.element}")]
        systems = tuple(e.get("codeSystem", "") for e in found)
        if not found or (systems != (row.alone,) and systems != row.systems[: len(systems)]):
            yield f"attribute {row.name} needs {row.element} coded in {' then '.join(row.systems)}"
        elif any(not re.fullmatch(row.code, e.get("code", "")) for e in found):
            yield f"attribute {row.name} has not the code expected"
