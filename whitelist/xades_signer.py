"""An enveloped XAdES-BASELINE-B signature: the one of our proofs (trust-and-identity 4.6).

Template: enveloped-signature then exclusive C14N over the whole document, exclusive C14N over SignedProperties;
RSA-SHA256, or ECDSA with the digest of its curve; SigningCertificateV2 in SHA-512 with IssuerSerialV2.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from lxml import etree

from whitelist.algorithms import DIGESTS, DS, ENVELOPED, MIN_RSA_BITS, SIGNED_PROPERTIES, XADES
from whitelist.algorithms import digest as hash_octets
from whitelist.certificate import extension, validity_fault
from whitelist.tree import canonical

EXCLUSIVE_C14N = "http://www.w3.org/2001/10/xml-exc-c14n#"
Digest = Literal["sha256", "sha512"]
_DIGEST_URIS: Mapping[str, str] = {name: uri for uri, name in DIGESTS.items()}
_MORE = "http://www.w3.org/2001/04/xmldsig-more#"
_CURVES: Mapping[str, str] = {"secp256r1": "sha256", "secp384r1": "sha384", "secp521r1": "sha512"}
_HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_SIGNATURE_NSMAP: Mapping[Any, str] = {"ds": DS}
_XADES_NSMAP: Mapping[Any, str] = {"xades": XADES}


class ProofRefused(Exception):
    """A proof, or the certificate that should sign it, is not sound; `faults` says every reason."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class ProofSigner(Protocol):
    """The editor's own proof certificate and its key, ORG_SIGN (trust-and-identity 3.1 W6, 5.2)."""

    @property
    def certificate(self) -> bytes:
        """The certificate, DER."""

    def sign(self, data: bytes, digest: str) -> bytes:
        """RSA PKCS#1 v1.5, or ECDSA in DER; `digest`: sha256 for RSA, that of the curve for ECDSA."""


@dataclass(frozen=True, slots=True)
class KeySigner:
    """A `ProofSigner` on a key held in memory."""

    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    x509: x509.Certificate

    @property
    def certificate(self) -> bytes:
        """DER."""
        return self.x509.public_bytes(serialization.Encoding.DER)

    def sign(self, data: bytes, digest: str) -> bytes:
        """See `ProofSigner.sign`; raises KeyError for an unknown digest."""
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(data, padding.PKCS1v15(), _HASHES[digest])
        return self.key.sign(data, ec.ECDSA(_HASHES[digest]))


def signer_faults(certificate: x509.Certificate, now: datetime) -> Iterator[str]:
    """Every reason why `certificate` may not sign a proof at `now` (4.5: itself checked first; profile 5.2)."""
    if fault := validity_fault(certificate, now):
        yield f"the proof certificate is {fault}"
    usage = extension(certificate, x509.KeyUsage)
    if usage is None or not usage.digital_signature:
        yield "the proof certificate's keyUsage lacks digitalSignature"
    if usage is None or not usage.content_commitment:
        yield "the proof certificate's keyUsage lacks nonRepudiation"
    try:
        _method_of(certificate.public_key())
    except ValueError as error:
        yield f"the proof certificate's key cannot sign: {error}"


def sign_enveloped(
    root: etree._Element, signer: ProofSigner, *, now: datetime, identifier: str, digest: Digest
) -> None:
    """Append the ds:Signature to `root` as its last child.

    `identifier`: an NCName tail, unique in the document; `now`: SigningTime (aware). Raises `ProofRefused` when
    the certificate may not sign at `now`.
    """
    certificate = x509.load_der_x509_certificate(signer.certificate)
    if faults := list(signer_faults(certificate, now)):
        raise ProofRefused(faults)
    document = _digest_of(root, digest)
    uri, hashed = _method_of(certificate.public_key())
    signature = etree.SubElement(root, _ds("Signature"), nsmap=_SIGNATURE_NSMAP, Id=f"id-{identifier}")
    signed_info = etree.SubElement(signature, _ds("SignedInfo"))
    value = etree.SubElement(signature, _ds("SignatureValue"), Id=f"value-id-{identifier}")
    data = etree.SubElement(etree.SubElement(signature, _ds("KeyInfo")), _ds("X509Data"))
    etree.SubElement(data, _ds("X509Certificate")).text = b64(signer.certificate)
    properties = _signed_properties(signature, certificate, now, identifier)
    etree.SubElement(signed_info, _ds("CanonicalizationMethod"), Algorithm=EXCLUSIVE_C14N)
    etree.SubElement(signed_info, _ds("SignatureMethod"), Algorithm=uri)
    whole = {"Id": f"r-id-{identifier}-1", "URI": ""}
    _reference(signed_info, whole, (ENVELOPED, EXCLUSIVE_C14N), digest, document)
    about = {"Type": SIGNED_PROPERTIES, "URI": f"#xades-id-{identifier}"}
    _reference(signed_info, about, (EXCLUSIVE_C14N,), digest, _digest_of(properties, digest))
    value.text = b64(_sign(signer, _octets_of(signed_info), hashed, certificate.public_key()))


