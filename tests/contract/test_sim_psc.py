"""Pro Santé Connect's simulator over mutual TLS: trust-and-identity 1.1, 1.5, 1.6, and its three faults."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from drimbox.simulators.faults import Faults
from drimbox.simulators.pki import Pki
from drimbox.simulators.psc import DISCOVERY, PROTOCOL, REALM, ProSanteConnect
from drimbox.simulators.psc_tokens import TokenStore, confirmation
from drimbox.simulators.server import WsgiServer, tls_context
from fixtures.kept_pki import kept_pki

CLIENT = "drimbox-simulee"
ANSWER = {
    *("exp", "iat", "auth_time", "jti", "iss", "sub", "typ", "azp", "nonce", "session_state", "sid"),
    *("preferred_username", "email_verified", "acr", "scope", "client_id", "username", "active"),
    "SubjectNameID",
}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("psc-world") / "pki")


class Clock:
    """Stands still but for its shift: a slow machine must not end a token."""

    def __init__(self) -> None:
        self.start = datetime.now(UTC)
        self.shift = timedelta()

    def __call__(self) -> datetime:
        return self.start + self.shift


@dataclass
class Psc:
    pki: Pki
    url: str
    tokens: TokenStore
    faults: Faults
    clock: Clock

    def call(self, method: str, path: str, certificate: str | None = None, **how: Any) -> requests.Response:
        pair = certificate and (str(self.pki.path(certificate)), str(self.pki.key(certificate)))
        return requests.request(
            method, self.url + path, cert=pair, verify=str(self.pki.authority), timeout=10, **how
        )

    def introspect(self, token: str, **how: Any) -> requests.Response:
        how = {"certificate": "appliance_auth", "client_id": CLIENT} | how
        form = {"token": token, "client_id": how["client_id"]}
        return self.call("POST", f"{PROTOCOL}/token/introspect", how["certificate"], data=form)


@pytest.fixture
def psc(pki: Pki, tmp_path: Path) -> Iterator[Psc]:
    clock, faults = Clock(), Faults()
    later: list[ProSanteConnect] = []
    context = tls_context(pki.path("psc_server"), pki.key("psc_server"), pki.authority)
    server = WsgiServer(lambda *call: later[0](*call), "127.0.0.1", 0, context)
    tokens = TokenStore(tmp_path / "psc", server.url + REALM, "drimbox-partenaire", clock)
    later.append(ProSanteConnect(tokens, faults))
    server.start()
    yield Psc(pki, server.url, tokens, faults, clock)
    server.stop()
    tokens.close()


def test_discovery_is_where_psc_has_it_and_names_its_issuer(psc: Psc) -> None:
    found = psc.call("GET", DISCOVERY).json()
    assert found["issuer"] == psc.url + REALM
    assert found["introspection_endpoint"] == psc.url + f"{PROTOCOL}/token/introspect"
    assert found["jwks_uri"] == psc.url + f"{PROTOCOL}/certs"
    standard = psc.call("GET", f"{REALM}/.well-known/openid-configuration")
    assert standard.status_code == 404


def test_an_access_token_verifies_with_the_published_key(psc: Psc) -> None:
    token = psc.tokens.issue({}, 120)["access_token"]
    (key,) = jwt.PyJWKSet.from_dict(psc.call("GET", f"{PROTOCOL}/certs").json()).keys
    claims = jwt.decode(
        token, key, algorithms=["RS256"], issuer=psc.url + REALM, options={"verify_aud": False}
    )
    assert (claims["typ"], claims["acr"], claims["azp"]) == ("Bearer", "eidas1", "drimbox-partenaire")
    assert claims["exp"] - claims["iat"] == 120
    assert "openid" in claims["scope"].split()
    assert jwt.get_unverified_header(token)["kid"] == key.key_id


def test_a_live_token_is_introspected_with_every_member(psc: Psc) -> None:
    answer = psc.introspect(psc.tokens.issue({})["access_token"])
    assert answer.status_code == 200
    assert set(answer.json()) == ANSWER
    assert answer.json()["active"] is True
    assert answer.json()["client_id"] == "drimbox-partenaire"


def test_claims_given_at_minting_are_told(psc: Psc) -> None:
    claims = {"acr": "eidas3", "SubjectNameID": "899700218896", "scope": "openid"}
    told = psc.introspect(psc.tokens.issue(claims)["access_token"]).json()
    assert {name: told[name] for name in claims} == claims
    assert told["preferred_username"] == "899700218896"
    assert told["sub"].startswith("f:") and told["sub"].endswith(":899700218896")


def foreign(psc: Psc) -> str:
    """A well-made token of the same issuer, signed by another key under our kid."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    claims = {"iss": psc.tokens.issuer, "exp": 4_000_000_000, "jti": "x", "typ": "Bearer"}
    return jwt.encode(claims, pem, algorithm="RS256", headers={"kid": psc.tokens.kid})


