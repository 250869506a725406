"""Contents of a lot: bytes against metadata, the manifest as DICOM, the signature of the lot recomputed.

Facts: dmp-kos-xds 2.2 (hash, size after XOP decoding), 3.2 (IHE DSG signature, XAdES 1.1.1); drim-m-data 5.5.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from datetime import datetime

import pydicom
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from lxml import etree
from pydicom.errors import BytesLengthException, InvalidDicomError

from drimbox.simulators.dmp_answers import XDSB, XOP, RegistryError
from drimbox.simulators.dmp_messages import Request, cid_of, malformed, parse_xml
from drimbox.simulators.dmp_metadata import RegistryObject, Submission
from drimbox.simulators.dmp_state import patient_key
from drimbox.simulators.pki import Pki
from drimbox.simulators.trust import certificate_faults
from drimbox.simulators.xmldsig import DS, BadSignatureError, Verified, base64_of, digest, verify

XADES = "http://uri.etsi.org/01903/v1.1.1#"
PURPOSE_SOURCE = "1.2.840.10065.1.12.1.14"
KOS_CLASS = "1.2.840.10008.5.1.4.1.1.88.59"
# What pydicom raises on bytes that are not, or not wholly, a Part 10 file.
UNREADABLE = (
    InvalidDicomError,
    BytesLengthException,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    NotImplementedError,
    struct.error,
    zlib.error,
)
NULL_DIGEST = b"\x00"  # DigestValue AA==: the set itself is not digested (dmp-kos-xds 3.2)


def read_documents(request: Request) -> dict[str, bytes]:
    """ihe:Document id -> bytes, each by xop:Include of one attachment. Raises SoapFault.

    Every attachment is used exactly once; inline base64 is refused (MTOM is required for ITI-41).
    """
    documents: dict[str, bytes] = {}
    used: list[str] = []
    for element in request.payload.findall(f"{{{XDSB}}}Document"):
        includes = element.findall(f"{{{XOP}}}Include")
        identity = element.get("id", "")
        if len(includes) != 1 or (element.text or "").strip() or identity in documents:
            raise malformed("an ihe:Document needs an id of its own and exactly one xop:Include")
        used.append(cid_of(includes[0].get("href", "")))
        if used[-1] not in request.attachments:
            raise malformed("an xop:Include names no part of the message")
        documents[identity] = request.attachments[used[-1]]
    if sorted(used) != sorted(request.attachments):
        raise malformed("a part is not the content of exactly one ihe:Document")
    return documents


def content_errors(
    submission: Submission, pki: Pki, now: datetime, *, accept_sha1: bool
) -> list[RegistryError]:
    """Every disagreement between the bytes and what the metadata says of them."""
    errors = [*_presence(submission), *_bytes(submission)]
    for entry in submission.manifests:
        faults = manifest_faults(entry, submission.documents.get(entry.id, b""))
        errors += [RegistryError("InvalidDocumentContent", fault, entry.id) for fault in faults]
    for entry in submission.signatures:
        content = submission.documents.get(entry.id, b"")
        faults = signature_faults(submission, entry, content, pki, now, accept_sha1=accept_sha1)
        errors += [RegistryError("InvalidDocumentContent", fault, entry.id) for fault in faults]
    return errors


def _presence(submission: Submission) -> Iterator[RegistryError]:
    entries = {entry.id for entry in submission.entries}
    for missing in sorted(entries - set(submission.documents)):
        yield RegistryError("XDSMissingDocument", "the entry has no ihe:Document of the same id", missing)
    for extra in sorted(set(submission.documents) - entries):
        yield RegistryError(
            "XDSMissingDocumentMetadata", "the ihe:Document has no entry of the same id", extra
        )


def _bytes(submission: Submission) -> Iterator[RegistryError]:
    for entry in submission.entries:
        content = submission.documents.get(entry.id)
        if content is None:
            continue
        computed = {"hash": hashlib.sha1(content).hexdigest(), "size": str(len(content))}
        for name, value in computed.items():
            if entry.slot(name).lower() != value:
                text = f"{name} is not that of the document ({value})"
                yield RegistryError("XDSRepositoryMetadataError", text, f"{entry.id}/{name}")


def manifest_faults(entry: RegistryObject, content: bytes) -> Iterator[str]:
    """What is wrong in the KOS: Part 10, class, SOPInstanceUID = uniqueId, PatientID = INS."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sloppy values are not this check's affair
            data = pydicom.dcmread(io.BytesIO(content))
            found = {name: str(data.get(name, "")) for name in ("SOPClassUID", "SOPInstanceUID", "PatientID")}
    except UNREADABLE as error:
        yield f"the manifest is no readable DICOM Part 10 file ({type(error).__name__})"
        return
    wanted = {
        "SOPClassUID": KOS_CLASS,
        "SOPInstanceUID": entry.identifier("uniqueId"),
        "PatientID": patient_key(entry.identifier("patientId"))[0],
    }
    for name, value in wanted.items():
        if found[name] != value:
            yield f"{name} of the manifest is not that of the metadata"