def issuer_serial(certificate: x509.Certificate) -> bytes:
    """DER of ETSI's IssuerSerialV2: SEQUENCE { GeneralNames { [4] Name }, INTEGER } (RFC 5035)."""
    serial = certificate.serial_number
    number = serial.to_bytes(serial.bit_length() // 8 + 1, "big", signed=True)
    names = _der(0x30, _der(0xA4, certificate.issuer.public_bytes()))
    return _der(0x30, names + _der(0x02, number))


def b64(octets: bytes) -> str:
    """Base64 on one line."""
    return b64encode(octets).decode("ascii")


def _method_of(key: object) -> tuple[str, str]:
    """SignatureMethod and hash of a public key. Raises ValueError for a key that may not sign."""
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return f"{_MORE}rsa-sha256", "sha256"
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        hashed = _CURVES[key.curve.name]
        return f"{_MORE}ecdsa-{hashed}", hashed
    raise ValueError(f"neither RSA of {MIN_RSA_BITS} bits nor ECDSA on {', '.join(_CURVES)}")


def _sign(signer: ProofSigner, octets: bytes, hashed: str, key: object) -> bytes:
    """The SignatureValue: of ECDSA, r and s side by side (XML-DSig 1.1, 6.4.3)."""
    value = signer.sign(octets, hashed)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return value
    size = (key.curve.key_size + 7) // 8
    return b"".join(number.to_bytes(size, "big") for number in decode_dss_signature(value))


def _signed_properties(
    signature: etree._Element, certificate: x509.Certificate, now: datetime, identifier: str
) -> etree._Element:
    holder = etree.SubElement(signature, _ds("Object"))
    qualifying = etree.SubElement(
        holder, _xades("QualifyingProperties"), nsmap=_XADES_NSMAP, Target=f"#id-{identifier}"
    )
    properties = etree.SubElement(qualifying, _xades("SignedProperties"), Id=f"xades-id-{identifier}")
    about = etree.SubElement(properties, _xades("SignedSignatureProperties"))
    etree.SubElement(about, _xades("SigningTime")).text = f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    cert = etree.SubElement(etree.SubElement(about, _xades("SigningCertificateV2")), _xades("Cert"))
    digest = etree.SubElement(cert, _xades("CertDigest"))
    etree.SubElement(digest, _ds("DigestMethod"), Algorithm=_DIGEST_URIS["sha512"])
    fingerprint = certificate.fingerprint(hashes.SHA512())
    etree.SubElement(digest, _ds("DigestValue")).text = b64(fingerprint)
    etree.SubElement(cert, _xades("IssuerSerialV2")).text = b64(issuer_serial(certificate))
    objects = etree.SubElement(properties, _xades("SignedDataObjectProperties"))
    form = etree.SubElement(objects, _xades("DataObjectFormat"), ObjectReference=f"#r-id-{identifier}-1")
    etree.SubElement(form, _xades("MimeType")).text = "text/xml"
    return properties


def _reference(
    parent: etree._Element,
    attributes: dict[str, str],
    transforms: tuple[str, ...],
    digest: Digest,
    value: str,
) -> None:
    node = etree.SubElement(parent, _ds("Reference"), attributes)
    listed = etree.SubElement(node, _ds("Transforms"))
    for algorithm in transforms:
        etree.SubElement(listed, _ds("Transform"), Algorithm=algorithm)
    etree.SubElement(node, _ds("DigestMethod"), Algorithm=_DIGEST_URIS[digest])
    etree.SubElement(node, _ds("DigestValue")).text = value


def _digest_of(element: etree._Element, digest: Digest) -> str:
    """Base64 of the digest of an element's canonical octets. Raises `ProofRefused` when it has none."""
    return b64(hash_octets(_octets_of(element), digest))


def _octets_of(element: etree._Element) -> bytes:
    octets = canonical(element, exclusive=True)
    if octets is None:
        raise ProofRefused(["the proof has no canonical form"])
    return octets


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def _ds(name: str) -> str:
    return f"{{{DS}}}{name}"


def _xades(name: str) -> str:
    return f"{{{XADES}}}{name}"
