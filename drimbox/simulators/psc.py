"""Pro Santé Connect, strict where the real one is (trust-and-identity 1.1, 1.5): a WSGI application.

Discovery, JWKS, introspection, userinfo and the refresh grant. Tokens are minted by the control port in place
of a person's login; the grants that need a browser are answered `unsupported_grant_type`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from drimbox.simulators.faults import Faults
from drimbox.simulators.psc_tokens import PROFESSIONAL, TokenStore

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

REALM = "/auth/realms/esante-wallet"
PROTOCOL = f"{REALM}/protocol/openid-connect"
DISCOVERY = f"{REALM}/.well-known/wallet-openid-configuration"

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found"} | {
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


class Refusal(Exception):
    """An OAuth error answer (RFC 6749 5.2)."""

    def __init__(self, status: int, error: str, description: str, **headers: str) -> None:
        super().__init__(description)
        self.status, self.headers = status, headers
        self.body = {"error": error, "error_description": description}


class ProSanteConnect:
    """The WSGI application.

    Client authentication (trust-and-identity 1.5): an AUTH_CLI certificate whose CN is the `client_id` sent,
    else 401 `invalid_client`. Faults: `inactive` denies one introspection, `expired` ends the token it meets
    for good, `http_503` fails one request of a client (never discovery or the JWK set, read at start-up).
    """

    def __init__(self, tokens: TokenStore, faults: Faults) -> None:
        self.tokens = tokens
        self._faults = faults
        self._routes: dict[str, tuple[str, Callable[[WSGIEnvironment], dict[str, Any]]]] = {
            DISCOVERY: ("GET", self._discovery),
            f"{PROTOCOL}/certs": ("GET", self._certs),
            f"{PROTOCOL}/token": ("POST", self._token),
            f"{PROTOCOL}/token/introspect": ("POST", self._introspect),
            f"{PROTOCOL}/userinfo": ("GET", self._userinfo),
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, always in JSON."""
        try:
            status, body, headers = 200, self._route(environ), {}
        except Refusal as refusal:
            status, body, headers = refusal.status, refusal.body, refusal.headers
        always = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
        start_response(f"{status} {REASONS[status]}", [*always, *headers.items()])
        return [json.dumps(body).encode("utf-8")]

    def _route(self, environ: WSGIEnvironment) -> dict[str, Any]:
        path = environ["PATH_INFO"]
        if path not in self._routes:
            raise Refusal(404, "not_found", "no such resource")
        method, answer = self._routes[path]
        if environ["REQUEST_METHOD"] not in (method, "HEAD" if method == "GET" else method):
            raise Refusal(405, "invalid_request", f"only {method}", Allow=method)
        return answer(environ)

    def _discovery(self, environ: WSGIEnvironment) -> dict[str, Any]:
        base = self.tokens.issuer.removesuffix(REALM) + PROTOCOL
        methods = ["tls_client_auth"]
        return {
            "issuer": self.tokens.issuer,
            "token_endpoint": f"{base}/token",
            "introspection_endpoint": f"{base}/token/introspect",
            "userinfo_endpoint": f"{base}/userinfo",
            "jwks_uri": f"{base}/certs",
            "grant_types_supported": ["refresh_token"],
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": methods,
            "introspection_endpoint_auth_methods_supported": methods,
            "tls_client_certificate_bound_access_tokens": True,
            "acr_values_supported": ["0", "0"],
            "scopes_supported": ["openid", "scope_all", "identity", "rpps"],
        }

    def _certs(self, environ: WSGIEnvironment) -> dict[str, Any]:
        return self.tokens.jwks()

    def _token(self, environ: WSGIEnvironment) -> dict[str, Any]:
        self._available()
        form = _form(environ)
        client_id = _authenticated_client(environ, form)
        if form.get("grant_type") != "refresh_token":
            raise Refusal(400, "unsupported_grant_type", "refresh_token only; the control port mints tokens")
        answer = self.tokens.refresh(form.get("refresh_token", ""), client_id)
        if answer is None:
            raise Refusal(400, "invalid_grant", "refresh token unknown, used or expired")
        return answer

    def _introspect(self, environ: WSGIEnvironment) -> dict[str, Any]:
        self._available()
        form = _form(environ)
        _authenticated_client(environ, form)
        if "token" not in form:
            raise Refusal(400, "invalid_request", "Token not provided")
        claims = self.tokens.recognise(form["token"])
        fault = self._faults.take("psc", "inactive", "expired")
        if fault == "expired" and claims is not None:
            self.tokens.end(claims["jti"])
        if fault is not None or claims is None:
            return {"active": False}
        return _active(claims)

    def _userinfo(self, environ: WSGIEnvironment) -> dict[str, Any]:
        self._available()
        scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        claims = self.tokens.recognise(token) if scheme.lower() == "bearer" else None
        if claims is None or claims["typ"] != "Bearer":
            challenge = {"WWW-Authenticate": 'Bearer realm="esante-wallet", error="invalid_token"'}
            raise Refusal(401, "invalid_token", "Token verification failed", **challenge)
        told = {name: claims[name] for name in PROFESSIONAL if name in claims}
        name_id = claims.get("SubjectNameID", claims["preferred_username"])
        return {**PROFESSIONAL, "SubjectNameID": name_id, **told, "sub": claims["sub"]}

    def _available(self) -> None:
        if self._faults.take("psc", "http_503"):
            raise Refusal(503, "temporarily_unavailable", "Service Unavailable")


def _active(claims: dict[str, Any]) -> dict[str, Any]:
    """The answer for a live token (trust-and-identity 1.5); SubjectNameID for access tokens only."""
    if claims["typ"] != "Bearer":
        return {**claims, "client_id": claims["azp"], "active": True}
    name = claims["preferred_username"]
    return {"SubjectNameID": name, **claims, "client_id": claims["azp"], "username": name, "active": True}


def _form(environ: WSGIEnvironment) -> dict[str, str]:
    if environ.get("CONTENT_TYPE", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise Refusal(400, "invalid_request", "the body must be application/x-www-form-urlencoded")
    text = environ["wsgi.input"].read(1024 * 1024).decode("utf-8", "replace")
    fields = parse_qs(text, keep_blank_values=True)
    if any(len(values) > 1 for values in fields.values()):
        raise Refusal(400, "invalid_request", "a parameter is repeated")
    return {name: values[0] for name, values in fields.items()}


def _authenticated_client(environ: WSGIEnvironment, form: dict[str, str]) -> str:
    der = environ.get("drimbox.peer_certificate")
    client_id = form.get("client_id", "")
    if der is None or not client_id or client_id not in _client_names(x509.load_der_x509_certificate(der)):
        raise Refusal(401, "invalid_client", "Invalid client or Invalid client credentials")
    return client_id


def _client_names(certificate: x509.Certificate) -> list[str]:
    """CN of an AUTH_CLI certificate: for client authentication and nothing else; no name for other kinds."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return []
    if list(usages) != [ExtendedKeyUsageOID.CLIENT_AUTH]:
        return []
    return [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
