"""The test PKI on disk: OpenSSL is the second opinion, every variant fails where it should."""

from __future__ import annotations

import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from drimbox.simulators.pki import LEAVES, Pki, make_pki
from drimbox.simulators.trust import certificate_faults, structure_of

NOW = datetime.now(UTC).replace(microsecond=0)
NAMES = (
    "appliance_auth",
    "appliance_psc",
    "appliance_sign",
    "appliance_server",
    "dmp_server",
    "psc_server",
    "ans_server",
    "ris_auth",
    "partner_auth",
    "partner_server",
    "list_signer",
)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    directory = tmp_path_factory.mktemp("world") / "pki"
    return make_pki(directory, NOW, crl_url="http://127.0.0.1:1/CRL/", aia_url="http://127.0.0.1:1/AC")


def openssl_verify(pki: Pki, certificate: Path, *options: str) -> str:
    crls = [f"-CRLfile={pki.directory / name}.crl.pem" for name in ("aci", "root")]
    flat = [part for crl in crls for part in crl.split("=", 1)]
    command = ["openssl", "verify", "-x509_strict", "-crl_check_all", "-CAfile", str(pki.authority), *flat]
    done = subprocess.run([*command, *options, str(certificate)], capture_output=True, text=True)
    return "OK" if done.returncode == 0 else done.stderr


