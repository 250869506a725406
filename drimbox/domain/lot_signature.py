"""The signature document of a lot: IHE DSG manifest in XAdES 1.1.1, as the DMP takes it (drim-m-data 5.5).

Structure and canonical forms: reference-drimbox 4.12, proven on both digests of the official sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from lxml import etree

from drimbox.domain.signer import Digest, Signer
from drimbox.domain.xml_signature import (
    ALGORITHMS,
    C14N_WITH_COMMENTS,
    DSIG,
    Reference,
    add_reference,
    canonical,
    digest_value,
    ds,
    open_signature,
)

XADES = "http://uri.etsi.org/01903/v1.1.1#"
PURPOSE_OF_SIGNATURE = "1.2.840.10065.1.12.1.14"  # source
MANIFEST_ID = "IHEManifest"
SIGNED_PROPERTIES_ID = "S0-SignedProperties"
# The submission set itself is not digested: the value is a null octet (dmp-kos-xds 3.2).
NULL_DIGEST = "AA=="
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_SCHEMA_LOCATION = f"{{{_XSI}}}schemaLocation"
_LOCATION = "http://docs.oasis-open.org/security/saml/v2.0/saml-schema-assertion-2.0.xsd"
_MANIFEST_NSMAP: Mapping[Any, str] = {None: DSIG, "xsi": _XSI}
_PROPERTIES_NSMAP: Mapping[Any, str] = {None: XADES, "xsi": _XSI}
_XADES_DEFAULT: Mapping[Any, str] = {None: XADES}
_DSIG_DEFAULT: Mapping[Any, str] = {None: DSIG}


def sign_lot(
    *,
    signature_uid: str,
    submission_set_uid: str,
    documents: Sequence[tuple[str, bytes]],
    now: datetime,
    digest: Digest,
    signer: Signer,
) -> bytes:
    """The signature document, UTF-8 with XML declaration; these exact bytes are what its entry hashes.

    `documents`: (uniqueId, bytes) of each document signed as raw bytes (a KOS: no transform).
    The Signature's Id is the document's uniqueId, as in the accepted sample.
    """
    manifest = _manifest(submission_set_uid, documents, digest)
    properties = _qualifying_properties(signature_uid, now, digest, signer)
    references = [
        _reference_to(manifest, f"{DSIG}Manifest", MANIFEST_ID, digest),
        _reference_to(properties[0], f"{XADES}SignedProperties", SIGNED_PROPERTIES_ID, digest),
    ]
    signature = open_signature(
        references, canonicalization=C14N_WITH_COMMENTS, digest=digest, signer=signer, prefix=None
    )
    signature.set("Id", signature_uid)
    for content in (_purpose(signature_uid), manifest, properties):
        etree.SubElement(signature, ds("Object")).append(content)
    return etree.tostring(signature, encoding="UTF-8", xml_declaration=True)


def _reference_to(element: etree._Element, kind: str, identifier: str, digest: Digest) -> Reference:
    # No transform: the default canonical form of XML-DSig, inclusive and without comments. Manifest and
    # SignedProperties declare every namespace they see, so that their place in the document changes nothing.
    return Reference(f"#{identifier}", digest_value(canonical(element, exclusive=False), digest), type=kind)


def _purpose(signature_uid: str) -> etree._Element:
    properties = etree.Element(ds("SignatureProperties"), nsmap=_DSIG_DEFAULT)
    node = etree.SubElement(properties, ds("SignatureProperty"), Id="purposeOfSignature")
    node.set("Target", f"#{signature_uid}")
    node.text = PURPOSE_OF_SIGNATURE
    return properties


def _manifest(
    submission_set_uid: str, documents: Sequence[tuple[str, bytes]], digest: Digest
) -> etree._Element:
    manifest = etree.Element(ds("Manifest"), nsmap=_MANIFEST_NSMAP)
    manifest.set("Id", MANIFEST_ID)
    manifest.set(_SCHEMA_LOCATION, f"{DSIG} {_LOCATION}")
    add_reference(manifest, Reference(f"urn:oid:{submission_set_uid}", NULL_DIGEST), digest)
    for unique_id, content in documents:
        add_reference(manifest, Reference(f"urn:oid:{unique_id}", digest_value(content, digest)), digest)
    return manifest


def _qualifying_properties(
    signature_uid: str, now: datetime, digest: Digest, signer: Signer
) -> etree._Element:
    qualifying = etree.Element(_xades("QualifyingProperties"), nsmap=_XADES_DEFAULT)
    qualifying.set("Target", f"#{signature_uid}")
    signed = etree.SubElement(qualifying, _xades("SignedProperties"), nsmap=_PROPERTIES_NSMAP)
    signed.set("Id", SIGNED_PROPERTIES_ID)
    signed.set(_SCHEMA_LOCATION, f"{XADES} {_LOCATION}")
    about = etree.SubElement(signed, _xades("SignedSignatureProperties"))
    instant = now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    etree.SubElement(about, _xades("SigningTime")).text = instant
    _certificate(etree.SubElement(about, _xades("SigningCertificate")), digest, signer)
    policy = etree.SubElement(about, _xades("SignaturePolicyIdentifier"))
    etree.SubElement(policy, _xades("SignaturePolicyImplied"))
    etree.SubElement(signed, _xades("SignedDataObjectProperties"))
    return qualifying


def _certificate(parent: etree._Element, digest: Digest, signer: Signer) -> None:
    cert = etree.SubElement(parent, _xades("Cert"))
    cert_digest = etree.SubElement(cert, _xades("CertDigest"))
    etree.SubElement(cert_digest, _xades("DigestMethod"), Algorithm=ALGORITHMS[digest].digest)
    etree.SubElement(cert_digest, _xades("DigestValue")).text = digest_value(signer.certificate, digest)
    serial = etree.SubElement(cert, _xades("IssuerSerial"))
    for name, value in (("X509IssuerName", signer.issuer), ("X509SerialNumber", str(signer.serial))):
        etree.SubElement(serial, ds(name), nsmap=_DSIG_DEFAULT).text = value


def _xades(name: str) -> str:
    return f"{{{XADES}}}{name}"
