"""Verification of XML signatures by recomputation: canonical form, digests, RSA, nothing trusted by default.

XML-Signature core, of which only what the DMP practises: same-document references, C14N 1.0 and exclusive
C14N, the enveloped transform, RSA with SHA-256 (SHA-1 on demand). Facts: dmp-kos-xds 3.1, 3.2.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from lxml import etree

DS = "http://www.w3.org/2000/09/xmldsig#"
EXC_C14N = "http://www.w3.org/2001/10/xml-exc-c14n#"
C14N = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"
ENVELOPED = DS + "enveloped-signature"


@dataclass(frozen=True)
class Method:
    """A canonicalisation: exclusive or inclusive, with or without comments."""

    exclusive: bool
    comments: bool


CANONICAL: Mapping[str, Method] = {
    EXC_C14N: Method(True, False),
    EXC_C14N + "WithComments": Method(True, True),
    C14N: Method(False, False),
    C14N + "#WithComments": Method(False, True),
}
DIGESTS: Mapping[str, hashes.HashAlgorithm] = {
    "http://www.w3.org/2001/04/xmlenc#sha256": hashes.SHA256(),
    DS + "sha1": hashes.SHA1(),  # noqa: S303  recognised, refused unless asked for
}
SIGNATURES: Mapping[str, hashes.HashAlgorithm] = {
    "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256": hashes.SHA256(),
    DS + "rsa-sha1": hashes.SHA1(),  # noqa: S303  same
}


class BadSignatureError(Exception):
    """The signature does not hold; the message names the step."""


@dataclass(frozen=True)
class Reference:
    """A verified ds:Reference of SignedInfo: the element it covers, its Type, the transforms used."""

    element: etree._Element
    type: str
    transforms: tuple[str, ...]


@dataclass(frozen=True)
class Verified:
    """What a valid signature says: signer certificate (not yet trusted) and the elements covered."""

    certificate: x509.Certificate
    references: tuple[Reference, ...]


def verify(signature: etree._Element, *, accept_sha1: bool = False) -> Verified:
    """Verify a ds:Signature in its document: every reference digest, then the RSA signature over SignedInfo.

    Raises BadSignatureError. The certificate of KeyInfo is returned, for the caller to trust or not.
    """
    info = _only(signature, "SignedInfo")
    references = info.findall(f"{{{DS}}}Reference")
    if not references:
        raise BadSignatureError("SignedInfo has no Reference")
    certificate = signer(signature)
    verified = tuple(_verify_reference(signature, reference, accept_sha1) for reference in references)
    signed = canonical(info, _algorithm(info, "CanonicalizationMethod"), _prefixes(info))
    algorithm = _hash(SIGNATURES, _algorithm(info, "SignatureMethod"), accept_sha1)
    _verify_rsa(certificate, base64_of(_only(signature, "SignatureValue")), signed, algorithm)
    return Verified(certificate, verified)


def signer(signature: etree._Element) -> x509.Certificate:
    """The one X509Certificate of KeyInfo. Raises BadSignatureError."""
    found = signature.findall(f"{{{DS}}}KeyInfo/{{{DS}}}X509Data/{{{DS}}}X509Certificate")
    if not found:
        raise BadSignatureError("KeyInfo holds no X509Certificate")
    try:
        return x509.load_der_x509_certificate(base64_of(found[0]))
    except ValueError:
        raise BadSignatureError("the X509Certificate of KeyInfo cannot be read") from None


def digest(content: bytes, algorithm: str, *, accept_sha1: bool) -> bytes:
    """The digest of `content` by the URI of a DigestMethod. Raises BadSignatureError when not allowed."""
    computed = hashes.Hash(_hash(DIGESTS, algorithm, accept_sha1))
    computed.update(content)
    return computed.finalize()


def canonical(element: etree._Element, algorithm: str, prefixes: tuple[str, ...] = ()) -> bytes:
    """Canonical form of the subtree at `element`. Raises BadSignatureError for an unknown algorithm."""
    method = CANONICAL.get(algorithm)
    if method is None:
        raise BadSignatureError(f"canonicalisation {algorithm} is not allowed")
    try:
        return etree.tostring(
            _alone(element),
            method="c14n",
            exclusive=method.exclusive,
            with_comments=method.comments,
            inclusive_ns_prefixes=list(prefixes) or None,
        )
    except etree.LxmlError:  # e.g. a relative namespace URI
        raise BadSignatureError("an element has no canonical form") from None


def base64_of(element: etree._Element) -> bytes:
    """The bytes of a base64 element, blanks ignored. Raises BadSignatureError."""
    try:
        return base64.b64decode("".join((element.text or "").split()), validate=True)
    except binascii.Error:
        raise BadSignatureError(f"{etree.QName(element).localname} is not base64") from None


def _verify_reference(signature: etree._Element, reference: etree._Element, accept_sha1: bool) -> Reference:
    uri = reference.get("URI", "")
    element = _target(signature, uri)
    transforms = reference.findall(f"{{{DS}}}Transforms/{{{DS}}}Transform")
    names = tuple(transform.get("Algorithm", "") for transform in transforms)
    covered = _without_signature(element, signature) if ENVELOPED in names else element
    forms = [t for t in transforms if t.get("Algorithm") != ENVELOPED]
    if len(forms) > 1 or len(names) - len(forms) > 1:
        raise BadSignatureError(f"reference {uri}: more transforms than one enveloped and one canonical form")
    form = forms[0].get("Algorithm", "") if forms else C14N
    octets = canonical(covered, form, _inclusive(forms[0]) if forms else ())
    computed = digest(octets, _algorithm(reference, "DigestMethod"), accept_sha1=accept_sha1)
    if computed != base64_of(_only(reference, "DigestValue")):
        raise BadSignatureError(f"reference {uri}: the digest does not match")
    return Reference(element, reference.get("Type", ""), names)


def _target(signature: etree._Element, uri: str) -> etree._Element:
    """The one element of the document whose ID, Id or id is named; a duplicate would allow wrapping."""
    if not uri.startswith("#") or len(uri) == 1:
        raise BadSignatureError(
            f"reference {uri or '(empty)'}: only same-document references by ID are allowed"
        )
    tree = signature.getroottree()
    found = tree.xpath("//*[@ID = $id or @Id = $id or @id = $id]", id=uri[1:])
    if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], etree._Element):
        raise BadSignatureError(f"reference {uri}: not exactly one element has that ID")
    return found[0]


def _without_signature(element: etree._Element, signature: etree._Element) -> etree._Element:
    """A copy of `element` without `signature` (its own child), the text around it kept."""
    if signature.getparent() is not element:
        raise BadSignatureError("the enveloped signature is not a child of the element it covers")
    position = element.index(signature)
    copied = _alone(element)
    removed = copied[position]
    tail, before = removed.tail or "", removed.getprevious()
    copied.remove(removed)
    if before is None:
        copied.text = (copied.text or "") + tail
    else:
        before.tail = (before.tail or "") + tail
    return copied


def _alone(element: etree._Element) -> etree._Element:
    """The subtree as a document of its own, every namespace in scope declared on its root.

    Needed because lxml's canonical form of a sub-element may add xmlns="" to its children.
    """
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    return etree.fromstring(etree.tostring(element, with_tail=False), parser)


def _verify_rsa(
    certificate: x509.Certificate, value: bytes, signed: bytes, algorithm: hashes.HashAlgorithm
) -> None:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise BadSignatureError("the signer's key cannot be read") from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise BadSignatureError("the signer's key is not RSA")
    try:
        key.verify(value, signed, padding.PKCS1v15(), algorithm)
    except InvalidSignature:
        raise BadSignatureError("the signature value does not match SignedInfo") from None


def _hash(table: Mapping[str, hashes.HashAlgorithm], name: str, accept_sha1: bool) -> hashes.HashAlgorithm:
    algorithm = table.get(name)
    if algorithm is None or (isinstance(algorithm, hashes.SHA1) and not accept_sha1):
        raise BadSignatureError(f"algorithm {name or '(none)'} is not allowed")
    return algorithm


def _only(parent: etree._Element, name: str) -> etree._Element:
    found = parent.findall(f"{{{DS}}}{name}")
    if len(found) != 1:
        raise BadSignatureError(f"{etree.QName(parent).localname} needs exactly one {name}")
    return found[0]


def _algorithm(parent: etree._Element, name: str) -> str:
    return _only(parent, name).get("Algorithm", "")


def _prefixes(info: etree._Element) -> tuple[str, ...]:
    return _inclusive(_only(info, "CanonicalizationMethod"))


def _inclusive(method: etree._Element) -> tuple[str, ...]:
    found = method.find(f"{{{EXC_C14N}}}InclusiveNamespaces")
    return () if found is None else tuple((found.get("PrefixList") or "").split())