def test_the_promised_leaves_exist() -> None:
    assert tuple(LEAVES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_leaf_is_accepted_by_openssl(pki: Pki, name: str) -> None:
    assert openssl_verify(pki, pki.path(name)) == "OK"
    certificate, key = pki.load(name)
    assert certificate.public_key() == key.public_key()
    assert stat.S_IMODE(pki.key(name).stat().st_mode) == 0o600
    chain = x509.load_pem_x509_certificates(pki.path(name).read_bytes())
    assert chain == [certificate, pki.certificate("aci")]


@pytest.mark.parametrize(
    ("name", "kind"), [("appliance_auth", "AUTH_CLI"), ("list_signer", "SIGN"), ("dmp_server", "SERV_SSL")]
)
def test_profile(pki: Pki, name: str, kind: str) -> None:
    certificate = pki.certificate(name)
    assert certificate_faults(certificate, kind, pki, NOW) == []
    extension = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.2.250.1.71.1.2.5"))
    assert isinstance(extension.value, x509.UnrecognizedExtension)
    assert extension.value.value == b"\x04\x01\x83"
    policies = certificate.extensions.get_extension_for_class(x509.CertificatePolicies).value
    assert [p.policy_identifier.dotted_string for p in policies] == ["1.2.250.1.213.1.7.2.1.1.1.1"]
    points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert (
        points[0].full_name is not None and points[0].full_name[0].value == "http://127.0.0.1:1/CRL/aci.crl"
    )


def test_names_of_the_leaves(pki: Pki) -> None:
    client = pki.certificate("appliance_auth")
    assert client.subject.rfc4514_string().startswith("CN=drimbox-simulee,OU=1750803447,O=")
    assert structure_of(client) == structure_of(pki.certificate("appliance_sign")) == "1750803447"
    signer = pki.certificate("list_signer").subject
    assert signer.rfc4514_string() == (
        "CN=Liste Blanche DRIM-M,OU=318751275100020,O=AGENCE DU NUMERIQUE EN SANTE,ST=Paris (75),C=FR"
    )
    assert next(a.oid for a in signer) == NameOID.COUNTRY_NAME
    names = pki.certificate("appliance_server").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert "localhost" in names.value.get_values_for_type(x509.DNSName)
    assert [str(a) for a in names.value.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    usage = client.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_authorities(pki: Pki) -> None:
    aci, root = x509.load_pem_x509_certificates(pki.authority.read_bytes())
    assert (aci, root) == (pki.certificate("aci"), pki.certificate("root"))
    assert aci.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert (pki.directory / "aci.cer").read_bytes() == aci.public_bytes(serialization.Encoding.DER)
    aci.verify_directly_issued_by(root)


def test_a_complete_pki_is_reused_and_an_incomplete_one_made_again(tmp_path: Path) -> None:
    first = make_pki(tmp_path, NOW)
    serials = {name: first.certificate(name).serial_number for name in NAMES}
    again = make_pki(tmp_path, NOW + timedelta(days=1))
    assert {name: again.certificate(name).serial_number for name in NAMES} == serials
    crl = x509.load_der_x509_crl((tmp_path / "aci.crl").read_bytes())
    assert crl.last_update_utc == NOW + timedelta(days=1)
    first.key("list_signer").unlink()
    other = make_pki(tmp_path, NOW)
    assert all(other.certificate(name).serial_number != serials[name] for name in NAMES)
    assert openssl_verify(other, other.path("list_signer")) == "OK"
    before = other.certificate("dmp_server")
    late = make_pki(tmp_path, NOW + timedelta(days=4 * 365))
    assert late.certificate("dmp_server") != before


@pytest.mark.parametrize(
    ("variant", "openssl", "ours"),
    [
        ("expired", "has expired", "expired"),
        ("not_yet_valid", "not yet valid", "not yet valid"),
        ("revoked", "revoked", "revoked"),
        ("wrong_key_usage", "OK", "keyUsage is not that of SIGN"),
        ("foreign_authority", "error", "not issued by the organisation authority"),
        ("production", "OK", "not marked as a test certificate (1.2.250.1.71.1.2.5)"),
    ],
)
def test_variants(pki: Pki, tmp_path: Path, variant: str, openssl: str, ours: str) -> None:
    leaf = pki.issue("SIGN", "DRIMbox", "1750803447", **{variant: True})
    path, key = leaf.write(tmp_path, "leaf")
    assert openssl in openssl_verify(pki, path) and stat.S_IMODE(key.stat().st_mode) == 0o600
    assert certificate_faults(leaf.certificate, "SIGN", pki, NOW) == [ours]


def test_a_foreign_authority_has_the_same_name(pki: Pki) -> None:
    leaf = pki.issue("SIGN", "DRIMbox", "1750803447", foreign_authority=True)
    assert leaf.certificate.issuer == pki.certificate("aci").subject


def test_contradictory_variants_and_unknown_kinds(pki: Pki) -> None:
    with pytest.raises(ValueError, match="not both"):
        pki.issue("SIGN", "x", "1", expired=True, not_yet_valid=True)
    with pytest.raises(KeyError):
        pki.issue("PERSON", "x", "1")


def test_revocation_lists(pki: Pki) -> None:
    crl = pki.crl((42,))
    key = pki.certificate("aci").public_key()
    assert crl.is_signature_valid(key) and isinstance(crl.signature_hash_algorithm, hashes.SHA256)  # type: ignore[arg-type]
    assert crl.get_revoked_certificate_by_serial_number(42) is not None
    assert crl.next_update_utc == NOW + timedelta(days=6)
    root = pki.crl(authority="root", this_update=NOW, next_update=NOW + timedelta(days=1), number=7)
    assert root.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 7
    assert root.next_update_utc == NOW + timedelta(days=1)
    foreign = pki.crl(foreign_authority=True)
    assert foreign.issuer == crl.issuer and not foreign.is_signature_valid(key)  # type: ignore[arg-type]


def test_recorded_revocations_stay(pki: Pki) -> None:
    leaf = pki.issue("SIGN", "DRIMbox", "1750803447")
    before = pki.crl().extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    pki.revoke(leaf.certificate.serial_number)
    again = make_pki(pki.directory, NOW)
    assert leaf.certificate.serial_number in again.revoked()
    listed = x509.load_der_x509_crl((pki.directory / "aci.crl").read_bytes())
    assert listed.get_revoked_certificate_by_serial_number(leaf.certificate.serial_number) is not None
    assert listed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number > before
