"""Keys and certificates on disk, once they were judged (`credential_check.py`), held as a `Signer`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from drimbox.adapters.certificate_files import distinguished_name, read_certificates
from drimbox.adapters.credential_check import credential_faults
from drimbox.adapters.held import Held
from drimbox.adapters.key_files import UnusableCredential, read_private_key
from drimbox.domain.certificate_roles import Role

_HASHES: Mapping[str, hashes.HashAlgorithm] = {"sha256": hashes.SHA256(), "sha1": hashes.SHA1()}  # noqa: S303


@dataclass(frozen=True)
class RsaSigner:
    """A `domain.signer.Signer` on an RSA key held in memory."""

    key: rsa.RSAPrivateKey
    x509: x509.Certificate

    @property
    def certificate(self) -> bytes:
        """DER."""
        return self.x509.public_bytes(serialization.Encoding.DER)

    @property
    def subject(self) -> str:
        """`CN=.., OU=.., O=.., ST=.., C=FR`."""
        return distinguished_name(self.x509.subject)

    @property
    def issuer(self) -> str:
        """Written as the subject is."""
        return distinguished_name(self.x509.issuer)

    @property
    def serial(self) -> int:
        """Serial number of the certificate."""
        return self.x509.serial_number

    def valid_at(self, now: datetime) -> RsaSigner:
        """Itself. Raises `UnusableCredential` once its certificate has ended."""
        if now > self.x509.not_valid_after_utc:
            raise UnusableCredential([f"the certificate expired on {self.x509.not_valid_after_utc:%Y-%m-%d}"])
        return self

    def sign(self, data: bytes, digest: str) -> bytes:
        """RSA PKCS#1 v1.5; raises KeyError for a digest that is neither sha256 nor sha1."""
        return self.key.sign(data, padding.PKCS1v15(), _HASHES[digest])


def load_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file. Raises `UnusableCredential`."""
    return read_certificates(path)[0]


def load_signer(certificate: Path, key: Path, now: datetime, *, passphrase: Path | None = None) -> RsaSigner:
    """The ORG SIGN credential as a signer. Raises `UnusableCredential` with every fault."""
    faults = credential_faults(certificate, key, Role.DMP_SIGNATURE, now, passphrase=passphrase)
    if faults:
        raise UnusableCredential(faults)
    loaded = read_private_key(key, passphrase)
    assert isinstance(loaded, rsa.RSAPrivateKey)  # credential_faults accepts nothing else
    return RsaSigner(loaded, read_certificates(certificate)[0])


def hold_signer(
    setting: str, certificate: Path, key: Path, clock: Callable[[], datetime], passphrase: Path | None
) -> Held[RsaSigner]:
    """A signer that may be renewed. Nothing is read yet; `setting`: as logs name the credential."""
    files = (certificate, key, *filter(None, [passphrase]))
    return Held(setting, files, lambda: load_signer(certificate, key, clock(), passphrase=passphrase))
