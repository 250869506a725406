"""The algorithms that a list may be signed with, as tables; whatever is not listed here is refused.

trust-and-identity 3.5 steps 4 and 5. No SHA-1, no HMAC, no canonicalization with comments.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

DS = "http://www.w3.org/2000/09/xmldsig#"
XADES = "http://uri.etsi.org/01903/v1.3.2#"
FILTER2 = "http://www.w3.org/2002/06/xmldsig-filter2"
ENVELOPED = DS + "enveloped-signature"
XPATH = "http://www.w3.org/TR/1999/REC-xpath-19991116"
SIGNED_PROPERTIES = "http://uri.etsi.org/01903#SignedProperties"
_ENC = "http://www.w3.org/2001/04/xmlenc#"
_MORE = "http://www.w3.org/2001/04/xmldsig-more#"

# Algorithm -> exclusive? Canonical XML 1.1 differs from 1.0 by inherited xml:* attributes only: the octets of a
# list that has such attributes above SignedInfo would not match, so it is refused, never misread.
CANONICALIZATIONS: Mapping[str, bool] = {
    "http://www.w3.org/2001/10/xml-exc-c14n#": True,
    "http://www.w3.org/TR/2001/REC-xml-c14n-20010315": False,
    "http://www.w3.org/2006/12/xml-c14n11": False,
}
DIGESTS: Mapping[str, str] = {
    _ENC + "sha256": "sha256",
    _MORE + "sha384": "sha384",
    _ENC + "sha512": "sha512",
}
MIN_RSA_BITS = 2048
MIN_EC_BITS = 256


@dataclass(frozen=True, slots=True)
class Method:
    """A SignatureMethod: kind of key and hash."""

    kind: Literal["RSA", "ECDSA"]
    hash: hashes.HashAlgorithm


METHODS: Mapping[str, Method] = {
    _MORE + "rsa-sha256": Method("RSA", hashes.SHA256()),
    _MORE + "rsa-sha384": Method("RSA", hashes.SHA384()),
    _MORE + "rsa-sha512": Method("RSA", hashes.SHA512()),
    _MORE + "ecdsa-sha256": Method("ECDSA", hashes.SHA256()),
    _MORE + "ecdsa-sha384": Method("ECDSA", hashes.SHA384()),
    _MORE + "ecdsa-sha512": Method("ECDSA", hashes.SHA512()),
}


def digest(octets: bytes, name: str) -> bytes:
    """Digest of `octets` by one of the values of `DIGESTS`."""
    return hashlib.new(name, octets).digest()


def read_base64(text: str) -> bytes | None:
    """The octets of base64 `text`, XML white space ignored; None when it is not the canonical encoding.

    Canonical: a change of the unused bits of the last character is a change (RFC 4648 3.5).
    """
    compact = "".join(text.split(" ")).translate({9: None, 10: None, 13: None})
    try:
        octets = base64.b64decode(compact, validate=True)
    except (binascii.Error, ValueError):
        return None
    return octets if base64.b64encode(octets).decode("ascii") == compact else None


def value_fault(method: Method, key: CertificatePublicKeyTypes, value: bytes, octets: bytes) -> str | None:
    """Why `value` is not the signature of `octets` by `key`; None when it is. RSA: PKCS#1 v1.5; ECDSA: r||s."""
    try:
        if method.kind == "RSA" and isinstance(key, rsa.RSAPublicKey):
            if key.key_size < MIN_RSA_BITS:
                return f"an RSA key of {key.key_size} bits is too short"
            key.verify(value, octets, padding.PKCS1v15(), method.hash)
            return None
        if method.kind == "ECDSA" and isinstance(key, ec.EllipticCurvePublicKey):
            return _ecdsa_fault(method, key, value, octets)
    except InvalidSignature:
        return "the SignatureValue is not that of this SignedInfo by this key"
    return f"the certificate's key is no {method.kind} key"


def _ecdsa_fault(method: Method, key: ec.EllipticCurvePublicKey, value: bytes, octets: bytes) -> str | None:
    if key.key_size < MIN_EC_BITS:
        return f"an ECDSA key of {key.key_size} bits is too short"
    half = (key.key_size + 7) // 8
    if len(value) != 2 * half:
        return f"an ECDSA SignatureValue of {len(value)} octets, {2 * half} expected (r then s)"
    r, s = int.from_bytes(value[:half], "big"), int.from_bytes(value[half:], "big")
    key.verify(encode_dss_signature(r, s), octets, ec.ECDSA(method.hash))
    return None
