"""The strict check of a signature made by `xades_signer`: nothing but its template is accepted.

Every proof is checked before it is stored (trust-and-identity 4.6).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from lxml import etree

from whitelist.algorithms import (
    DIGESTS,
    DS,
    ENVELOPED,
    METHODS,
    SIGNED_PROPERTIES,
    XADES,
    digest,
    read_base64,
    value_fault,
)
from whitelist.tree import canonical, canonical_without, identifiers
from whitelist.xades_signer import EXCLUSIVE_C14N, ProofRefused

_PREFIXES: Mapping[str, str] = {"ds": DS, "xades": XADES}


def check_enveloped(root: etree._Element, certificate: x509.Certificate) -> None:
    """Verify what `sign_enveloped` makes, made by `certificate`; anything else is refused.

    Raises `ProofRefused` with every fault. The certificate's own trust and validity are the caller's affair.
    """
    signatures = root.findall(".//ds:Signature", _PREFIXES)
    if len(signatures) != 1 or signatures[0] is not root[-1]:
        raise ProofRefused(["a proof has one signature, the last child of its root"])
    try:
        faults = list(_signature_faults(root, signatures[0], certificate))
    except _Malformed as error:
        faults = [f"the signature is malformed: {error}"]
    if faults:
        raise ProofRefused(faults)


class _Malformed(Exception):
    """An element that the template has is missing, or is there twice."""


def _signature_faults(
    root: etree._Element, signature: etree._Element, certificate: x509.Certificate
) -> Iterator[str]:
    der = certificate.public_bytes(serialization.Encoding.DER)
    if _octets(_one(signature, "ds:KeyInfo/ds:X509Data/ds:X509Certificate")) != der:
        yield "KeyInfo holds another certificate than the signer's"
    properties = _one(signature, "ds:Object/xades:QualifyingProperties/xades:SignedProperties")
    identifier = properties.get("Id", "")
    if [value for value, _ in identifiers(root)].count(identifier) != 1:
        yield "the Id of SignedProperties is not unique"
    about = {"URI": f"#{identifier}", "Type": SIGNED_PROPERTIES}
    document, signed = canonical_without(signature, exclusive=True), canonical(properties, exclusive=True)
    wanted = (
        ({"URI": ""}, (ENVELOPED, EXCLUSIVE_C14N), document, "the document"),
        (about, (EXCLUSIVE_C14N,), signed, "SignedProperties"),
    )
    references = signature.findall("ds:SignedInfo/ds:Reference", _PREFIXES)
    if len(references) != len(wanted):
        yield f"{len(references)} references instead of {len(wanted)}"
    for reference, (attributes, transforms, octets, name) in zip(references, wanted, strict=False):
        yield from _reference_faults(reference, attributes, transforms, octets, name)
    yield from _certificate_digest_faults(properties, der)
    yield from _value_faults(signature, certificate)


def _reference_faults(
    reference: etree._Element,
    attributes: Mapping[str, str],
    transforms: tuple[str, ...],
    octets: bytes | None,
    name: str,
) -> Iterator[str]:
    if {key: str(value) for key, value in reference.attrib.items() if key != "Id"} != attributes:
        yield f"the reference to {name} points elsewhere"
    found = reference.findall("ds:Transforms/ds:Transform", _PREFIXES)
    if tuple(node.get("Algorithm") for node in found) != transforms or any(len(node) for node in found):
        yield f"the transforms of {name} are not those of the template"
    if octets is None or not _digest_holds(reference, octets):
        yield f"the digest of {name} differs"


def _certificate_digest_faults(properties: etree._Element, der: bytes) -> Iterator[str]:
    if not _digest_holds(_one(properties, ".//xades:SigningCertificateV2/xades:Cert/xades:CertDigest"), der):
        yield "SigningCertificateV2 names another certificate"


def _value_faults(signature: etree._Element, certificate: x509.Certificate) -> Iterator[str]:
    signed_info = _one(signature, "ds:SignedInfo")
    octets = canonical(signed_info, exclusive=True)
    method = METHODS.get(_one(signed_info, "ds:SignatureMethod").get("Algorithm", ""))
    if _one(signed_info, "ds:CanonicalizationMethod").get("Algorithm") != EXCLUSIVE_C14N:
        yield "SignedInfo is not in exclusive C14N"
    if method is None or octets is None:
        yield "the signature method is refused"
    else:
        value = _octets(_one(signature, "ds:SignatureValue"))
        if fault := value_fault(method, certificate.public_key(), value, octets):
            yield fault


def _one(parent: etree._Element, path: str) -> etree._Element:
    found = parent.findall(path, _PREFIXES)
    if len(found) != 1:
        raise _Malformed(f"{len(found)} elements {path} instead of one")
    return found[0]


def _octets(element: etree._Element) -> bytes:
    octets = read_base64(element.text or "")
    if octets is None:
        raise _Malformed(f"{etree.QName(element).localname} is not base64")
    return octets


def _digest_holds(parent: etree._Element, octets: bytes) -> bool:
    name = DIGESTS.get(_one(parent, "ds:DigestMethod").get("Algorithm", ""))
    if name is None:
        raise _Malformed("a digest method is refused")
    return digest(octets, name) == _octets(_one(parent, "ds:DigestValue"))
