"""The public DICOMweb door (RAD-107): partners' requests to the gate, what the gate grants to WADO-RS."""

from __future__ import annotations

from functools import lru_cache, partial

import structlog
from cryptography import x509

from dicom_store.asgi import HttpRequest, Receive
from dicom_store.door import Answer
from dicom_store.resources import Kind, Resource
from dicom_store.status import HttpRefusal
from dicom_store.transmit import Transfer
from dicom_store.wado_rs import WadoRs
from drimbox.domain.access import RETRY_AFTER, Wish
from drimbox.domain.errors import AccessRefused, Unavailable
from drimbox.flow.authorise import Gate, Grant, Peer
from whitelist.names import subject_text

log = structlog.get_logger(__name__)


class PartnerDoor:
    """What answers a request for images of a partner DRIMBox."""

    def __init__(self, gate: Gate, images: WadoRs) -> None:
        self._gate = gate
        self._images = images

    async def __call__(self, request: HttpRequest, resource: Resource, receive: Receive) -> Answer:
        """Decide, then negotiate: all before the first byte. Raises `HttpRefusal`."""
        wish, peer = _wish(request, resource), _peer(request)
        try:
            grant = await self._gate.admit(wish, peer)
        except AccessRefused as refusal:
            raise as_http(refusal) from refusal
        except Unavailable as error:
            log.exception("retrieval_impossible", study=wish.study, reason=str(error))
            raise HttpRefusal(503, "busy", "Busy", "Try again later.", _RETRY) from error
        try:
            images = await self._images.answer(request, resource, grant.instances)
        except HttpRefusal as refusal:
            grant.refused(refusal.slug, refusal.status)
            raise
        except BaseException:
            grant.refused("internal-error", 500)
            raise
        ended = partial(_finished, grant, images.syntaxes), partial(_impossible, grant)
        return Answer(images.transfer, *ended)

    def refused(self, request: HttpRequest, refusal: HttpRefusal) -> None:
        """Record a request that was refused before it came here."""
        wish = _wish(request, Resource(Kind.STUDIES))
        self._gate.refused(wish, _peer(request), refusal.slug, refusal.status)


def _wish(request: HttpRequest, resource: Resource) -> Wish:
    return Wish(
        resource.study or "",
        resource.series,
        resource.sop,
        request.headers.get("authorization"),
        request.headers.get("kos-sopinstanceuid"),
        resource.frames,
    )


def _peer(request: HttpRequest) -> Peer:
    return Peer(request.client, request.peer_certificate, _subject(request.peer_certificate))


def _finished(grant: Grant, syntaxes: tuple[str, ...], transfer: Transfer, why: str) -> None:
    grant.finished(transfer.sent, transfer.whole, syntaxes, why, transfer.begun_at)


def _impossible(grant: Grant, refusal: HttpRefusal, why: str) -> None:
    grant.refused(refusal.slug, refusal.status, why)


_RETRY = {"Retry-After": str(RETRY_AFTER)}


@lru_cache(maxsize=256)
def _subject(certificate: bytes | None) -> str | None:
    """Of the partner's TLS certificate, which was checked at the handshake; None without one.

    Empty, the name of nobody, when it cannot be read: OpenSSL accepts more than X.509 allows.
    """
    try:
        return None if certificate is None else subject_text(x509.load_der_x509_certificate(certificate))
    except (ValueError, x509.InvalidVersion) as error:  # the latter is no ValueError
        log.warning("peer_certificate_unreadable", error=type(error).__name__)
        return ""


def as_http(refusal: AccessRefused) -> HttpRefusal:
    """A refusal of the gate as an HTTP answer."""
    headers = {}
    if refusal.status == 401:
        error = "" if refusal.code == "token-missing" else ', error="invalid_token"'
        headers["WWW-Authenticate"] = f'Bearer realm="DRIMBox"{error}'
    if refusal.status == 503:
        headers |= _RETRY
    return HttpRefusal(refusal.status, refusal.code, refusal.code.replace("-", " "), refusal.reason, headers)