def altered(psc: Psc) -> str:
    head, _, signature = psc.tokens.issue({})["access_token"].split(".")
    claims = base64.urlsafe_b64encode(b'{"typ":"Bearer","jti":"x"}').rstrip(b"=").decode()
    return f"{head}.{claims}.{signature}"


@pytest.mark.parametrize(
    "token",
    [
        lambda psc: "OK_Series_token",
        lambda psc: "",
        lambda psc: "é.à.ü",
        lambda psc: "a.b.c",
        lambda psc: "x" * 100_000,
        lambda psc: psc.tokens.issue({}, -1)["access_token"],
        foreign,
        altered,
    ],
    ids=["opaque", "empty", "not-ascii", "not-base64", "huge", "expired", "foreign-key", "altered"],
)
def test_any_other_token_is_exactly_inactive(psc: Psc, token: Any) -> None:
    answer = psc.introspect(token(psc))
    assert (answer.status_code, answer.json()) == (200, {"active": False})


def test_a_token_expires_with_time(psc: Psc) -> None:
    token = psc.tokens.issue({}, 120)["access_token"]
    psc.clock.shift = timedelta(seconds=119)
    assert psc.introspect(token).json()["active"] is True
    psc.clock.shift = timedelta(seconds=121)
    assert psc.introspect(token).json() == {"active": False}


def test_tokens_survive_a_restart(psc: Psc, tmp_path: Path) -> None:
    token = psc.tokens.issue({})["access_token"]
    again = TokenStore(tmp_path / "psc", psc.tokens.issuer, "drimbox-partenaire", psc.clock)
    assert again.recognise(token) is not None
    assert again.jwks() == psc.tokens.jwks()
    assert (tmp_path / "psc" / "signing.pem").stat().st_mode & 0o777 == 0o600
    again.close()


@pytest.mark.parametrize(
    ("certificate", "client_id"),
    [
        (None, CLIENT),
        ("appliance_auth", "drimbox-partenaire"),
        ("appliance_auth", ""),
        ("appliance_server", "drimbox.localhost"),
    ],
    ids=["no-certificate", "other-client", "no-client-id", "server-certificate"],
)
def test_a_client_that_is_not_its_certificate_is_invalid(
    psc: Psc, certificate: str | None, client_id: str
) -> None:
    token = psc.tokens.issue({})["access_token"]
    answer = psc.introspect(token, certificate=certificate, client_id=client_id)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


def test_the_form_is_checked(psc: Psc) -> None:
    path = f"{PROTOCOL}/token/introspect"
    no_token = psc.call("POST", path, "appliance_auth", data={"client_id": CLIENT})
    as_json = psc.call("POST", path, "appliance_auth", json={"client_id": CLIENT, "token": "x"})
    twice = psc.call("POST", path, "appliance_auth", data=[("token", "a"), ("token", "b")])
    answers = [no_token, as_json, twice]
    assert [(a.status_code, a.json()["error"]) for a in answers] == [(400, "invalid_request")] * 3
    get = psc.call("GET", path)
    assert (get.status_code, get.headers["Allow"]) == (405, "POST")


