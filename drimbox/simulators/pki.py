"""A test PKI shaped like IGC Santé: root (ACR), organisation authority (ACI), leaves by a table, CRLs.

Everything is made on the spot and marked as test (private extension octet 0x83): nothing here can be taken
for, or chained to, the national authority. Facts: trust-and-identity 5.1 to 5.6.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from drimbox.simulators.certificates import (
    CrlDates,
    Template,
    Urls,
    authority_name,
    make_crl,
    sign_certificate,
    subject,
)

ORGANISATION = "CENTRE D'IMAGERIE SIMULE"
ANS = "AGENCE DU NUMERIQUE EN SANTE"
FINESS_OU, SIRET_OU = "1750803447", "326750000500012"  # type digit, then the identifier (5.3)


@dataclass(frozen=True)
class LeafName:
    """One named leaf of the PKI: its kind (a row of `certificates.KINDS`) and the parts of its DN."""

    kind: str
    cn: str
    ou: str
    organisation: str = ORGANISATION


LEAVES: dict[str, LeafName] = {
    "appliance_auth": LeafName("AUTH_CLI", "drimbox-simulee", FINESS_OU),
    "appliance_psc": LeafName("AUTH_CLI", "drimbox-simulee", SIRET_OU),
    "appliance_sign": LeafName("SIGN", "DRIMbox", FINESS_OU),
    "appliance_server": LeafName("SERV_SSL", "drimbox.localhost", FINESS_OU),
    "dmp_server": LeafName("SERV_SSL", "dmp.localhost", "2180035024", "DMP SIMULE"),
    "psc_server": LeafName("SERV_SSL", "psc.localhost", "318751275100020", ANS),
    "ans_server": LeafName("SERV_SSL", "ans.localhost", "318751275100020", ANS),
    "ris_auth": LeafName("AUTH_CLI", "ris-simule", FINESS_OU),
    "partner_auth": LeafName("AUTH_CLI", "drimbox-partenaire", "1690781810", "CLINIQUE PARTENAIRE SIMULEE"),
    "partner_server": LeafName("SERV_SSL", "partner.localhost", "1690781810", "CLINIQUE PARTENAIRE SIMULEE"),
    "list_signer": LeafName("SIGN", "Liste Blanche DRIM-M", "318751275100020", ANS),
}
_CRL_LIFE = {"root": timedelta(days=45), "aci": timedelta(days=6)}  # trust-and-identity 5.4
_LEAF_LIFE = timedelta(days=3 * 365)
_AUTHORITY_LIFE = timedelta(days=20 * 365)


@dataclass(frozen=True)
class Leaf:
    """An issued certificate with its key and the chain (leaf, then ACI) as PEM."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey
    pem: bytes

    @property
    def der(self) -> bytes:
        """The certificate in DER."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def key_pem(self) -> bytes:
        """The private key, PKCS#8 PEM without password."""
        return _key_pem(self.key)

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Write `<name>.pem` (leaf + ACI) and `<name>.key` (0600) in `directory`; returns both paths."""
        directory.mkdir(parents=True, exist_ok=True)
        certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
        _write(certificate, self.pem)
        _write(key, self.key_pem, 0o600)
        return certificate, key


@dataclass(frozen=True)
class Pki:
    """The test PKI on disk.

    directory: holds authority.pem (ACI + ACR), root.pem, aci.pem, `<leaf>.pem` (leaf + ACI), `<leaf>.key`,
    and for both authorities `.crl` (DER), `.crl.pem`, `.cer` (DER).
    now: aware instant the validity dates are counted from. urls: written in new certificates.
    """

    directory: Path
    now: datetime
    urls: Urls

    @property
    def authority(self) -> Path:
        """The bundle a peer trusts: ACI then ACR, PEM."""
        return self.directory / "authority.pem"

    def path(self, name: str) -> Path:
        """PEM of a leaf (with the ACI after it) or of an authority (`root`, `aci`)."""
        return self.directory / f"{name}.pem"

    def key(self, name: str) -> Path:
        """PEM of the private key, mode 0600."""
        return self.directory / f"{name}.key"

    def load(self, name: str) -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
        """The certificate and the key of a leaf or of an authority, read from disk.

        Raises FileNotFoundError for an unknown name, TypeError for a key that is not RSA.
        """
        certificate = x509.load_pem_x509_certificate(self.path(name).read_bytes())
        key = serialization.load_pem_private_key(self.key(name).read_bytes(), None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise TypeError(f"the key of {name} is not RSA")
        return certificate, key

    def certificate(self, name: str) -> x509.Certificate:
        """The certificate alone."""
        return x509.load_pem_x509_certificate(self.path(name).read_bytes())

    def issue(
        self,
        kind: str,
        cn: str,
        ou: str,
        *,
        organisation: str = ORGANISATION,
        now: datetime | None = None,
        expired: bool = False,
        not_yet_valid: bool = False,
        revoked: bool = False,
        wrong_key_usage: bool = False,
        foreign_authority: bool = False,
        production: bool = False,
    ) -> Leaf:
        """A leaf of `kind` (AUTH_CLI, SIGN, SERV_SSL), sound unless variants say otherwise (5.6).

        expired, not_yet_valid: validity around `now` (default: the PKI's). revoked: recorded, in every later
        CRL. wrong_key_usage: keyEncipherment only. foreign_authority: an ACI of the same DN, another key.
        production: environment octet 03. Raises KeyError for an unknown kind, ValueError for a contradiction.
        """
        if expired and not_yet_valid:
            raise ValueError("a certificate is expired or not yet valid, not both")
        start = (now or self.now) + timedelta(days=30 if not_yet_valid else -40 if expired else -1)
        end = start + (timedelta(days=30) if expired else _LEAF_LIFE)
        issuer, issuer_key = _foreign_authority(self) if foreign_authority else self.load("aci")
        key = _new_key()
        name = subject(cn, ou, organisation)
        template = Template(name, start, end, kind, wrong_key_usage=wrong_key_usage, production=production)
        certificate = sign_certificate(template, key.public_key(), issuer, issuer_key, self.urls)
        if revoked:
            self.revoke(certificate.serial_number)
        return Leaf(certificate, key, _pem(certificate) + _pem(issuer))

    def revoke(self, serial: int) -> None:
        """Record a serial number of the ACI as revoked, durably; the CRL files are rewritten."""
        with (self.directory / "revoked.txt").open("a", encoding="ascii") as record:
            record.write(f"{serial:x}\n")
            record.flush()
            os.fsync(record.fileno())
        write_crls(self, self.now)

    def revoked(self) -> frozenset[int]:
        """The serial numbers of the ACI recorded as revoked."""
        with suppress(FileNotFoundError):
            text = (self.directory / "revoked.txt").read_text(encoding="ascii")
            return frozenset(int(line, 16) for line in text.split())
        return frozenset()

    def crl(
        self,
        revoked: Iterable[int] = (),
        *,
        authority: str = "aci",
        this_update: datetime | None = None,
        next_update: datetime | None = None,
        number: int | None = None,
        foreign_authority: bool = False,
    ) -> x509.CertificateRevocationList:
        """A fresh CRL of `aci` or `root`: recorded revocations plus `revoked` (serial numbers).

        this_update defaults to the PKI's now, next_update to 6 days (ACI) or 45 days (ACR) later, number to
        its seconds plus its entries: a later list has a higher one (5.4). foreign_authority: wrong key.
        """
        issuer, key = _foreign_authority(self) if foreign_authority else self.load(authority)
        start = this_update or self.now
        end = next_update or start + _CRL_LIFE[authority]
        serials = set(revoked) | (self.revoked() if authority == "aci" else set())
        dates = CrlDates(start, end, int(start.timestamp()) + len(serials) if number is None else number)
        return make_crl(issuer, key, sorted(serials), dates)


def make_pki(
    directory: Path,
    now: datetime,
    *,
    crl_url: str = "http://127.0.0.1/CRL",
    aia_url: str = "http://127.0.0.1/AC",
) -> Pki:
    """The test PKI whose files are in `directory` itself (the caller passes DIR/pki).

    Made when absent, incomplete or out of date. Idempotent: a complete PKI in force at `now` is reused as it
    is (its certificates keep the URLs they were made with); only the CRLs are written afresh, dated `now`.
    """
    pki = Pki(directory, now, Urls(crl_url.rstrip("/"), aia_url.rstrip("/")))
    if not _usable(pki):
        _create(pki)
    write_crls(pki, now)
    return pki


def write_crls(pki: Pki, now: datetime) -> None:
    """Write `aci.crl`, `root.crl` (DER) and `.crl.pem`, dated `now`."""
    for name in ("root", "aci"):
        crl = pki.crl(authority=name, this_update=now)
        _write(pki.directory / f"{name}.crl", crl.public_bytes(serialization.Encoding.DER))
        _write(pki.directory / f"{name}.crl.pem", crl.public_bytes(serialization.Encoding.PEM))


def _usable(pki: Pki) -> bool:
    names = ("root", "aci", *LEAVES)
    if not (pki.authority.is_file() and all(pki.path(n).is_file() and pki.key(n).is_file() for n in names)):
        return False
    certificates = [pki.certificate(name) for name in names]
    return all(c.not_valid_before_utc <= pki.now < c.not_valid_after_utc for c in certificates)


def _create(pki: Pki) -> None:
    """Write every file; `authority.pem` last, so that an interrupted creation is seen as incomplete."""
    pki.directory.mkdir(parents=True, exist_ok=True)
    for stale in ("authority.pem", "revoked.txt"):
        (pki.directory / stale).unlink(missing_ok=True)
    root, root_key = _authority(pki, "root", None)
    aci, _ = _authority(pki, "aci", (root, root_key))
    for name, leaf in LEAVES.items():
        pki.issue(leaf.kind, leaf.cn, leaf.ou, organisation=leaf.organisation).write(pki.directory, name)
    _write(pki.authority, _pem(aci) + _pem(root))


def _authority(
    pki: Pki, name: str, issuer: tuple[x509.Certificate, rsa.RSAPrivateKey] | None
) -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    certificate, key = _make_authority(pki, name, issuer)
    _write(pki.path(name), _pem(certificate))
    _write(pki.key(name), _key_pem(key), 0o600)
    _write(pki.directory / f"{name}.cer", certificate.public_bytes(serialization.Encoding.DER))
    return certificate, key


def _make_authority(
    pki: Pki, name: str, issuer: tuple[x509.Certificate, rsa.RSAPrivateKey] | None
) -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    key = _new_key()
    start = pki.now - timedelta(days=60)  # before any leaf, the expired variant included
    template = Template(authority_name(name), start, start + _AUTHORITY_LIFE, name.upper())
    parent, parent_key = issuer or (None, key)
    return sign_certificate(template, key.public_key(), parent, parent_key, pki.urls), key


def _foreign_authority(pki: Pki) -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    return _make_authority(pki, "aci", _make_authority(pki, "root", None))


def _new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: rsa.RSAPrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Atomic: a reader or a restart never meets half a file."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(path)
