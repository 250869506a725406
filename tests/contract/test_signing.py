"""Credentials on disk: usable, or refused with every reason."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from drimbox.adapters.credential_check import credential_faults, judge_credential
from drimbox.adapters.key_files import UnusableCredential
from drimbox.adapters.signing import load_signer
from drimbox.domain.certificate_roles import Role
from fixtures.certificates import NOW, SIGN, Credential, make_authority, make_leaf


@pytest.fixture(scope="module")
def leaf() -> Credential:
    return make_leaf(make_authority())


def stored(tmp_path: Path, credential: Credential, key_pem: bytes | None = None) -> tuple[Path, Path]:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_bytes(credential.certificate_pem + make_authority().certificate_pem)
    key.write_bytes(key_pem or credential.key_pem())
    key.chmod(0o600)
    return certificate, key


def test_a_good_credential_signs(tmp_path: Path, leaf: Credential) -> None:
    signer = load_signer(*stored(tmp_path, leaf), NOW)
    public = leaf.key.public_key()
    public.verify(signer.sign(b"data", "sha256"), b"data", padding.PKCS1v15(), hashes.SHA256())
    public.verify(signer.sign(b"data", "sha1"), b"data", padding.PKCS1v15(), hashes.SHA1())
    assert signer.certificate == leaf.certificate.public_bytes(serialization.Encoding.DER)
    assert signer.subject == "CN=DRIMBox, OU=1750803447, O=CENTRE DE RADIOLOGIE DE TEST, ST=Paris (75), C=FR"
    assert signer.issuer.startswith("CN=TEST AC ELEMENTAIRE ORGANISATIONS, OU=0002 187512751, ")
    assert signer.serial == leaf.certificate.serial_number
    with pytest.raises(KeyError):
        signer.sign(b"data", "md5")


def refused(tmp_path: Path, credential: Credential, key_pem: bytes | None = None) -> list[str]:
    with pytest.raises(UnusableCredential) as error:
        load_signer(*stored(tmp_path, credential, key_pem), NOW)
    return error.value.faults


def test_another_key(tmp_path: Path, leaf: Credential) -> None:
    assert refused(tmp_path, leaf, make_authority().key_pem()) == ["the key does not match the certificate"]


def test_an_encrypted_key(tmp_path: Path, leaf: Credential) -> None:
    (fault,) = refused(tmp_path, leaf, leaf.key_pem(b"secret"))
    assert fault.endswith("the key is encrypted, and keys.passphrase is not set")
    assert "secret" not in fault


def test_an_expired_certificate(tmp_path: Path, leaf: Credential) -> None:
    old = make_leaf(make_authority(), key=leaf.key, not_after=NOW - timedelta(days=1))
    assert refused(tmp_path, old) == ["the certificate expired on 2026-09-30"]


def test_a_certificate_of_tomorrow(tmp_path: Path, leaf: Credential) -> None:
    early = make_leaf(make_authority(), key=leaf.key, not_before=NOW + timedelta(days=1))
    assert refused(tmp_path, early) == ["the certificate is not valid before 2026-10-02"]


@pytest.mark.parametrize(
    ("usages", "lacking"),
    [
        (("digital_signature",), "nonRepudiation"),
        (("content_commitment",), "digitalSignature"),
        (("key_encipherment",), "digitalSignature and nonRepudiation"),
    ],
)
def test_a_certificate_that_may_not_sign(
    tmp_path: Path, leaf: Credential, usages: tuple[str, ...], lacking: str
) -> None:
    wrong = make_leaf(make_authority(), key=leaf.key, usages=usages)
    (fault,) = refused(tmp_path, wrong)
    assert f"keyUsage lacks {lacking}" in fault
    assert "an ORG SIGN" in fault


def test_every_fault_is_said_at_once(tmp_path: Path, leaf: Credential) -> None:
    bad = make_leaf(make_authority(), key=leaf.key, usages=(), not_after=NOW - timedelta(days=1))
    assert len(refused(tmp_path, bad, make_authority().key_pem())) == 3


def test_a_key_of_another_kind(tmp_path: Path, leaf: Credential) -> None:
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert refused(tmp_path, leaf, other) == ["the key is not an RSA key"]


def test_a_short_key(tmp_path: Path, leaf: Credential) -> None:
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert refused(tmp_path, leaf, short) == ["the RSA key has 1024 bits, at least 2048 are required"]


def test_files_that_are_absent_or_no_pem(tmp_path: Path, leaf: Credential) -> None:
    _, key = stored(tmp_path, leaf)
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"garbage")
    absent = tmp_path / "absent"
    garbage.chmod(0o600)
    found = credential_faults(absent, garbage, Role.DMP_SIGNATURE, NOW)
    assert found == [f"{absent}: No such file or directory", f"{garbage}: no PEM private key"]
    assert credential_faults(garbage, key, Role.DMP_SIGNATURE, NOW) == [f"{garbage}: no PEM certificate"]


def test_kinds(tmp_path: Path, leaf: Credential) -> None:
    client = make_leaf(
        make_authority(),
        key=leaf.key,
        usages=("digital_signature",),
        extended=(ExtendedKeyUsageOID.CLIENT_AUTH,),
    )
    files = stored(tmp_path, client)
    assert credential_faults(*files, Role.AUDIT_CLIENT, NOW) == []
    assert credential_faults(*files, Role.MLLP_SERVER, NOW) == [
        "this is an ORG AUTH_CLI certificate, a server one is needed (extKeyUsage lacks serverAuth)"
    ]
    assert SIGN[1] == "content_commitment"
    assert credential_faults(*files, Role.DMP_SIGNATURE, NOW) == [
        "this is an ORG AUTH_CLI certificate, an ORG SIGN one is needed (keyUsage lacks nonRepudiation)"
    ]
    assert judge_credential(*files, Role.AUDIT_CLIENT, NOW).warnings == ()


def test_a_bundle_of_authorities(tmp_path: Path, leaf: Credential) -> None:
    bundle = tmp_path / "authority.pem"
    bundle.write_bytes(make_authority().certificate_pem + make_authority("TEST AC RACINE").certificate_pem)
    assert credential_faults(bundle, None, Role.AUTHORITY, NOW) == []
    bundle.write_bytes(make_authority().certificate_pem + leaf.certificate_pem)
    (fault,) = credential_faults(bundle, None, Role.AUTHORITY, NOW)
    assert fault.startswith("DRIMBox: this is an ORG SIGN certificate, an authority's one is needed")