def test_userinfo_is_the_professional_behind_the_token(psc: Psc) -> None:
    token = psc.tokens.issue({"SubjectNameID": "899700218896"})["access_token"]
    answer = psc.call("GET", f"{PROTOCOL}/userinfo", headers={"Authorization": f"Bearer {token}"})
    assert answer.json()["SubjectNameID"] == answer.json()["preferred_username"] == "899700218896"
    assert answer.json()["SubjectRole"] == ["10^1.2.250.1.213.1.1.5.5"]
    assert answer.json()["sub"].endswith(":899700218896")
    refused = psc.call("GET", f"{PROTOCOL}/userinfo", headers={"Authorization": "Bearer x"})
    assert refused.status_code == 401 and "invalid_token" in refused.headers["WWW-Authenticate"]


def test_a_refresh_token_is_used_once_by_its_client(psc: Psc) -> None:
    issued = psc.tokens.issue({"acr": "eidas2"})
    form = {"grant_type": "refresh_token", "refresh_token": issued["refresh_token"]}
    stolen = psc.call("POST", f"{PROTOCOL}/token", "appliance_auth", data=form | {"client_id": CLIENT})
    assert (stolen.status_code, stolen.json()["error"]) == (400, "invalid_grant")
    form["client_id"] = "drimbox-partenaire"
    fresh = psc.call("POST", f"{PROTOCOL}/token", "partner_auth", data=form).json()
    assert psc.introspect(fresh["access_token"]).json()["acr"] == "eidas2"
    again = psc.call("POST", f"{PROTOCOL}/token", "partner_auth", data=form)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")


def test_a_refresh_token_is_no_access_token(psc: Psc) -> None:
    token = psc.tokens.issue({})["refresh_token"]
    told = psc.introspect(token).json()
    assert (told["typ"], "SubjectNameID" in told) == ("Refresh", False)
    answer = psc.call("GET", f"{PROTOCOL}/userinfo", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401


@pytest.mark.parametrize("grant", ["authorization_code", "client_credentials", "password", ""])
def test_grants_that_are_not_played_are_said_so(psc: Psc, grant: str) -> None:
    form = {"grant_type": grant, "client_id": CLIENT}
    answer = psc.call("POST", f"{PROTOCOL}/token", "appliance_auth", data=form)
    assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_grant_type")


def test_fault_inactive_denies_one_introspection(psc: Psc) -> None:
    token = psc.tokens.issue({})["access_token"]
    psc.faults.arm("psc", "inactive", 1)
    assert psc.introspect(token).json() == {"active": False}
    assert psc.introspect(token).json()["active"] is True


def test_fault_expired_ends_the_token_for_good(psc: Psc) -> None:
    token, other = (psc.tokens.issue({})["access_token"] for _ in range(2))
    psc.faults.arm("psc", "expired", 1)
    assert psc.introspect(token).json() == {"active": False}
    assert psc.introspect(token).json() == {"active": False}
    assert psc.introspect(other).json()["active"] is True


def test_fault_http_503_fails_one_request_of_a_client(psc: Psc) -> None:
    token = psc.tokens.issue({})["access_token"]
    psc.faults.arm("psc", "http_503", 1)
    assert psc.call("GET", DISCOVERY).status_code == 200
    assert psc.introspect(token).status_code == 503
    assert psc.introspect(token).json()["active"] is True


def test_confirmation_in_both_encodings(pki: Pki) -> None:
    der = pki.certificate("partner_auth").public_bytes(serialization.Encoding.DER)
    digest = hashlib.sha256(der)
    standard, ans = confirmation(der, "rfc8705")["x5t#S256"], confirmation(der, "ans")["x5t#S256"]
    assert len(standard) == 43 and base64.urlsafe_b64decode(standard + "=") == digest.digest()
    assert len(ans) == 88 and base64.b64decode(ans).decode() == digest.hexdigest()
