"""The XML signature of a list: steps 2, 3, 6, 7 and 8 of trust-and-identity 3.5 (4 and 5: `signed_info`).

Form: drim-m-data 2.2 (XAdES-BASELINE-B, enveloped) or the plain enveloped XML-DSig of MSSanté (3.7). Nothing here
raises for what the octets are: each function gives its product, or None, and a `Finding`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from lxml import etree

from whitelist.algorithms import DIGESTS, DS, XADES, digest, read_base64, value_fault
from whitelist.certificate import Unreadable, load
from whitelist.finding import Finding
from whitelist.signed_info import Reference, SignedInfo, properties_canonicalization
from whitelist.tree import (
    NotXml,
    bomb_fault,
    canonical,
    canonical_without,
    identifiers,
    parse,
    text_of,
)

_NS = {"ds": DS, "xades": XADES}
_PROPERTIES = f"{{{XADES}}}SignedProperties"
_CERT = "xades:SignedSignatureProperties/xades:SigningCertificateV2/xades:Cert/xades:CertDigest"
_TIME = "xades:SignedSignatureProperties/xades:SigningTime"
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII)


def read_form(
    candidate: bytes,
    document_root: str,
    namespaces: Collection[str],
    *,
    other_namespaces: bool,
) -> tuple[etree._Element | None, Finding]:
    """Step 2: an XML document without DTD whose root is the expected one.

    `other_namespaces`: a namespace that is not in the list is a doubt instead of a fault.
    """
    finding = Finding()
    try:
        root = parse(candidate)
    except NotXml as error:
        finding.faults.append(str(error))
        return None, finding
    bomb = bomb_fault(root)
    if not finding.expect(bomb is None, bomb or ""):
        return None, finding
    name = etree.QName(root)
    finding.expect(
        name.localname == document_root,
        f"the root is {name.localname}, not {document_root}",
    )
    if name.namespace not in namespaces:
        said = f"the namespace {name.namespace!r} is not one of the list's"
        (finding.doubts if other_namespaces else finding.faults).append(said)
    finding.notes.append(f"{name.localname} in {name.namespace}")
    return root, finding


def find_signature(root: etree._Element) -> tuple[etree._Element | None, Finding]:
    """Step 3: exactly one ds:Signature in the whole document, child of the root."""
    finding = Finding()
    found = list(root.iter(f"{{{DS}}}Signature"))
    if not finding.expect(len(found) > 0, "the document is not signed"):
        return None, finding
    finding.expect(len(found) == 1, f"{len(found)} signatures, exactly one expected")
    finding.expect(
        all(s.getparent() is root for s in found[:1]),
        "the signature is no child of the root",
    )
    finding.notes.append("one signature, child of the root")
    return (None if finding.faults else found[0]), finding


def find_leaf(signature: etree._Element) -> tuple[x509.Certificate | None, Finding]:
    """The signer's certificate among those of KeyInfo: the one that SigningCertificateV2 names, else the first.

    Every other certificate of the file is ignored; a KeyValue is never used. Faults belong to step 8.
    """
    finding = Finding()
    elements = signature.findall("ds:KeyInfo/ds:X509Data/ds:X509Certificate", _NS)
    if not finding.expect(bool(elements), "KeyInfo carries no certificate"):
        return None, finding
    carried = [octets for element in elements if (octets := read_base64(text_of(element)))]
    named = _named_digest(signature.find(f".//{_PROPERTIES}"))
    chosen = next((c for c in carried if named and digest(c, named[0]) == named[1]), None)
    first = read_base64(text_of(elements[0])) or b""
    try:
        return load(chosen or first), finding
    except Unreadable as error:
        finding.faults.append(f"the signer's certificate cannot be read: {error}")
        return None, finding


def digest_document(
    signature: etree._Element, reference: Reference, *, exclusive: bool
) -> tuple[bytes | None, Finding]:
    """Step 6: the canonical octets of the document without its signature, when their digest is the signed one."""
    finding = Finding()
    octets = canonical_without(signature, exclusive=exclusive)
    held = octets is not None and _matches(reference, octets)
    if not finding.expect(held, "the digest of the document is not the signed one"):
        return None, finding
    finding.notes.append(f"{reference.digest} of {len(octets or b'')} canonical octets")
    return octets, finding


def check_properties(
    signature: etree._Element,
    info: SignedInfo,
    leaf: x509.Certificate | None,
    latest: datetime,
) -> tuple[datetime | None, Finding]:
    """Step 7: gives SigningTime (aware), None when any check failed or the form has no SignedProperties.

    `latest` is the last acceptable SigningTime (now + skew).
    """
    present = list(signature.iter(_PROPERTIES))
    if info.properties is None:
        return None, _without_properties(present)
    finding = Finding()
    if not finding.expect(len(present) == 1, f"{len(present)} SignedProperties, exactly one expected"):
        return None, finding
    _check_place(finding, signature, present[0], info.properties.uri)
    exclusive, transforms = properties_canonicalization(info.properties)
    finding.faults.extend(transforms.faults)
    octets = None if exclusive is None else canonical(present[0], exclusive=exclusive)
    held = octets is not None and _matches(info.properties, octets)
    finding.expect(held, "the digest of SignedProperties is not the signed one")
    _check_named(finding, present[0], leaf)
    signed_at = _check_time(finding, present[0], latest)
    return (None if finding.faults else signed_at), finding


def check_value(signature: etree._Element, info: SignedInfo, leaf: x509.Certificate) -> Finding:
    """Step 8: SignatureValue is that of the canonical SignedInfo by the leaf's key. `info` has no None inside."""
    finding = Finding()
    octets = canonical(info.element, exclusive=bool(info.exclusive))
    value = read_base64(text_of(signature.find("ds:SignatureValue", _NS)))
    if not value or octets is None or info.method is None:
        finding.faults.append(
            "SignatureValue is no base64" if not value else "SignedInfo has no canonical form"
        )
        return finding
    fault = value_fault(info.method, leaf.public_key(), value, octets)
    finding.expect(fault is None, fault or "")
    finding.notes.append(f"holds by the key of {leaf.subject.rfc4514_string()}")
    return finding


