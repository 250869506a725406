"""What VIHF and lot signature share of XML-DSig: algorithms, canonical forms, SignedInfo."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lxml import etree

from drimbox.domain.signer import Digest, Signer

DSIG = "http://www.w3.org/2000/09/xmldsig#"
EXCLUSIVE_C14N = "http://www.w3.org/2001/10/xml-exc-c14n#"
C14N_WITH_COMMENTS = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315#WithComments"
ENVELOPED_SIGNATURE = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"


@dataclass(frozen=True, slots=True)
class Algorithms:
    """The URIs of one digest: of the signature (RSA PKCS#1 v1.5) and of the digest itself."""

    signature: str
    digest: str


# sha1 reproduces the sample that a DMP test server accepted in 2023 (drim-m-data 5.1); sha256 is the default.
ALGORITHMS: Mapping[Digest, Algorithms] = {
    "sha256": Algorithms(
        "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256", "http://www.w3.org/2001/04/xmlenc#sha256"
    ),
    "sha1": Algorithms(
        "http://www.w3.org/2000/09/xmldsig#rsa-sha1", "http://www.w3.org/2000/09/xmldsig#sha1"
    ),
}


@dataclass(frozen=True, slots=True)
class Reference:
    """One ds:Reference: `uri`, optional `type`, transform URIs, and the digest value in base64."""

    uri: str
    digest_value: str
    type: str = ""
    transforms: tuple[str, ...] = ()


def digest_value(data: bytes, digest: Digest) -> str:
    """Base64 of the digest of `data`."""
    digester = hashlib.sha256(data) if digest == "sha256" else hashlib.sha1(data, usedforsecurity=False)
    return b64encode(digester.digest()).decode("ascii")


def canonical(element: etree._Element, *, exclusive: bool, with_comments: bool = False) -> bytes:
    """Canonical octets of `element` as the apex of its own document.

    It is serialised and parsed again first: lxml's C14N of a sub-element writes spurious `xmlns=""` on its
    children (reference-drimbox 4.12, "Python trap").
    """
    alone = etree.fromstring(etree.tostring(element, with_tail=False))
    return etree.tostring(alone, method="c14n", exclusive=exclusive, with_comments=with_comments)


def add_reference(parent: etree._Element, reference: Reference, digest: Digest) -> etree._Element:
    """Append a ds:Reference (children in schema order: Transforms, DigestMethod, DigestValue)."""
    node = etree.SubElement(parent, ds("Reference"))
    if reference.type:
        node.set("Type", reference.type)
    node.set("URI", reference.uri)
    if reference.transforms:
        transforms = etree.SubElement(node, ds("Transforms"))
        for algorithm in reference.transforms:
            etree.SubElement(transforms, ds("Transform"), Algorithm=algorithm)
    etree.SubElement(node, ds("DigestMethod"), Algorithm=ALGORITHMS[digest].digest)
    etree.SubElement(node, ds("DigestValue")).text = reference.digest_value
    return node


def open_signature(
    references: Sequence[Reference],
    *,
    canonicalization: str,
    digest: Digest,
    signer: Signer,
    prefix: str | None,
) -> etree._Element:
    """A ds:Signature with SignedInfo, SignatureValue and KeyInfo/X509Data; ds:Object may be appended.

    `canonicalization`: exclusive C14N or inclusive C14N with comments. SignedInfo inherits no namespace but
    its own, so that both forms are the same wherever the signature is put.
    """
    nsmap: Mapping[Any, str] = {prefix: DSIG}
    signature = etree.Element(ds("Signature"), nsmap=nsmap)
    signed_info = etree.SubElement(signature, ds("SignedInfo"))
    etree.SubElement(signed_info, ds("CanonicalizationMethod"), Algorithm=canonicalization)
    etree.SubElement(signed_info, ds("SignatureMethod"), Algorithm=ALGORITHMS[digest].signature)
    for reference in references:
        add_reference(signed_info, reference, digest)
    octets = canonical(
        signed_info,
        exclusive=canonicalization == EXCLUSIVE_C14N,
        with_comments=canonicalization == C14N_WITH_COMMENTS,
    )
    value = etree.SubElement(signature, ds("SignatureValue"))
    value.text = b64encode(signer.sign(octets, digest)).decode("ascii")
    key_info = etree.SubElement(signature, ds("KeyInfo"))
    data = etree.SubElement(key_info, ds("X509Data"))
    etree.SubElement(data, ds("X509Certificate")).text = b64encode(signer.certificate).decode("ascii")
    return signature


def ds(name: str) -> str:
    """The qualified name of an XML-DSig element."""
    return f"{{{DSIG}}}{name}"
