"""Private keys and their passphrase on disk: who may read them, and what is in them.

A key is either encrypted, and opens with the passphrase of the settings, or clear, and readable by its owner alone.
Nothing ever asks a terminal for a passphrase.
"""

from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

SETTING = "keys.passphrase"
MAX_KEY_BYTES = 64 * 1024
MAX_PASSPHRASE_BYTES = 1023  # the most that OpenSSL takes (PEM_BUFSIZE)
_NOT_THE_OWNER, _MORE_THAN_READING_BY_GROUP = 0o077, 0o037
_ENCRYPTED = b"ENCRYPTED"  # PKCS#8: the label; traditional: Proc-Type: 4,ENCRYPTED


class UnusableCredential(OSError):
    """A key or certificate cannot serve; `faults` says every reason, never any key material."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def read_private_key(path: Path, passphrase: Path | None) -> PrivateKeyTypes:
    """The key of a PEM file: PKCS#8 or traditional. `passphrase`: the file of it; keys must then be encrypted.

    Raises `UnusableCredential`; also for a clear key that others than its owner may read.
    """
    words = None if passphrase is None else read_passphrase(passphrase)
    content, mode = _read(path, MAX_KEY_BYTES)
    if words is None:
        _require_owner_only(path, mode, clear=_ENCRYPTED not in content)
    try:
        return load_pem_private_key(content, words)
    except TypeError as error:  # cryptography's word for a password that is missing, or one too many
        raise UnusableCredential([_mismatch(path, encrypted=words is None)]) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnusableCredential([_unreadable(path, content, words)]) from error


def read_passphrase(path: Path) -> bytes:
    """The passphrase of the keys. Raises `UnusableCredential` as `read_secret` does."""
    return read_secret(path, "a passphrase", SETTING)


def read_secret(path: Path, what: str, setting: str) -> bytes:
    """The one line of the file. Raises `UnusableCredential`, also when others than its owner may read it."""
    content, mode = _read(path, MAX_PASSPHRASE_BYTES + 2)
    _require_owner_only(path, mode, clear=True)
    words = content.removesuffix(b"\n").removesuffix(b"\r")
    if not words or len(words) > MAX_PASSPHRASE_BYTES or not {*b"\r\n\0"}.isdisjoint(words):
        raise UnusableCredential(
            [f"{path}: {what} is one line of 1 to {MAX_PASSPHRASE_BYTES} bytes ({setting})"]
        )
    return words


def present(context: ssl.SSLContext, certificate: Path, key: Path, passphrase: Path | None) -> None:
    """Let `context` show this certificate, with the chain of its file.

    Raises `UnusableCredential` as `read_private_key` does, OSError (`ssl.SSLError` is one) when TLS refuses the files.
    """
    read_private_key(key, passphrase)
    # without a password, OpenSSL would ask the terminal for one
    context.load_cert_chain(certificate, key, password=read_passphrase(passphrase) if passphrase else b"")


def is_encrypted(path: Path) -> bool:
    """Whether the file says that its key is encrypted. Raises `UnusableCredential` when it cannot be read."""
    return _ENCRYPTED in _read(path, MAX_KEY_BYTES)[0]


def _read(path: Path, most: int) -> tuple[bytes, int]:
    """Content and permission bits of one and the same file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            content = file.read(most + 1) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise UnusableCredential([f"{path}: {error.strerror}"]) from error
    if not stat.S_ISREG(mode):
        raise UnusableCredential([f"{path}: not a file"])
    if len(content) > most:
        raise UnusableCredential([f"{path}: longer than {most} bytes"])
    return content, stat.S_IMODE(mode)


def _require_owner_only(path: Path, mode: int, *, clear: bool) -> None:
    """Credentials of the service manager may show a group that reads: that is the mask of the ACL for our user."""
    given = os.environ.get("CREDENTIALS_DIRECTORY")
    of_manager = bool(given) and path.parent == Path(str(given))
    if clear and mode & (_MORE_THAN_READING_BY_GROUP if of_manager else _NOT_THE_OWNER):
        raise UnusableCredential([f"{path}: mode {mode:04o}: others than its owner may use it: chmod 600"])


def _mismatch(path: Path, *, encrypted: bool) -> str:
    if encrypted:
        return f"{path}: the key is encrypted, and {SETTING} is not set"
    return f"{path}: the key is not encrypted, and {SETTING} is set: drimbox keys encrypt"


def _unreadable(path: Path, content: bytes, words: bytes | None) -> str:
    if words is not None and _ENCRYPTED in content:
        return f"{path}: the passphrase of {SETTING} does not open this key"
    return f"{path}: no PEM private key"
