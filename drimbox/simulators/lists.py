"""Publishers of lists: the ANS (signed list by TLS, CRLs and authorities in clear) and BetterStack.

The signed list is made again each time its content changes: SigningTime never goes back when a fault ends
(trust-and-identity 3.5, step 12), and the ETag stays the same in between.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from drimbox.simulators.faults import Faults
from drimbox.simulators.http_connection import READ, CutConnection
from drimbox.simulators.list_signature import Domain, Signer, sign_list, write_list
from drimbox.simulators.pki import Pki
from drimbox.simulators.probe_lists import FORMS, HTML, body_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

LIST_PATH = "/listeblanche/LISTEBLANCHE_DRIM-M_SIGNEE_TEST.xml"


@dataclass(frozen=True)
class Content:
    """A body as it is published."""

    body: bytes
    media_type: str
    modified: datetime

    @property
    def etag(self) -> str:
        """Strong validator, from the body alone."""
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'


def publish(content: Content | None, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    """Answer a GET or HEAD of `content` (None = 404), conditional or not (RFC 9110 13.1)."""
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        start("405 Method Not Allowed", [("Allow", "GET, HEAD")])
        return []
    if content is None:
        start("404 Not Found", [("Content-Type", "text/plain")])
        return [b"no such resource\n"]
    modified = format_datetime(content.modified.replace(microsecond=0), usegmt=True)
    validators = [("ETag", content.etag), ("Last-Modified", modified)]
    if _known(content, environ):
        start("304 Not Modified", validators)
        return []
    start("200 OK", [("Content-Type", content.media_type), *validators])
    return [content.body]


def _known(content: Content, environ: WSGIEnvironment) -> bool:
    tags = environ.get("HTTP_IF_NONE_MATCH")
    if tags is not None:
        known = [tag.strip().removeprefix("W/") for tag in tags.split(",")]
        return "*" in known or content.etag in known
    try:
        since = parsedate_to_datetime(environ["HTTP_IF_MODIFIED_SINCE"])
    except (KeyError, ValueError):  # absent or not a date: unconditional
        return False
    return content.modified.replace(microsecond=0) <= since


def _unchanged(body: bytes) -> bytes:
    return body


def _one_octet_changed(body: bytes) -> bytes:
    """The last letter of the first `db` host is another one: well formed, plausible, not what was signed."""
    at = body.index(b"</db>") - 1
    return body[:at] + (b"x" if body[at : at + 1] != b"x" else b"y") + body[at + 1 :]


def _first_two_thirds(body: bytes) -> bytes:
    return body[: 2 * len(body) // 3]


@dataclass(frozen=True)
class Edition:
    """How the list is made under one fault: signed by whom (None = nobody), naming us or not, spoilt."""

    signer: str | None = "list_signer"
    names_us: bool = True
    spoil: Callable[[bytes], bytes] = _unchanged


EDITIONS: dict[str | None, Edition] = {
    None: Edition(),
    "unsigned": Edition(signer=None),
    "tampered": Edition(spoil=_one_octet_changed),
    "wrong_signer": Edition(signer="appliance_sign"),
    "expired_signer": Edition(signer="expired_signer"),
    "revoked_signer": Edition(signer="revoked_signer"),
    "without_us": Edition(names_us=False),
    "truncated": Edition(spoil=_first_two_thirds),
}


class AnsPublisher:
    """The signed list at `LIST_PATH`, naming the appliance's and the partner's hosts: a WSGI application."""

    def __init__(self, pki: Pki, faults: Faults, clock: Callable[[], datetime]) -> None:
        self._pki, self._faults, self._clock = pki, faults, clock
        self._lock = threading.Lock()
        self._current: tuple[str | None, Content] | None = None
        make_fault_signers(pki)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request; a fault is consumed by a request of the list only."""
        wanted = environ["PATH_INFO"] == LIST_PATH
        content = self.content(self._faults.take("ans")) if wanted else None
        return publish(content, environ, start_response)

    def content(self, fault: str | None = None) -> Content:
        """The list in force, in the edition of that fault."""
        with self._lock:
            if self._current is None or self._current[0] != fault:
                self._current = (fault, self._make(EDITIONS[fault]))
            return self._current[1]

    def _make(self, edition: Edition) -> Content:
        now = self._clock()
        names = ("appliance_server", "partner_server") if edition.names_us else ("partner_server",)
        domains = [_domain(number, self._pki.certificate(name)) for number, name in enumerate(names, 901)]
        body = write_list(domains, now)
        if edition.signer is not None:
            body = sign_list(body, self._signer(edition.signer), now)
        return Content(edition.spoil(body), "application/xml", now)

    def _signer(self, name: str) -> Signer:
        certificate, key = self._pki.load(name)
        return Signer(key, certificate, [self._pki.certificate("aci"), self._pki.certificate("root")])


