"""Who of the department may use the internal DICOMweb door: accounts, and the rules by which one is recognised.

An account has a password (HTTP Basic, RFC 7617), a TLS client certificate, or both, and then both must hold. It
calls from its own addresses only; nobody is named = nobody may. Whether a password is right is asked of the caller:
that takes time (scrypt, RFC 7914) and belongs in a thread.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dicom_store.status import HttpRefusal
from healthcheck.client_address import Network, is_one_of, parse_address

MAX_AUTHORIZATION = 2048  # characters of the header
CHALLENGE = 'Basic realm="DRIMBox", charset="UTF-8"'

# slug -> (HTTP status, what the caller reads, headers)
REFUSALS: Mapping[str, tuple[int, str, Mapping[str, str]]] = {
    "account-unknown": (
        401,
        "Send the name and password of an account (HTTP Basic), or show its certificate.",
        {"WWW-Authenticate": CHALLENGE},
    ),
    "account-not-allowed": (403, "No account may do this from your address.", {}),
}

_SALT_BYTES, _KEY_BYTES = 16, 32
_N, _R, _P = 1 << 14, 8, 5  # 16 MiB; about a fifth of a second
_MAX_MEMORY = 64 * 1024 * 1024  # scrypt needs 128 * n * r bytes
_HASH = re.compile(r"scrypt\$([0-9]{1,7})\$([0-9]{1,2})\$([0-9]{1,2})\$([\w-]{16,88})\$([\w-]{43})", re.ASCII)


class Right(StrEnum):
    """What an account may do."""

    READ = "read"
    STORE = "store"


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """A password as it is kept: parameters of scrypt, salt, derived key of 32 bytes."""

    n: int
    r: int
    p: int
    salt: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Account:
    """One account. `networks`: where it calls from; `certificate_sha256`: of the DER, lower hexadecimal, "" = none."""

    name: str
    networks: tuple[Network, ...]
    may: frozenset[Right]
    password: PasswordHash | None = None
    certificate_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. `certificate`: DER, verified at the handshake, None without one; `authorization`: the header."""

    address: str
    certificate: bytes | None = None
    authorization: str | None = None


@dataclass(frozen=True, slots=True)
class Credentials:
    """What HTTP Basic carries; the password in NFC (RFC 7617 2.1)."""

    name: str
    password: str


def parse_hash(text: str) -> PasswordHash:
    """A hash as `hash_password` writes it. Raises ValueError for another form, for too weak or too dear a hash."""
    found = _HASH.fullmatch(text)
    if found is None:
        raise ValueError("must be scrypt$n$r$p$salt$key, as `drimbox account NAME` prints it")
    n, r, p = (int(found[place]) for place in (1, 2, 3))
    if n & (n - 1) or n < _N or r < _R or not 1 <= p <= 16 or 128 * n * r > _MAX_MEMORY:
        raise ValueError("scrypt: n must be a power of two from 16384, r from 8, within 64 MiB, p 1 to 16")
    return PasswordHash(n, r, p, _decoded(found[4]), _decoded(found[5]))


def hash_password(password: str, salt: bytes, n: int = _N, r: int = _R, p: int = _P) -> str:
    """The text that is kept instead of a password. `salt`: 16 fresh random bytes. Takes about a fifth of a second."""
    if len(salt) != _SALT_BYTES:
        raise ValueError("the salt has 16 bytes")
    key = _derived(unicodedata.normalize("NFC", password), n, r, p, salt)
    return f"scrypt${n}${r}${p}${_encoded(salt)}${_encoded(key)}"


def password_matches(password: str, known: PasswordHash) -> bool:
    """Whether it is the password that was hashed. As slow as its parameters ask: call it in a thread."""
    return hmac.compare_digest(_derived(password, known.n, known.r, known.p, known.salt), known.key)


def decoy(accounts: Sequence[Account]) -> PasswordHash:
    """What unknown names are compared with: as slow as the slowest real one, and equal to nothing."""
    real = [account.password for account in accounts if account.password]
    slowest = max(real, key=lambda one: one.n * one.r * one.p, default=None)
    n, r, p = (slowest.n, slowest.r, slowest.p) if slowest else (_N, _R, _P)
    return PasswordHash(n, r, p, bytes(_SALT_BYTES), bytes(_KEY_BYTES))


def read_basic(authorization: str | None) -> Credentials | None:
    """What an Authorization header says, None without one. Raises `HttpRefusal` 401 for another form (RFC 7617 2)."""
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(" ")
    try:
        if scheme.lower() != "basic" or len(authorization) > MAX_AUTHORIZATION:
            raise refuse("account-unknown")
        name, colon, password = base64.b64decode(token.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise refuse("account-unknown") from None
    if not colon:
        raise refuse("account-unknown")
    return Credentials(name, unicodedata.normalize("NFC", password))


def reachable(accounts: Sequence[Account], caller: Caller) -> None:
    """Raises `HttpRefusal` 403 when no account calls from there: such a caller is asked for nothing."""
    if not any(_calls_from(account, caller) for account in accounts):
        raise refuse("account-not-allowed")


def named(accounts: Sequence[Account], credentials: Credentials) -> Account | None:
    """The account of that name that has a password; None otherwise, which must cost the same."""
    wanted = credentials.name.encode("utf-8", "surrogatepass")
    found = [one for one in accounts if hmac.compare_digest(one.name.encode("utf-8"), wanted)]
    return found[0] if found and found[0].password else None


def certified(accounts: Sequence[Account], caller: Caller) -> Account | None:
    """The account that the certificate alone identifies, or None."""
    digest = _digest(caller)
    return next((one for one in accounts if not one.password and _same(one.certificate_sha256, digest)), None)


def admit(account: Account | None, caller: Caller, right: Right) -> Account:
    """The account whose password, if it has one, was right. Raises `HttpRefusal` 401, 403."""
    if account is None or (
        account.certificate_sha256 and not _same(account.certificate_sha256, _digest(caller))
    ):
        raise refuse("account-unknown")
    if not _calls_from(account, caller) or right not in account.may:
        raise refuse("account-not-allowed")
    return account


def refuse(slug: str) -> HttpRefusal:
    """The refusal of a row of `REFUSALS`."""
    status, detail, headers = REFUSALS[slug]
    return HttpRefusal(status, slug, slug.replace("-", " "), detail, headers)


def _calls_from(account: Account, caller: Caller) -> bool:
    return is_one_of(parse_address(caller.address), account.networks)


def _digest(caller: Caller) -> str:
    return hashlib.sha256(caller.certificate).hexdigest() if caller.certificate else ""


def _same(expected: str, shown: str) -> bool:
    return bool(expected) and hmac.compare_digest(expected, shown)


def _derived(password: str, n: int, r: int, p: int, salt: bytes) -> bytes:
    return hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"),
        salt=salt,
        n=n,
        r=r,
        p=p,
        maxmem=2 * _MAX_MEMORY,
        dklen=_KEY_BYTES,
    )


def _encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode("ascii").rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
