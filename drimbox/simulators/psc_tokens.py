"""Tokens of the Pro Santé Connect simulator: RS256 JWTs and the durable list of those issued.

Claims are those of trust-and-identity 1.3 and 1.5, life times those of 1.4. The signing key and the list live
in a directory, so that a token outlives a restart of the simulator.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import sqlite3
import threading
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

ACCESS_SECONDS = 120
REFRESH_SECONDS = 1800
LONGEST_TOKEN = 16 * 1024

#: userinfo of the test professional (trust-and-identity 1.3); claims of the same name override it
PROFESSIONAL: Mapping[str, Any] = {
    "SubjectNameID": "899700000017",
    "preferred_username": "899700000017",
    "given_name": "ALINE",
    "family_name": "RADIOLOGUE-TEST",
    "SubjectRole": ["10^1.2.250.1.213.1.1.5.5"],
    "SubjectOrganization": "CENTRE D'IMAGERIE PARTENAIRE",
    "SubjectOrganizationID": "1750803454",
    "Secteur_Activite": "SA07^1.2.250.1.71.4.2.4",
    "Mode_Acces_Raison": "",
    "Acces_Regulation_Medicale": "FAUX",
    "PSI_Locale": "1.2.250.1.213.1.3.1.1",
    "UITVersion": "1.0",
    "Palier_Authentification": "APPPRIP3^1.2.250.1.213.1.5.1.1.1",
    "otherIds": [],
    "SubjectRefPro": {"codeCivilite": "MME", "exercices": []},
}

SCHEMA = """
CREATE TABLE IF NOT EXISTS issued (
    jti TEXT PRIMARY KEY, typ TEXT NOT NULL, claims TEXT NOT NULL, expires INTEGER NOT NULL, ended INTEGER
)
"""


def confirmation(certificate: bytes, form: Literal["rfc8705", "ans"]) -> dict[str, str]:
    """The `cnf` claim for a DER certificate, in either encoding met in the field (trust-and-identity 1.6)."""
    digest = hashlib.sha256(certificate)
    if form == "rfc8705":
        return {"x5t#S256": _encode(digest.digest())}
    return {"x5t#S256": base64.b64encode(digest.hexdigest().encode("ascii")).decode("ascii")}


class TokenStore:
    """Issues, recognises and ends tokens. Safe between threads; every change is durable before it returns."""

    def __init__(self, directory: Path, issuer: str, client_id: str, clock: Callable[[], datetime]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.issuer = issuer
        self._client_id, self._clock = client_id, clock
        self._key = _signing_key(directory / "signing.pem")
        self.kid = _encode(hashlib.sha256(_public(self._key)).digest())
        self._lock = threading.Lock()
        self._rows = sqlite3.connect(
            directory / "tokens.sqlite", check_same_thread=False, isolation_level=None
        )
        self._rows.execute("PRAGMA journal_mode=WAL")
        self._rows.execute("PRAGMA synchronous=FULL")
        self._rows.execute(SCHEMA)

    def close(self) -> None:
        """Close the list of tokens."""
        self._rows.close()

    def issue(self, claims: Mapping[str, Any], ttl: int = ACCESS_SECONDS) -> dict[str, Any]:
        """A token response (RFC 6749 5.1). `claims` override the defaults; `ttl` in seconds, may be past."""
        now = int(self._clock().timestamp())
        access = {**self._defaults(claims, now), "exp": now + ttl, "jti": str(uuid.uuid4()), **claims}
        refresh = {
            "typ": "Refresh",
            "iss": self.issuer,
            "azp": access["azp"],
            "sid": access["sid"],
            "iat": now,
            "exp": now + REFRESH_SECONDS,
            "jti": str(uuid.uuid4()),
        }
        self._remember(access, claims)
        self._remember(refresh, claims)
        return {
            "access_token": self._sign(access),
            "token_type": "Bearer",
            "expires_in": ttl,
            "refresh_token": self._sign(refresh),
            "refresh_expires_in": REFRESH_SECONDS,
            "scope": access["scope"],
            "session_state": access["session_state"],
        }

    def refresh(self, token: str, client_id: str) -> dict[str, Any] | None:
        """A new token response for an unused refresh token of that client; None = `invalid_grant`."""
        claims = self.recognise(token)
        if claims is None or claims.get("typ") != "Refresh" or claims.get("azp") != client_id:
            return None
        if not self.end(str(claims["jti"])):
            return None
        return self.issue(json.loads(self._row(str(claims["jti"]))[0]))

    def recognise(self, token: str) -> dict[str, Any] | None:
        """The claims of a token that we issued and that has neither expired nor been ended; else None."""
        claims = self._verified(token)
        if claims is None or claims.get("iss") != self.issuer:
            return None
        row = self._row(str(claims.get("jti")))
        now = int(self._clock().timestamp())
        alive = row is not None and row[1] is None and int(claims["exp"]) > now
        return claims if alive else None

    def end(self, jti: str) -> bool:
        """End a token now, for good. False when it had ended before."""
        now = int(self._clock().timestamp())
        with self._lock:
            done = self._rows.execute(
                "UPDATE issued SET ended = ? WHERE jti = ? AND ended IS NULL", (now, jti)
            )
            return done.rowcount == 1

    def jwks(self) -> dict[str, Any]:
        """The public signing key as a JWK set (RFC 7517)."""
        numbers = self._key.public_key().public_numbers()
        jwk = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid}
        return {"keys": [{**jwk, "n": _number(numbers.n), "e": _number(numbers.e)}]}

    def _defaults(self, claims: Mapping[str, Any], now: int) -> dict[str, Any]:
        session = str(uuid.uuid4())
        name_id = str(claims.get("SubjectNameID", PROFESSIONAL["SubjectNameID"]))
        return {
            "iat": now,
            "auth_time": now,
            "iss": self.issuer,
            "sub": f"f:{uuid.uuid5(uuid.NAMESPACE_URL, self.issuer)}:{name_id}",
            "typ": "Bearer",
            "azp": self._client_id,
            "nonce": "",
            "session_state": session,
            "sid": session,
            "preferred_username": name_id,
            "email_verified": False,
            "acr": "eidas1",
            "scope": "openid scope_all",
        }

    def _remember(self, token: Mapping[str, Any], claims: Mapping[str, Any]) -> None:
        row = (token["jti"], token["typ"], json.dumps(dict(claims)), token["exp"])
        with self._lock:
            self._rows.execute("INSERT INTO issued (jti, typ, claims, expires) VALUES (?, ?, ?, ?)", row)

    def _row(self, jti: str) -> Any:
        with self._lock:
            return self._rows.execute("SELECT claims, ended FROM issued WHERE jti = ?", (jti,)).fetchone()

    def _sign(self, claims: Mapping[str, Any]) -> str:
        header = {"alg": "RS256", "typ": "JWT", "kid": self.kid}
        signed = f"{_encode(_json(header))}.{_encode(_json(claims))}"
        signature = self._key.sign(signed.encode("ascii"), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_encode(signature)}"

    def _verified(self, token: str) -> dict[str, Any] | None:
        try:
            head, body, signature = token[:LONGEST_TOKEN].encode("ascii").split(b".")
            header = json.loads(_decode(head))
            self._key.public_key().verify(
                _decode(signature), head + b"." + body, padding.PKCS1v15(), hashes.SHA256()
            )
            claims = json.loads(_decode(body))
        except (ValueError, binascii.Error, InvalidSignature):
            return None
        return claims if header == {"alg": "RS256", "typ": "JWT", "kid": self.kid} else None


def _signing_key(path: Path) -> rsa.RSAPrivateKey:
    if not path.exists():
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        _write_private(
            path,
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
    loaded = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(loaded, rsa.RSAPrivateKey)
    return loaded


def _write_private(path: Path, content: bytes) -> None:
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _public(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("utf-8")


def _encode(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode("ascii")


def _decode(value: bytes) -> bytes:
    return base64.urlsafe_b64decode(value + b"=" * (-len(value) % 4))


def _number(value: int) -> str:
    return _encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))
