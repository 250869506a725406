"""Private keys and what goes with them, written: whole or not at all, for their owner alone, over no other file."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)

from drimbox.adapters.key_files import MAX_KEY_BYTES, UnusableCredential, is_encrypted

MAX_P12_BYTES = 1024 * 1024
PASSPHRASE_BYTES = 32
_OWNER, _PUBLIC = 0o600, 0o644
_OWNER_AND_GROUP_READS = (
    0o640  # an encrypted key may stay readable by the group that its directory is given to
)


def clear_key(path: Path) -> PrivateKeyTypes:
    """The key of a PEM file that is not encrypted, whoever may read it. Raises `UnusableCredential`."""
    if is_encrypted(path):
        raise UnusableCredential([f"{path}: is encrypted already"])
    try:
        return load_pem_private_key(path.read_bytes()[:MAX_KEY_BYTES], None)
    except OSError as error:
        raise UnusableCredential([f"{path}: {error.strerror}"]) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UnusableCredential([f"{path}: no PEM private key"]) from error


def encrypt_in_place(path: Path, passphrase: bytes) -> None:
    """The same key, encrypted (PKCS#8), in the same file: owner and group are kept, others lose what they had.

    The old file is there until the new one was read back. Raises `UnusableCredential`, OSError.
    """
    target = path.resolve()
    key, before = clear_key(target), target.stat()
    pem = _pem(key, passphrase)
    with _draft(target, pem) as draft:
        if _der(load_pem_private_key(draft.read_bytes(), passphrase)) != _der(key):
            raise UnusableCredential([f"{path}: the encrypted key does not read back, nothing was changed"])
        os.chown(draft, before.st_uid, before.st_gid)
        draft.chmod(_OWNER | stat.S_IMODE(before.st_mode) & _OWNER_AND_GROUP_READS)
        draft.replace(target)
        _settle(target.parent)


@dataclass(frozen=True, slots=True)
class Imported:
    """What a .p12 held. `chain`: the leaf, then its issuers; `left_out`: subjects of what is none of them."""

    key: PrivateKeyTypes
    chain: tuple[x509.Certificate, ...]
    left_out: tuple[str, ...]


def read_p12(path: Path, passphrase: bytes | None) -> Imported:
    """A key and its certificates. Raises `UnusableCredential`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_P12_BYTES + 1)
    except OSError as error:
        raise UnusableCredential([f"{path}: {error.strerror}"]) from error
    if len(content) > MAX_P12_BYTES:
        raise UnusableCredential([f"{path}: longer than {MAX_P12_BYTES} bytes"])
    try:
        store = pkcs12.load_pkcs12(content, passphrase)
    except UnsupportedAlgorithm as error:
        raise UnusableCredential([f"{path}: encrypted in a way that is no longer believed safe"]) from error
    except ValueError as error:
        raise UnusableCredential([f"{path}: no PKCS#12, or another passphrase (--p12-passphrase)"]) from error
    if store.key is None or store.cert is None:
        raise UnusableCredential([f"{path}: holds no private key with its certificate"])
    if store.key.public_key() != store.cert.certificate.public_key():
        raise UnusableCredential([f"{path}: the key does not match the certificate"])
    return _imported(store.key, store.cert.certificate, [one.certificate for one in store.additional_certs])


def _imported(key: PrivateKeyTypes, leaf: x509.Certificate, others: Sequence[x509.Certificate]) -> Imported:
    """Issuers in order; a root is left out: peers have it, or do not believe it."""
    chain, rest = [leaf], [one for one in others if one.subject != one.issuer]
    while above := next((one for one in rest if one.subject == chain[-1].issuer), None):
        chain.append(above)
        rest.remove(above)
    roots = [one for one in others if one.subject == one.issuer]
    return Imported(key, tuple(chain), tuple(one.subject.rfc4514_string() for one in (*rest, *roots)))


def write_credential(
    imported: Imported, directory: Path, name: str, passphrase: bytes | None
) -> tuple[Path, Path]:
    """NAME.pem and NAME.key, the key encrypted where there is a passphrase. Raises `UnusableCredential`, OSError."""
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    if there := [str(path) for path in (certificate, key) if path.exists()]:
        raise UnusableCredential([f"{path} exists: nothing was written" for path in there])
    chain = b"".join(one.public_bytes(Encoding.PEM) for one in imported.chain)
    write_new(key, _pem(imported.key, passphrase))
    try:
        write_new(certificate, chain, _PUBLIC)
    except OSError:
        key.unlink()
        raise
    return certificate, key


def new_passphrase() -> bytes:
    """A random one, as a file holds it."""
    return secrets.token_urlsafe(PASSPHRASE_BYTES).encode("ascii") + b"\n"


def write_new(path: Path, content: bytes, mode: int = _OWNER) -> None:
    """Whole or not at all. Raises OSError (`FileExistsError`)."""
    with _draft(path, content) as draft:
        draft.chmod(mode)
        os.link(draft, path)  # unlike a rename, it takes no other file's place
        _settle(path.parent)


@contextmanager
def _draft(path: Path, content: bytes) -> Iterator[Path]:
    """A durable file beside `path`, for its owner alone; gone at the end unless it was renamed."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, _OWNER)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _settle(directory: Path) -> None:
    """Make names durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pem(key: PrivateKeyTypes, passphrase: bytes | None) -> bytes:
    protection: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        protection = BestAvailableEncryption(passphrase)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)


def _der(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