class ClearPublisher:
    """CRLs and authority certificates in plain HTTP, as IGC Santé publishes them (trust-and-identity 5.4).

    `/CRL/<aci|root>.crl` are made at each request, so never stale; `/AC/<aci|root>.cer`.
    """

    def __init__(self, pki: Pki, clock: Callable[[], datetime]) -> None:
        self._pki, self._clock = pki, clock

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        return publish(self._content(environ["PATH_INFO"]), environ, start_response)

    def _content(self, path: str) -> Content | None:
        der, now = serialization.Encoding.DER, self._clock()
        for name in ("aci", "root"):
            if path == f"/CRL/{name}.crl":
                crl = self._pki.crl(authority=name, this_update=now)
                return Content(crl.public_bytes(der), "application/pkix-crl", now)
            if path == f"/AC/{name}.cer":
                certificate = self._pki.certificate(name)
                made = certificate.not_valid_before_utc
                return Content(certificate.public_bytes(der), "application/pkix-cert", made)
        return None


def make_fault_signers(pki: Pki) -> None:
    """Signers of the same name as the right one: `expired_signer`, and `revoked_signer`, in every CRL.

    Kept on disk: a CRL that a client holds goes on naming the revoked one after a restart.
    """
    right = pki.certificate("list_signer").subject
    cn, ou, organisation = (
        str(right.get_attributes_for_oid(oid)[0].value)
        for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.ORGANIZATION_NAME)
    )
    if not _issued_by(pki, "expired_signer"):
        pki.issue("SIGN", cn, ou, organisation=organisation, expired=True).write(
            pki.directory, "expired_signer"
        )
    if not _issued_by(pki, "revoked_signer"):
        pki.issue("SIGN", cn, ou, organisation=organisation, revoked=True).write(
            pki.directory, "revoked_signer"
        )


def _issued_by(pki: Pki, name: str) -> bool:
    """The files are there, and of the authority in force (a PKI out of date is made again)."""
    if not (pki.path(name).is_file() and pki.key(name).is_file()):
        return False
    key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(pki.load("aci")[1].public_key())
    found = pki.certificate(name).extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    return found.value == key_id


def _domain(number: int, certificate: x509.Certificate) -> Domain:
    """An entry whose `db` is the CN of the certificate named by DNCertificatOperateur."""
    subject = certificate.subject
    db = str(subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    label = str(subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value)
    contact, updated = f"support@{db}", certificate.not_valid_before_utc
    return Domain(number, db, f"vi.{db}", label, subject.rfc4514_string(), contact, updated)


#: hosts of nobody that are globally routable all the same: AS112 and deprecated 6to4 blocks (IANA registries)
CLUSTERS = {
    "eu": [f"192.31.196.{host}" for host in range(1, 6)]
    + [f"2620:4f:8000::{host:x}" for host in range(1, 6)],
    "us": [f"192.175.48.{host}" for host in range(1, 6)]
    + [f"2620:4f:8000::{host:x}" for host in range(17, 22)],
    "as": [f"192.88.99.{host}" for host in range(1, 4)]
    + [f"2620:4f:8000::{host:x}" for host in range(33, 36)],
    "au": [f"192.88.99.{host}" for host in range(9, 13)]
    + [f"2620:4f:8000::{host:x}" for host in range(49, 53)],
}
ELSEWHERE = "https://elsewhere.invalid"


class BetterStackPublisher:
    """The probes' addresses, in both published forms (trust-and-identity 6.4): a WSGI application.

    `hold`: seconds that the fault `slow` keeps the end of a body back, cut short when the server stops.
    """

    def __init__(self, faults: Faults, started: datetime, *, hold: float = 60) -> None:
        self._faults, self._started, self._hold = faults, started, hold

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request; a fault is consumed by a request of one of the lists only."""
        form = FORMS.get(environ["PATH_INFO"])
        if form is None:
            return publish(None, environ, start_response)
        fault = self._faults.take("betterstack")
        if fault == "http_500":
            start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
            return [b"internal error\n"]
        if fault == "redirect":
            start_response("302 Found", [("Location", ELSEWHERE + environ["PATH_INFO"])])
            return []
        if fault == "slow":
            start_response("200 OK", [("Content-Type", form.media_type), ("Content-Length", str(2 * READ))])
            return self._endless(environ["drimbox.stopping"])
        media_type = HTML if fault == "html" else form.media_type
        return publish(
            Content(body_of(form, CLUSTERS, fault), media_type, self._started), environ, start_response
        )

    def _endless(self, stopping: threading.Event) -> Iterator[bytes]:
        """Half of the body that was announced, then nothing."""
        yield b"#" * READ
        stopping.wait(self._hold)
        raise CutConnection
