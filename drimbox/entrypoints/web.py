"""`drimbox web`: the public listener (TLS, WADO-RS for partners) and the internal one (reports of the department)."""

from __future__ import annotations

import asyncio
import signal
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import structlog
import uvicorn
from a2wsgi import WSGIMiddleware
from cryptography import x509
from uvicorn.protocols.http.h11_impl import H11Protocol

from dicom_store.status import HttpRefusal
from dicom_store.wado_rs import WadoRequest, WadoRs
from drimbox.adapters.psc import PscUnavailable
from drimbox.bootstrap import Foundation, make_psc, utc_now
from drimbox.domain.access import RETRY_AFTER, Wish
from drimbox.domain.errors import AccessRefused, Unavailable
from drimbox.entrypoints.cors import Cors
from drimbox.entrypoints.reports_http import make_reports_app
from drimbox.entrypoints.supervisor import follow_supervisor
from drimbox.flow.authorise import SharedManifests, authorise
from drimbox.flow.mesh import check_partner
from drimbox.membership import make_mesh
from whitelist.decision import origins
from whitelist.names import subject_text

log = structlog.get_logger(__name__)

KEEP_ALIVE_SECONDS = 15
SHUTDOWN_SECONDS = 10


class _WithPeerCertificate(H11Protocol):
    """Puts the client's certificate (DER, None without one) in `scope["state"]["peer_certificate"]`."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        session = transport.get_extra_info("ssl_object")
        certificate = session.getpeercert(binary_form=True) if session is not None else None
        self.app_state = {**self.app_state, "peer_certificate": certificate}


class _Server(uvicorn.Server):
    """Leaves the signals to `serve_web`, which stops both listeners."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_public_app(foundation: Foundation) -> Cors:
    """The ASGI application of the public listener."""
    psc = make_psc(foundation.settings)
    manifests = SharedManifests(foundation.documents)
    mesh, rule = make_mesh(foundation.settings), foundation.settings.whitelist.peers

    def retrieve(request: WadoRequest) -> Sequence[Any]:
        wish = Wish(request.study, request.series, request.sop, request.authorization, request.kos)
        try:
            return authorise(
                foundation.transactions,
                psc,
                PscUnavailable,
                manifests,
                wish,
                now=utc_now(),
                peer=request.client,
                log=log.warning,
                admit=partial(check_partner, mesh, _subject(request.peer_certificate), rule, log.warning),
            )
        except AccessRefused as refusal:
            raise _http(refusal) from refusal
        except Unavailable as error:
            log.exception("retrieval_impossible", study=wish.study, reason=str(error))
            raise HttpRefusal(
                503, "busy", "Busy", "Try again later.", {"Retry-After": str(RETRY_AFTER)}
            ) from error

    base = urlsplit(foundation.settings.web.public_url).path
    images = WadoRs(base, retrieve, foundation.archive.read, foundation.settings.web.max_streams)
    return Cors(images, lambda: origins(mesh.current().trusted))


def _subject(certificate: bytes | None) -> str | None:
    """Of the partner's TLS certificate, which was checked at the handshake; None without one.

    Empty, the name of nobody, when it cannot be read: OpenSSL accepts more than X.509 allows.
    """
    try:
        return None if certificate is None else subject_text(x509.load_der_x509_certificate(certificate))
    except ValueError as error:
        log.warning("peer_certificate_unreadable", error=type(error).__name__)
        return ""


def _http(refusal: AccessRefused) -> HttpRefusal:
    headers = {}
    if refusal.status == 401:
        error = ', error="invalid_token"' if refusal.code == "token-inactive" else ""
        headers["WWW-Authenticate"] = f'Bearer realm="DRIMBox"{error}'
    if refusal.status == 503:
        headers["Retry-After"] = str(RETRY_AFTER)
    return HttpRefusal(refusal.status, refusal.code, refusal.code.replace("-", " "), refusal.reason, headers)


def make_servers(foundation: Foundation) -> list[uvicorn.Server]:
    """Both listeners, not started."""
    room = foundation.settings.web
    public = uvicorn.Config(
        make_public_app(foundation),
        host=room.public_host,
        port=room.public_port,
        http=_WithPeerCertificate,
        ssl_certfile=room.certificate,
        ssl_keyfile=str(room.key),
        ssl_ca_certs=str(room.client_authority),
        # A probe or a token-only client has no certificate; one that is shown must chain to the authorities.
        ssl_cert_reqs=ssl.CERT_OPTIONAL,
        **_common(),
    )
    internal = uvicorn.Config(
        WSGIMiddleware(make_reports_app(foundation)),
        host=room.internal_host,
        port=room.internal_port,
        http="h11",
        **_common(),
    )
    public.load()
    assert public.ssl is not None
    public.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return [_Server(public), _Server(internal)]


def _common() -> dict[str, Any]:
    return {
        "log_config": None,
        "access_log": False,
        "lifespan": "off",
        "server_header": False,
        "proxy_headers": False,
        "ws": "none",
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": SHUTDOWN_SECONDS,
    }


def serve_web(foundation: Foundation) -> None:
    """Serve until SIGTERM, SIGINT or the death of the supervisor."""
    asyncio.run(_serve(make_servers(foundation)))


async def _serve(servers: list[uvicorn.Server]) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)

    def stop_from_thread() -> None:
        loop.call_soon_threadsafe(stop)

    follow_supervisor(stop_from_thread)
    log.info("web_listening")
    await asyncio.gather(*(server.serve() for server in servers))