def signature_faults(
    submission: Submission,
    entry: RegistryObject,
    content: bytes,
    pki: Pki,
    now: datetime,
    *,
    accept_sha1: bool,
) -> Iterator[str]:
    """What is wrong in the signature of the lot (dmp-kos-xds 3.2), by recomputation."""
    try:
        signature = parse_xml(content)
        if signature.tag != f"{{{DS}}}Signature":
            raise BadSignatureError("the document is not a ds:Signature")
        verified = verify(signature, accept_sha1=accept_sha1)
        manifest, properties = _covered(verified)
        _check_manifest(manifest, submission, accept_sha1)
        _check_properties(properties, verified.certificate, accept_sha1)
    except (etree.XMLSyntaxError, ValueError, BadSignatureError) as error:
        yield f"signature of the lot: {error}"
        return
    for fault in certificate_faults(verified.certificate, "SIGN", pki, now):
        yield f"signature of the lot: signer's certificate {fault}"
    if signature.get("Id") != entry.identifier("uniqueId"):
        yield "signature of the lot: Id is not the uniqueId of the signature document"
    if not _has_purpose(signature):
        yield "signature of the lot: purposeOfSignature is not source"


def _covered(verified: Verified) -> tuple[etree._Element, etree._Element]:
    wanted = {
        DS + "Manifest": (f"{{{DS}}}Manifest", "IHEManifest"),
        XADES + "SignedProperties": (f"{{{XADES}}}SignedProperties", None),
    }
    found = {reference.type: reference.element for reference in verified.references}
    for kind, (tag, identity) in wanted.items():
        element = found.get(kind)
        if element is None or element.tag != tag or identity not in (None, element.get("Id")):
            raise BadSignatureError(f"SignedInfo does not reference {kind}")
    return found[DS + "Manifest"], found[XADES + "SignedProperties"]


def _check_manifest(manifest: etree._Element, submission: Submission, accept_sha1: bool) -> None:
    """First the submission set with the null digest, then every other document on its raw bytes."""
    references = manifest.findall(f"{{{DS}}}Reference")
    found = {reference.get("URI", ""): _digest_of(reference) for reference in references}
    signed = {f"urn:oid:{e.identifier('uniqueId')}": e for e in submission.manifests}
    own = f"urn:oid:{submission.submission_set.identifier('uniqueId')}"
    if list(found)[:1] != [own] or found[own][1] != NULL_DIGEST:
        raise BadSignatureError("the manifest does not start with the submission set and the digest AA==")
    if set(found) != {own, *signed} or len(found) != len(references):
        raise BadSignatureError("the manifest does not list exactly the documents of the lot")
    for uri, entry in signed.items():
        method, value = found[uri]
        if digest(submission.documents.get(entry.id, b""), method, accept_sha1=accept_sha1) != value:
            raise BadSignatureError(f"the digest of {uri} is not that of the document")


def _check_properties(properties: etree._Element, certificate: x509.Certificate, accept_sha1: bool) -> None:
    signed = f"{{{XADES}}}SignedSignatureProperties"
    time = properties.findtext(f"{signed}/{{{XADES}}}SigningTime") or ""
    if datetime.fromisoformat(time.strip()).tzinfo is None:
        raise BadSignatureError("SigningTime has no zone")
    digests = properties.findall(
        f"{signed}/{{{XADES}}}SigningCertificate/{{{XADES}}}Cert/{{{XADES}}}CertDigest"
    )
    own = certificate.public_bytes(serialization.Encoding.DER)
    if not digests or not _matches(digests[0], own, accept_sha1):
        raise BadSignatureError("SigningCertificate is not the certificate of KeyInfo")


def _matches(element: etree._Element, content: bytes, accept_sha1: bool) -> bool:
    method, value = _digest_of(element)
    return digest(content, method, accept_sha1=accept_sha1) == value


def _digest_of(element: etree._Element) -> tuple[str, bytes]:
    """(DigestMethod, DigestValue); XAdES 1.1.1 puts them in its own namespace or in that of XMLDSig."""
    for namespace in (DS, XADES):
        method = element.find(f"{{{namespace}}}DigestMethod")
        value = element.find(f"{{{namespace}}}DigestValue")
        if method is not None and value is not None:
            return method.get("Algorithm", ""), base64_of(value)
    raise BadSignatureError("a DigestMethod or a DigestValue is absent")


def _has_purpose(signature: etree._Element) -> bool:
    properties = signature.iterfind(f"{{{DS}}}Object/{{{DS}}}SignatureProperties/{{{DS}}}SignatureProperty")
    return any((p.text or "").strip() == PURPOSE_SOURCE for p in properties)
