"""The signed proof of one verification: eSignSanté's `ASIPProof`, made here (trust-and-identity 4.5, 4.6; 3.1 W4).

Same namespace, elements and rule names, so that a reader of eSignSanté's proofs recognises it; our own name in
`Version/Name`, and the editor's own certificate (W6). A refused list gets a proof as well.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from lxml import etree

from whitelist.proof_rules import Evidence, errors_of, judge_rules
from whitelist.trust import Report
from whitelist.xades_check import check_enveloped
from whitelist.xades_signer import Digest, ProofRefused, ProofSigner, b64, sign_enveloped

NAMESPACE = "http://esante.gouv.fr/ASIP/Proof"
NAME = "DRIMBox whitelist"
OPERATION = "drimbox whitelist verify"
MAX_PROOF_BYTES = 96 * 1024 * 1024  # a list of 10 MiB and two CRLs of 20 MiB, in base64
_IDENTIFIER = re.compile(r"[a-zA-Z_0-9\-]*")  # 4.1, also for our own proofs
_NSMAP: Mapping[Any, str] = {"asip": NAMESPACE}
_XML_ID = "{http://www.w3.org/XML/1998/namespace}id"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DIGEST_URI = "http://www.w3.org/2001/04/xmlenc#sha256"


@dataclass(frozen=True, slots=True)
class Request:
    """Who asked, in `RequestInfo`; identifiers of the pattern of 4.1."""

    request_id: str = ""
    tag: str = "liste-blanche"
    applicant_id: str = ""


@dataclass(frozen=True, slots=True)
class ProofContents:
    """What a proof says; `document`: the whole signed document that was judged, `errors`: its sentences."""

    component: str
    proof_id: str
    request_id: str
    rules: tuple[str, ...]
    valid: bool
    errors: tuple[str, ...]
    document: bytes


def build_proof(
    candidate: bytes,
    report: Report,
    evidence: Evidence,
    signer: ProofSigner,
    *,
    proof_id: str,
    now: datetime,
    version: str,
    request: Request | None = None,
    digest: Digest = "sha512",
) -> bytes:
    """The signed proof that `candidate` was judged as `report` says: UTF-8 XML, already checked.

    `now`: CreationTime and SigningTime, aware; `version` of the product. Raises ValueError for an identifier or a
    report that is not this candidate's; `ProofRefused` when the certificate may not sign, or signed wrongly.
    """
    asked = request or Request()
    _require_identifiers(proof_id, asked)
    if report.sha256 != hashlib.sha256(candidate).hexdigest():
        raise ValueError("the report is that of another document")
    root = etree.Element(_name("ASIPProof"), nsmap=_NSMAP)
    root.set(_XML_ID, "ASIP_Proof")
    results = judge_rules(report, evidence)
    _tell_component(root, proof_id, now, version)
    _add(root, "Configuration", "rules=" + ",".join(result.rule.name for result in results))
    _tell_request(root, candidate, asked, proof_id)
    _tell_outcome(root, report, evidence, "; ".join(errors_of(results)))
    sign_enveloped(root, signer, now=now, identifier=proof_id, digest=digest)
    proof = etree.tostring(root, encoding="UTF-8", xml_declaration=True)
    check_proof(proof, certificate=x509.load_der_x509_certificate(signer.certificate), candidate=candidate)
    return proof


def check_proof(
    proof: bytes, *, certificate: x509.Certificate, candidate: bytes | None = None
) -> ProofContents:
    """Verify one of our own proofs, signed by `certificate`, about `candidate` when it is given.

    Raises `ProofRefused` with every fault. Whether the certificate is still trusted is the caller's affair.
    """
    root = _parse(proof)
    check_enveloped(root, certificate)
    contents = _contents(root)
    if candidate is not None and contents.document != candidate:
        raise ProofRefused(["the proof is about another document"])
    return contents


def read_proof(proof: bytes) -> ProofContents:
    """What a proof says, ours or that of eSignSanté; its signature is not looked at. Raises `ProofRefused`."""
    return _contents(_parse(proof))


def name_text(subject: Callable[[], x509.Name]) -> str:
    """RFC 4514 text of a name, what XML cannot hold escaped as `\\XX`; a name that cannot be read says so."""
    try:
        text = subject().rfc4514_string()
    except ValueError:
        return "(nom illisible)"
    return _NOT_XML.sub(lambda found: _escaped(found.group()), text)


def _escaped(text: str) -> str:
    return "".join(f"\\{octet:02X}" for octet in text.encode("utf-8", "surrogatepass"))


def _require_identifiers(proof_id: str, request: Request) -> None:
    texts = {"proof_id": proof_id, "request_id": request.request_id, "tag": request.tag}
    texts["applicant_id"] = request.applicant_id
    wrong = [name for name, text in texts.items() if not _IDENTIFIER.fullmatch(text)]
    if wrong or not proof_id:
        raise ValueError(
            f"identifiers are letters, digits, - and _: {', '.join(wrong) or 'proof_id is empty'}"
        )


def _tell_component(root: etree._Element, proof_id: str, now: datetime, version: str) -> None:
    if now.tzinfo is None:
        raise ValueError("now must be aware")
    info = _add(root, "ASIPProofInfo")
    numbers = version.split(".")
    component = _add(info, "Version")
    _add(component, "Name", NAME)
    _add(component, "Major", ".".join(numbers[:2]))
    _add(component, "Minor", ".".join(numbers[2:]) or "0")
    _add(component, "Full", version)
    _add(info, "ProofId", proof_id)
    _add(info, "CreationTime", now.astimezone(UTC).isoformat(timespec="seconds"))


def _tell_request(root: etree._Element, candidate: bytes, request: Request, proof_id: str) -> None:
    info = _add(root, "RequestInfo")
    _add(info, "RequestType", "VerifSign")
    _add(info, "RequestId", request.request_id or proof_id)
    _add(info, "Tag", request.tag)
    _add(info, "ApplicantId", request.applicant_id)
    _add(info, "Signature", b64(candidate))


def _tell_outcome(root: etree._Element, report: Report, evidence: Evidence, errors: str) -> None:
    processing = _add(root, "Processing")
    _add(processing, "OpName", OPERATION)
    _add(processing, "OpStatus", f"valide:{str(report.accepted).lower()}")
    leaf = evidence.leaf
    status = _add(processing, "ASIPDetailedStatus")
    kind = "XAdES-BASELINE-B" if report.signed_at else "XMLDSig"  # SigningTime is read from SignedProperties
    _add(status, "Type", f"{kind} Signature" if leaf else "")
    _add(status, "X509SubjectName", name_text(lambda: leaf.subject) if leaf else "")
    _add(status, "X509Certificate", b64(leaf.public_bytes(Encoding.DER)) if leaf else "")
    _add(status, "OpErrorResponse", b64(errors.encode("utf-8")))
    _tell_validation_data(processing, evidence)


def _tell_validation_data(processing: etree._Element, evidence: Evidence) -> None:
    data = _add(processing, "ValidationData")
    certificates = ((evidence.leaf,) if evidence.leaf else ()) + evidence.anchors
    listed = _add(_add(data, "CompleteCertificateRefs"), "CertRefs")
    for certificate in certificates:
        _refer_to_certificate(listed, certificate)
    listed = _add(_add(data, "CompleteRevocationRefs"), "CRLRefs")
    for crl in evidence.crls:
        _refer_to_crl(listed, crl)
    values = _add(data, "CertificateValues")
    for certificate in certificates:
        _add(values, "EncapsulatedX509Certificate", b64(certificate.public_bytes(Encoding.DER)))
    values = _add(_add(data, "RevocationValues"), "CRLValues")
    for crl in evidence.crls:
        _add(values, "EncapsulatedCRLValue", b64(crl.public_bytes(Encoding.DER)))


def _refer_to_certificate(parent: etree._Element, certificate: x509.Certificate) -> None:
    reference = _add(parent, "Cert")
    _tell_digest(_add(reference, "CertDigest"), certificate.fingerprint(hashes.SHA256()))
    issuer = _add(reference, "IssuerSerial")
    _add(issuer, "X509IssuerName", name_text(lambda: certificate.issuer))
    _add(issuer, "X509SerialNumber", str(certificate.serial_number))


def _refer_to_crl(parent: etree._Element, crl: x509.CertificateRevocationList) -> None:
    reference = _add(parent, "CRLRef")
    _tell_digest(_add(reference, "DigestAlgAndValue"), crl.fingerprint(hashes.SHA256()))
    identifier = _add(reference, "CRLIdentifier")
    _add(identifier, "Issuer", name_text(lambda: crl.issuer))
    _add(identifier, "IssueTime", crl.last_update_utc.isoformat(timespec="seconds"))


def _tell_digest(parent: etree._Element, value: bytes) -> None:
    _add(parent, "DigestMethod").set("Algorithm", _DIGEST_URI)
    _add(parent, "DigestValue", b64(value))


def _parse(proof: bytes) -> etree._Element:
    """The root. huge_tree: a list may be one text of 14 million characters; the whole is bounded before."""
    if len(proof) > MAX_PROOF_BYTES:
        raise ProofRefused([f"the proof is longer than {MAX_PROOF_BYTES} bytes"])
    if b"\0" in proof or b"<!DOCTYPE" in proof:
        raise ProofRefused(["a proof is UTF-8 XML without a document type declaration"])
    parser = etree.XMLParser(
        encoding="utf-8", resolve_entities=False, no_network=True, load_dtd=False, huge_tree=True
    )
    try:
        root = etree.fromstring(proof, parser)
    except etree.XMLSyntaxError as error:
        raise ProofRefused([f"the proof is not well-formed XML: {error.msg}"]) from error
    if root.tag != _name("ASIPProof"):
        raise ProofRefused(["the root is not ASIPProof"])
    if any(not isinstance(node.tag, str) for node in root.iter()):  # not signed, yet they split what is read
        raise ProofRefused(["a comment or a processing instruction in a proof"])
    return root


def _contents(root: etree._Element) -> ProofContents:
    status, document = _text(root, "Processing", "OpStatus"), _text(root, "RequestInfo", "Signature")
    if status not in ("valide:true", "valide:false"):
        raise ProofRefused(["OpStatus is neither valide:true nor valide:false"])
    try:
        judged = b64decode(document, validate=True)
        errors = b64decode(_text(root, "Processing", "ASIPDetailedStatus", "OpErrorResponse"), validate=True)
        sentences = errors.decode("utf-8").split("; ") if errors else []
    except ValueError as error:
        raise ProofRefused(["Signature or OpErrorResponse is not base64 of what it should be"]) from error
    return ProofContents(
        component=_text(root, "ASIPProofInfo", "Version", "Name"),
        proof_id=_text(root, "ASIPProofInfo", "ProofId"),
        request_id=_text(root, "RequestInfo", "RequestId"),
        rules=tuple(filter(None, _text(root, "Configuration").removeprefix("rules=").split(","))),
        valid=status == "valide:true",
        errors=tuple(sentences),
        document=judged,
    )


def _text(root: etree._Element, *path: str) -> str:
    found = root.findall("/".join(_name(name) for name in path))
    if len(found) != 1:
        raise ProofRefused([f"{len(found)} elements {'/'.join(path)} instead of one"])
    return "".join((found[0].text or "").split()) if path[-1] in _BASE64 else (found[0].text or "").strip()


_BASE64 = frozenset({"Signature", "OpErrorResponse"})


def _add(parent: etree._Element, name: str, text: str | None = None) -> etree._Element:
    node = etree.SubElement(parent, _name(name))
    node.text = text
    return node


def _name(local: str) -> str:
    return f"{{{NAMESPACE}}}{local}"
