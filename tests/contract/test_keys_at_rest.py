"""Private keys on disk: who may read them, what opens them, and the commands that write them."""

from __future__ import annotations

import json
import os
import ssl
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from drimbox.adapters.https import client_credential, mutual_tls
from drimbox.adapters.key_files import UnusableCredential, present, read_passphrase, read_private_key
from drimbox.adapters.signing import load_signer
from drimbox.entrypoints import cli
from fixtures.certificates import NOW, Credential, make_authority, make_leaf

SECRET = b"correct horse battery staple"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def leaf() -> Credential:
    return make_leaf(make_authority())


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    return written(tmp_path / "passphrase", SECRET + b"\n")


@pytest.fixture
def drimbox(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["drimbox", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        told = capsys.readouterr()
        return int(end.value.code or 0), told.out, told.err

    return run


def written(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def traditional(leaf: Credential) -> bytes:
    form = PrivateFormat.TraditionalOpenSSL
    return leaf.key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(SECRET))


def refusal(path: Path, passphrase: Path | None) -> str:
    with pytest.raises(UnusableCredential) as error:
        read_private_key(path, passphrase)
    (fault,) = error.value.faults
    assert fault.startswith(f"{path}: ") or passphrase is not None
    assert SECRET.decode() not in fault
    return fault


# --- what a key may be


def test_encrypted_keys_of_both_forms_open_whoever_may_read_them(
    tmp_path: Path, leaf: Credential, passphrase: Path
) -> None:
    for pem in (leaf.key_pem(SECRET), traditional(leaf)):
        assert b"ENCRYPTED" in pem
        key = written(tmp_path / "key", pem, 0o644)
        assert read_private_key(key, passphrase).private_bytes(
            Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
        ) == leaf.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def test_an_encrypted_key_without_a_passphrase(tmp_path: Path, leaf: Credential) -> None:
    for pem in (leaf.key_pem(SECRET), traditional(leaf)):
        fault = refusal(written(tmp_path / "key", pem), None)
        assert fault.endswith("the key is encrypted, and keys.passphrase is not set")


def test_a_clear_key_where_keys_are_encrypted(tmp_path: Path, leaf: Credential, passphrase: Path) -> None:
    assert "keys.passphrase is set: drimbox keys encrypt" in refusal(
        written(tmp_path / "key", leaf.key_pem()), passphrase
    )


def test_another_passphrase(tmp_path: Path, leaf: Credential) -> None:
    other = written(tmp_path / "other", b"something else")
    for pem in (leaf.key_pem(SECRET), traditional(leaf)):
        fault = refusal(written(tmp_path / "key", pem), other)
        assert fault.endswith("the passphrase of keys.passphrase does not open this key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644])
def test_a_clear_key_that_others_may_use(tmp_path: Path, leaf: Credential, mode: int) -> None:
    key = written(tmp_path / "key", leaf.key_pem(), mode)
    assert f"mode {mode:04o}: others than its owner may use it: chmod 600" in refusal(key, None)


def test_what_the_service_manager_gives(
    tmp_path: Path, leaf: Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group bits are the mask of the ACL by which our user reads (systemd.exec(5), CREDENTIALS)."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for mode in (0o400, 0o440, 0o600):
        key = written(tmp_path / "key", leaf.key_pem(), mode)
        assert read_private_key(key, None)
        key.unlink()
    refusal(written(tmp_path / "key", leaf.key_pem(), 0o444), None)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    refusal(written(elsewhere / "key", leaf.key_pem(), 0o440), None)


def test_what_is_no_key(tmp_path: Path) -> None:
    assert refusal(written(tmp_path / "key", b"garbage"), None).endswith("no PEM private key")
    assert refusal(written(tmp_path / "key", b"k" * 70_000), None).endswith("longer than 65536 bytes")
    assert refusal(tmp_path / "absent", None).endswith("No such file or directory")
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert refusal(tmp_path / "pipe", None).endswith("not a file")


# --- the passphrase


@pytest.mark.parametrize("content", [SECRET, SECRET + b"\n", SECRET + b"\r\n"])
def test_one_line(tmp_path: Path, content: bytes) -> None:
    assert read_passphrase(written(tmp_path / "passphrase", content)) == SECRET


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", b"a\0b", b"p" * 1024, b"p" * 9999])
def test_what_is_no_passphrase(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UnusableCredential):
        read_passphrase(written(tmp_path / "passphrase", content))


def test_a_passphrase_that_others_may_read(tmp_path: Path) -> None:
    with pytest.raises(UnusableCredential, match="mode 0640"):
        read_passphrase(written(tmp_path / "passphrase", SECRET, 0o640))


def test_a_signer_and_a_context_of_an_encrypted_key(
    tmp_path: Path, leaf: Credential, passphrase: Path
) -> None:
    certificate = written(tmp_path / "certificate", leaf.certificate_pem)
    key = written(tmp_path / "key", leaf.key_pem(SECRET))
    assert load_signer(certificate, key, NOW, passphrase=passphrase).serial == leaf.certificate.serial_number
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    present(context, certificate, key, passphrase)
    with pytest.raises(UnusableCredential, match=r"keys\.passphrase is not set"):
        present(context, certificate, key, None)


def test_a_client_certificate_follows_its_file_but_not_to_another_kind(
    tmp_path: Path, leaf: Credential, passphrase: Path
) -> None:
    client = make_leaf(
        make_authority(),
        usages=("digital_signature",),
        extended=(ExtendedKeyUsageOID.CLIENT_AUTH,),
        key=leaf.key,
    )
    authority = written(tmp_path / "authority", make_authority().certificate_pem)
    certificate = written(tmp_path / "certificate", client.certificate_pem)
    key = written(tmp_path / "key", leaf.key_pem(SECRET))

    def context() -> ssl.SSLContext:
        return mutual_tls(
            authority, certificate, key, now=NOW, passphrase=passphrase, setting="psc.client_certificate"
        )

    first = context()
    assert context() is first
    written(certificate, leaf.certificate_pem + b" ")
    assert context() is first
    held = client_credential(authority, certificate, key, passphrase, "psc.client_certificate")
    assert (held.fault or "").startswith("psc.client_certificate: this is an ORG SIGN certificate")
    written(certificate, client.certificate_pem + b"  ")
    assert context() is not first


# --- drimbox keys


def test_the_whole_way(tmp_path: Path, leaf: Credential, drimbox: Command) -> None:
    words, key = tmp_path / "new-passphrase", written(tmp_path / "key", leaf.key_pem(), 0o640)
    assert drimbox("keys", "passphrase", words)[0] == 0
    assert stat.S_IMODE(words.stat().st_mode) == 0o600
    assert len(read_passphrase(words)) > 40
    status, out, _ = drimbox("keys", "encrypt", key, "--passphrase", words, "--json")
    assert (status, json.loads(out)) == (0, {"encrypted": [str(key)]})
    assert stat.S_IMODE(key.stat().st_mode) == 0o640, "an encrypted key may stay with its group"
    assert read_private_key(key, words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "new-passphrase"]


def test_a_link_stays_a_link_and_others_lose_their_rights(
    tmp_path: Path, leaf: Credential, passphrase: Path, drimbox: Command
) -> None:
    key, link = written(tmp_path / "key", leaf.key_pem(), 0o644), tmp_path / "link"
    link.symlink_to(key)
    assert drimbox("keys", "encrypt", link, "--passphrase", passphrase)[0] == 0
    assert link.is_symlink()
    assert read_private_key(key, passphrase)
    assert stat.S_IMODE(key.stat().st_mode) == 0o640


def test_when_one_key_cannot_be_encrypted_none_is(
    tmp_path: Path, leaf: Credential, passphrase: Path, drimbox: Command
) -> None:
    good = written(tmp_path / "good", leaf.key_pem())
    before = good.read_bytes()
    already = written(tmp_path / "already", leaf.key_pem(SECRET))
    garbage = written(tmp_path / "garbage", b"garbage")
    status, out, err = drimbox("keys", "encrypt", good, already, garbage, "--passphrase", passphrase)
    assert (status, out) == (1, "")
    assert f"{already}: is encrypted already" in err
    assert f"{garbage}: no PEM private key" in err
    assert "no key was changed" in err
    assert good.read_bytes() == before


def test_a_passphrase_is_never_overwritten(passphrase: Path, drimbox: Command) -> None:
    status, _, err = drimbox("keys", "passphrase", passphrase)
    assert status == 1
    assert "File exists: nothing was written" in err
    assert read_passphrase(passphrase) == SECRET


def p12(leaf: Credential, password: bytes | None) -> bytes:
    protection = NoEncryption() if password is None else BestAvailableEncryption(password)
    others = [make_authority("A STRANGER").certificate, make_authority().certificate]
    return pkcs12.serialize_key_and_certificates(b"x", leaf.key, leaf.certificate, others, protection)


def test_a_p12_becomes_two_files(
    tmp_path: Path, leaf: Credential, passphrase: Path, drimbox: Command
) -> None:
    file = written(tmp_path / "org.p12", p12(leaf, b"of the p12"))
    opens = written(tmp_path / "p12-passphrase", b"of the p12\n")
    how = ("keys", "import", file, "--out", tmp_path, "--name", "sign", "--p12-passphrase", opens)
    status, out, _ = drimbox(*how, "--passphrase", passphrase, "--json")
    told = json.loads(out)
    assert status == 0
    assert (told["kind"], told["encrypted"]) == ("ORG SIGN", True)
    assert told["subject"].startswith("CN=DRIMBox, OU=1750803447")
    assert told["not_after"] == f"{leaf.certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    assert len(told["left_out"]) == 2, "roots are not sent to peers"
    files = tmp_path / "sign.pem", tmp_path / "sign.key"
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o644, 0o600]
    assert load_signer(*files, NOW, passphrase=passphrase).serial == leaf.certificate.serial_number
    before = [path.read_bytes() for path in files]
    status, _, err = drimbox(*how)
    assert status == 1
    assert err.count("exists: nothing was written") == 2
    assert [path.read_bytes() for path in files] == before


def test_a_p12_that_does_not_open(tmp_path: Path, leaf: Credential, drimbox: Command) -> None:
    file = written(tmp_path / "org.p12", p12(leaf, b"of the p12"))
    status, _, err = drimbox("keys", "import", file, "--out", tmp_path, "--name", "sign")
    assert status == 1
    assert "--p12-passphrase" in err
    assert drimbox("keys", "import", file, "--out", tmp_path, "--name", "../sign")[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["org.p12"]


def test_a_p12_without_passphrases_is_said_to_leave_a_clear_key(
    tmp_path: Path, leaf: Credential, drimbox: Command
) -> None:
    file = written(tmp_path / "org.p12", p12(leaf, None))
    status, out, _ = drimbox("keys", "import", file, "--out", tmp_path, "--name", "sign")
    assert status == 0
    assert "warning: the key is not encrypted" in out
    assert load_signer(tmp_path / "sign.pem", tmp_path / "sign.key", datetime.now(UTC))
