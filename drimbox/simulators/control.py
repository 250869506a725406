"""The control port: what the DMP holds, what it received, faults to arm, tokens to mint. Loopback only.

Requests, answers and names are the contract's ("Simulators' control port"). Bad input is answered 400 with
every reason. Additions: `GET /control/faults` (what is armed), `POST /control/dmp/patients` (open a DMP for
another test identity), `bind` + `certificate` of a token (its `cnf` claim), `GET /control/syslog/messages` (the audit
messages that were received, and what is wrong with each).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qs

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from drimbox.simulators.faults import Faults
from drimbox.simulators.psc_tokens import ACCESS_SECONDS, TokenStore, confirmation

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

LONGEST_TTL = 24 * 3600
OWN_CLAIMS = ("jti", "typ", "iss")
WHOLE_CLAIMS = ("exp", "iat", "auth_time")
TEXT_CLAIMS = ("azp", "sid", "session_state", "scope", "preferred_username", "sub", "SubjectNameID")
PATIENT_RULES = (
    ("ins", r"[0-9]{6}[0-9AB][0-9]{8}", "a matricule INS of 15 characters"),
    ("oid", r"1\.2\.250\.1\.213\.1\.4\.(10|11)", "a test authority of the INS"),
)
STATUSES = {200: "200 OK", 400: "400 Bad Request", 404: "404 Not Found", 405: "405 Method Not Allowed"}


class DmpView(Protocol):
    """What the control port reads of the DMP simulator's state."""

    def add_patient(self, ins: str, oid: str) -> None:
        """Open a DMP for that identity."""

    def documents(self) -> list[dict[str, object]]:
        """Every document held."""

    def content(self, unique_id: str) -> bytes | None:
        """The bytes of one document."""

    def requests(self) -> list[dict[str, object]]:
        """Every request received."""

    def request_body(self, message_id: str) -> tuple[str, bytes] | None:
        """Content-Type and raw body of one request."""


class SyslogView(Protocol):
    """What the control port reads of the audit record repository."""

    def messages(self) -> list[dict[str, Any]]:
        """Every audit message kept."""


class BadRequest(Exception):
    """The request cannot be done as written; `reasons` says everything that is wrong."""

    def __init__(self, reasons: list[str], status: int = 400) -> None:
        super().__init__("; ".join(reasons))
        self.reasons, self.status = reasons, status


@dataclass(frozen=True)
class Answer:
    """A body with its type."""

    body: bytes
    media_type: str = "application/json"


