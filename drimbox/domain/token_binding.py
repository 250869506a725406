"""Certificate-bound tokens (RFC 8705 3.1; trust-and-identity 1.6): is the token shown by whom it was issued to?

Both encodings met in the field are accepted: that of the RFC (base64url, no padding, of the SHA-256 of the DER) and
that of the ANS (base64, padded, of the lower-case hexadecimal text of the same SHA-256).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Literal

THUMBPRINT = "x5t#S256"
BindingPolicy = Literal["require", "if-available"]


class Binding(StrEnum):
    """What the audit says: no `cnf`; the form in which it fits; `cnf` without a client certificate to compare."""

    UNBOUND = "unbound"
    RFC8705 = "rfc8705"
    ANS = "ans"
    UNCHECKED = "unchecked"


class NotBound(ValueError):
    """The token is bound to a certificate that was not shown; the message says which rule, no value."""


def _rfc8705(digest: bytes) -> bytes:
    return base64.urlsafe_b64encode(digest).rstrip(b"=")


def _ans(digest: bytes) -> bytes:
    return base64.b64encode(digest.hex().encode("ascii"))


ENCODINGS: Mapping[Binding, Callable[[bytes], bytes]] = {Binding.RFC8705: _rfc8705, Binding.ANS: _ans}


def check_binding(confirmation: object, certificate: bytes | None, policy: BindingPolicy) -> Binding:
    """Compare a `cnf` claim (None = absent) with the DER of the client certificate (None = none reached us).

    A `cnf` that cannot be compared (no thumbprint: another method) fits nothing. Raises `NotBound`.
    """
    if confirmation is None:
        return Binding.UNBOUND
    told = confirmation.get(THUMBPRINT) if isinstance(confirmation, Mapping) else None
    if not isinstance(told, str):
        raise NotBound("cnf: no thumbprint")
    if certificate is None:
        if policy == "require":
            raise NotBound("cnf: no client certificate")
        return Binding.UNCHECKED
    digest, said = hashlib.sha256(certificate).digest(), told.encode("utf-8")
    fits = [form for form, encode in ENCODINGS.items() if hmac.compare_digest(encode(digest), said)]
    if not fits:
        raise NotBound("cnf: another certificate")
    return fits[0]
