"""What the pure files need of a private key: the signature itself stays behind this protocol."""

from __future__ import annotations

from typing import Literal, Protocol

Digest = Literal["sha256", "sha1"]


class Signer(Protocol):
    """An RSA key with its certificate (ORG SIGN of the structure; trust-and-identity 5)."""

    @property
    def certificate(self) -> bytes:
        """The certificate, DER."""

    @property
    def subject(self) -> str:
        """Its subject, `CN=.., OU=.., O=.., C=FR`: last RDN first, `, ` between (reference-drimbox 4.3)."""

    @property
    def issuer(self) -> str:
        """Its issuer, written as the subject is (reference-drimbox 4.12)."""

    @property
    def serial(self) -> int:
        """Its serial number."""

    def sign(self, data: bytes, digest: str) -> bytes:
        """RSA PKCS#1 v1.5 signature of `data`; `digest` is `sha256` or `sha1`."""
