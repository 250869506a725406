"""The ANS list and its XAdES-BASELINE-B enveloped signature, in the exact form of the published ones.

drim-m-data 2.1 (document), 2.2 (signature): XPath Filter 2.0 `subtract`, exclusive C14N, RSA-SHA256,
SigningCertificateV2 with a SHA-512 digest and IssuerSerialV2, X509Data = leaf, intermediate, root.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from lxml import etree

LIST = "https://github.com/ansforge/DRIM-M_DATA"
DS = "http://www.w3.org/2000/09/xmldsig#"
NAMESPACES = {"ds": DS, "xades": "http://uri.etsi.org/01903/v1.3.2#"}

SIGNATURE = """
<ds:Signature xmlns:ds="http://www.w3.org/2000/09/xmldsig#" Id="id-{id}"><ds:SignedInfo>
<ds:CanonicalizationMethod Algorithm="http://www.w3.org/2001/10/xml-exc-c14n#"/>
<ds:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"/>
<ds:Reference Id="r-id-{id}-1" URI=""><ds:Transforms>
<ds:Transform Algorithm="http://www.w3.org/2002/06/xmldsig-filter2">
<dsig-filter2:XPath xmlns:dsig-filter2="http://www.w3.org/2002/06/xmldsig-filter2" Filter="subtract">
/descendant::ds:Signature</dsig-filter2:XPath></ds:Transform>
<ds:Transform Algorithm="http://www.w3.org/2001/10/xml-exc-c14n#"/></ds:Transforms>
<ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmlenc#sha256"/><ds:DigestValue/></ds:Reference>
<ds:Reference Type="http://uri.etsi.org/01903#SignedProperties" URI="#xades-id-{id}"><ds:Transforms>
<ds:Transform Algorithm="http://www.w3.org/2001/10/xml-exc-c14n#"/></ds:Transforms>
<ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmlenc#sha256"/><ds:DigestValue/></ds:Reference>
</ds:SignedInfo><ds:SignatureValue Id="value-id-{id}"/><ds:KeyInfo><ds:X509Data/></ds:KeyInfo><ds:Object>
<xades:QualifyingProperties xmlns:xades="http://uri.etsi.org/01903/v1.3.2#" Target="#id-{id}">
<xades:SignedProperties Id="xades-id-{id}"><xades:SignedSignatureProperties>
<xades:SigningTime>{signing_time}</xades:SigningTime><xades:SigningCertificateV2><xades:Cert>
<xades:CertDigest><ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmlenc#sha512"/>
<ds:DigestValue>{certificate_digest}</ds:DigestValue></xades:CertDigest>
<xades:IssuerSerialV2>{issuer_serial}</xades:IssuerSerialV2></xades:Cert></xades:SigningCertificateV2>
</xades:SignedSignatureProperties><xades:SignedDataObjectProperties>
<xades:DataObjectFormat ObjectReference="#r-id-{id}-1"><xades:MimeType>text/xml</xades:MimeType>
</xades:DataObjectFormat></xades:SignedDataObjectProperties></xades:SignedProperties>
</xades:QualifyingProperties></ds:Object></ds:Signature>
""".replace("\n", "")


@dataclass(frozen=True)
class Domain:
    """One entry of the list: `db` and `vi` are host names, `operator` an RFC 4514 subject."""

    identifier: int
    db: str
    vi: str
    label: str
    operator: str
    contact: str
    updated: datetime


@dataclass(frozen=True)
class Signer:
    """Who signs: key, leaf certificate, then the chain that X509Data carries with it."""

    key: rsa.RSAPrivateKey
    certificate: x509.Certificate
    chain: Sequence[x509.Certificate]


def write_list(domains: Sequence[Domain], generated_at: datetime) -> bytes:
    """The unsigned `ListeBlancheDRIM-M` document, UTF-8."""
    root = etree.fromstring(f'<ListeBlancheDRIM-M xmlns="{LIST}" versionFormat="1.0.0"/>', _parser())
    root.text = "\n    "
    _child(root, "DateDeGeneration", instant(generated_at)).tail = "\n    "
    entries = _child(root, "ListeDomaines", "\n        ")
    for domain in domains:
        _entry(entries, domain).tail = "\n        "
    entries.tail = "\n"
    return _bytes(root)


def sign_list(document: bytes, signer: Signer, signing_time: datetime) -> bytes:
    """The document with its signature as last child of the root."""
    root = etree.fromstring(document, _parser())
    digest = hashlib.sha256(_canonical(root)).digest()
    signature = etree.fromstring(_filled(signer, signing_time), _parser())
    root.append(signature)
    properties = _only(signature, ".//xades:SignedProperties")
    values = signature.findall("ds:SignedInfo/ds:Reference/ds:DigestValue", NAMESPACES)
    values[0].text = _base64(digest)
    values[1].text = _base64(hashlib.sha256(_canonical(properties)).digest())
    signed = _canonical(_only(signature, "ds:SignedInfo"))
    value = signer.key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    _only(signature, "ds:SignatureValue").text = _base64(value)
    for certificate in (signer.certificate, *signer.chain):
        holder = etree.SubElement(_only(signature, ".//ds:X509Data"), f"{{{DS}}}X509Certificate")
        holder.text = _base64(certificate.public_bytes(serialization.Encoding.DER))
    return _bytes(root)


def issuer_serial(certificate: x509.Certificate) -> bytes:
    """DER of IssuerSerial (RFC 5035): SEQUENCE { GeneralNames { directoryName }, serialNumber }."""
    names = _der(0x30, _der(0xA4, certificate.issuer.public_bytes()))
    serial = certificate.serial_number
    return _der(0x30, names + _der(0x02, serial.to_bytes(serial.bit_length() // 8 + 1, "big")))


def instant(moment: datetime) -> str:
    """An aware instant as the lists write it: `2026-06-19T18:06:52Z`."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _filled(signer: Signer, signing_time: datetime) -> str:
    der = signer.certificate.public_bytes(serialization.Encoding.DER)
    return SIGNATURE.format(
        id=secrets.token_hex(16),
        signing_time=instant(signing_time),
        certificate_digest=_base64(hashlib.sha512(der).digest()),
        issuer_serial=_base64(issuer_serial(signer.certificate)),
    )


def _entry(parent: etree._Element, domain: Domain) -> etree._Element:
    entry = _child(parent, "Domaine", "\n            ")
    rows = (
        ("Identifiant", str(domain.identifier)),
        ("db", domain.db),
        ("vi", domain.vi),
        ("Denomination", domain.label),
        ("DNCertificatOperateur", domain.operator),
        ("SupportContact", domain.contact),
        ("DateMAJ", instant(domain.updated)),
    )
    for name, text in rows:
        _child(entry, name, text).tail = "\n            "
    return entry


def _child(parent: etree._Element, name: str, text: str) -> etree._Element:
    element = etree.SubElement(parent, f"{{{LIST}}}{name}")
    element.text = text
    return element


def _only(element: etree._Element, path: str) -> etree._Element:
    (found,) = element.findall(path, NAMESPACES)
    return found


def _canonical(element: etree._Element) -> bytes:
    return etree.tostring(element, method="c14n", exclusive=True, with_comments=False, with_tail=False)


def _bytes(root: etree._Element) -> bytes:
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8")


def _parser() -> etree.XMLParser:
    return etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content