def _without_properties(present: list[etree._Element]) -> Finding:
    finding = Finding(unjudged="plain XML-DSig: no SignedProperties, no SigningTime")
    finding.expect(not present, "SignedProperties that no reference signs")
    return finding


def _check_place(finding: Finding, signature: etree._Element, properties: etree._Element, uri: str) -> None:
    direct = signature.findall(f"ds:Object/xades:QualifyingProperties/{_PROPERTIES}", _NS)
    if finding.expect(direct == [properties], "SignedProperties are not those of this signature"):
        qualifying = properties.getparent()
        target = None if qualifying is None else qualifying.get("Target")
        finding.expect(
            target == f"#{signature.get('Id')}",
            "QualifyingProperties targets another signature",
        )
    every = list(identifiers(signature.getroottree().getroot()))
    counts = Counter(value for value, _ in every)
    twice = sorted(value for value, count in counts.items() if count > 1)
    finding.expect(not twice, f"the Id {twice[0]!r} is carried more than once" if twice else "")
    carriers = [element for value, element in every if value == uri[1:]]
    finding.expect(
        carriers == [properties],
        "the reference is to something else than SignedProperties",
    )


def _check_named(finding: Finding, properties: etree._Element, leaf: x509.Certificate | None) -> None:
    named = _named_digest(properties)
    if finding.expect(named is not None, "no SigningCertificateV2 with an accepted digest") and named:
        held = leaf is not None and digest(leaf.public_bytes(Encoding.DER), named[0]) == named[1]
        finding.expect(
            held,
            "SigningCertificateV2 names another certificate than the one in KeyInfo",
        )


def _check_time(finding: Finding, properties: etree._Element, latest: datetime) -> datetime | None:
    text = text_of(properties.find(_TIME, _NS))
    signed_at = read_instant(text)
    if not finding.expect(signed_at is not None, "no SigningTime with a time zone") or signed_at is None:
        return None
    finding.expect(signed_at <= latest, f"signed in the future: {text}")
    finding.notes.append(f"signed at {text}")
    return signed_at


def read_instant(text: str) -> datetime | None:
    """An xs:dateTime with a zone as an aware datetime; None when it is none."""
    if not _INSTANT.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _named_digest(properties: etree._Element | None) -> tuple[str, bytes] | None:
    """Digest algorithm (hashlib name) and value of the first certificate of SigningCertificateV2."""
    row = None if properties is None else properties.find(_CERT, _NS)
    if row is None:
        return None
    method = row.find("ds:DigestMethod", _NS)
    name = None if method is None else DIGESTS.get(method.get("Algorithm", ""))
    value = read_base64(text_of(row.find("ds:DigestValue", _NS)))
    return (name, value) if name and value else None


def _matches(reference: Reference, octets: bytes) -> bool:
    return reference.digest is not None and digest(octets, reference.digest) == reference.value