class ControlPort:
    """The WSGI application."""

    def __init__(self, faults: Faults, dmp: DmpView, tokens: TokenStore, syslog: SyslogView) -> None:
        self._faults, self._dmp, self._tokens, self._syslog = faults, dmp, tokens, syslog
        self._routes: dict[str, dict[str, Callable[[WSGIEnvironment], Answer]]] = {
            "/control/dmp/documents": {"GET": self._documents},
            "/control/dmp/requests": {"GET": self._requests},
            "/control/dmp/patients": {"POST": self._add_patient},
            "/control/faults": {"GET": self._armed, "POST": self._arm},
            "/control/psc/token": {"POST": self._mint},
            "/control/syslog/messages": {"GET": self._audit_messages},
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        try:
            status, answer = 200, self._route(environ)
        except BadRequest as refusal:
            status, answer = refusal.status, _json({"errors": refusal.reasons})
        headers = [("Content-Type", answer.media_type), ("Cache-Control", "no-store")]
        if status == 405:
            headers.append(("Allow", ", ".join(self._routes[environ["PATH_INFO"]])))
        start_response(STATUSES[status], headers)
        return [answer.body]

    def _route(self, environ: WSGIEnvironment) -> Answer:
        methods = self._routes.get(environ["PATH_INFO"])
        if methods is None:
            raise BadRequest(["no such resource; known: " + ", ".join(self._routes)], 404)
        if environ["REQUEST_METHOD"] not in methods:
            raise BadRequest(["method not allowed"], 405)
        return methods[environ["REQUEST_METHOD"]](environ)

    def _documents(self, environ: WSGIEnvironment) -> Answer:
        wanted = _wanted(environ)
        if wanted is None:
            return _json(self._dmp.documents())
        content = self._dmp.content(wanted)
        if content is None:
            raise BadRequest(["no document of that unique_id"], 404)
        return Answer(content, "application/octet-stream")

    def _requests(self, environ: WSGIEnvironment) -> Answer:
        wanted = _wanted(environ)
        if wanted is None:
            return _json(self._dmp.requests())
        found = self._dmp.request_body(wanted)
        if found is None:
            raise BadRequest(["no request of that message_id"], 404)
        return Answer(found[1], found[0])

    def _add_patient(self, environ: WSGIEnvironment) -> Answer:
        order = _object(environ, {"ins", "oid"})
        reasons = [
            f"{name} must be {meaning}"
            for name, pattern, meaning in PATIENT_RULES
            if not (isinstance(order.get(name), str) and re.fullmatch(pattern, order[name]))
        ]
        if reasons:
            raise BadRequest(reasons)
        self._dmp.add_patient(order["ins"], order["oid"])
        return _json(order)

    def _armed(self, environ: WSGIEnvironment) -> Answer:
        return _json(self._faults.armed())

    def _arm(self, environ: WSGIEnvironment) -> Answer:
        order = _object(environ, {"where", "fault", "times"})
        missing = [f"{name} is missing" for name in ("where", "fault") if name not in order]
        if missing:
            raise BadRequest(missing)
        times = order.get("times", 1)
        try:
            self._faults.arm(order["where"], order["fault"], times)
        except ValueError as error:
            raise BadRequest([str(error)]) from error
        return _json({"where": order["where"], "fault": order["fault"], "times": times})

    def _audit_messages(self, environ: WSGIEnvironment) -> Answer:
        return _json(self._syslog.messages())

    def _mint(self, environ: WSGIEnvironment) -> Answer:
        order = _object(environ, {"claims", "ttl", "bind", "certificate"})
        claims, ttl = order.get("claims", {}), order.get("ttl", ACCESS_SECONDS)
        reasons = [*_ttl_faults(ttl), *_claim_faults(claims), *_binding_faults(order)]
        if reasons:
            raise BadRequest(reasons)
        if "bind" in order:
            certificate = x509.load_pem_x509_certificate(order["certificate"].encode("ascii"))
            der = certificate.public_bytes(serialization.Encoding.DER)
            claims = {"cnf": confirmation(der, order["bind"]), **claims}
        return _json(self._tokens.issue(claims, ttl))


def _json(value: Any) -> Answer:
    return Answer(json.dumps(value, ensure_ascii=False).encode("utf-8"))


def _wanted(environ: WSGIEnvironment) -> str | None:
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    unknown = sorted(set(query) - {"content"})
    if unknown or len(query.get("content", [])) > 1:
        raise BadRequest([f"unknown parameter: {name}" for name in unknown] or ["content is repeated"])
    return query["content"][0] if "content" in query else None


def _object(environ: WSGIEnvironment, known: set[str]) -> dict[str, Any]:
    try:
        value = json.loads(environ["wsgi.input"].read())
    except ValueError as error:
        raise BadRequest(["the body is not JSON"]) from error
    if not isinstance(value, dict):
        raise BadRequest(["the body must be a JSON object"])
    unknown = sorted(set(value) - known)
    if unknown:
        raise BadRequest([f"unknown member: {name}" for name in unknown])
    return value


def _ttl_faults(ttl: object) -> list[str]:
    if isinstance(ttl, int) and not isinstance(ttl, bool) and abs(ttl) <= LONGEST_TTL:
        return []
    return [f"ttl must be a whole number of seconds, at most {LONGEST_TTL} either way"]


def _claim_faults(claims: object) -> list[str]:
    if not isinstance(claims, Mapping):
        return ["claims must be a JSON object"]
    return [
        *(f"claims.{name} is the simulator's own" for name in OWN_CLAIMS if name in claims),
        *(f"claims.{name} must be a number" for name in WHOLE_CLAIMS if not _is(claims, name, int)),
        *(f"claims.{name} must be a text" for name in TEXT_CLAIMS if not _is(claims, name, str)),
    ]


def _is(claims: Mapping[str, Any], name: str, kind: type) -> bool:
    return name not in claims or type(claims[name]) is kind


def _binding_faults(order: Mapping[str, Any]) -> list[str]:
    if "bind" not in order and "certificate" not in order:
        return []
    faults = [] if order.get("bind") in ("rfc8705", "ans") else ["bind must be rfc8705 or ans"]
    try:
        x509.load_pem_x509_certificate(str(order.get("certificate", "")).encode("utf-8"))
    except ValueError:
        faults.append("certificate must be a certificate in PEM")
    return faults
