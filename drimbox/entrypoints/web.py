"""`drimbox web`: the public listener (WADO-RS for partners, RAD-107) and the internal one (the department).

Several processes behind the same two sockets; in each, one event loop and both listeners.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
import uvicorn

from dicom_store.asgi import App
from dicom_store.door import Door
from dicom_store.places import Places
from dicom_store.resources import IMAGES
from drimbox.bootstrap import Foundation, lay_foundation
from drimbox.entrypoints.beats import Beats
from drimbox.entrypoints.cors import Cors
from drimbox.entrypoints.health import HealthView, HealthWatch, Shared
from drimbox.entrypoints.http_protocol import BoundedLoop, BoundedProtocol
from drimbox.entrypoints.intake import recover
from drimbox.entrypoints.internal_door import DepartmentDoor, make_internal_app
from drimbox.entrypoints.memory import trim_now_and_then
from drimbox.entrypoints.notify import Vigil, take_notifier
from drimbox.entrypoints.partner_door import PartnerDoor
from drimbox.entrypoints.prefork import Prefork
from drimbox.entrypoints.proxied import Proxied
from drimbox.entrypoints.serving import Serving, open_serving
from drimbox.settings import Settings, WebSettings
from healthcheck.endpoint import HealthEndpoint
from whitelist.decision import origins
from whitelist.view import View

log = structlog.get_logger(__name__)

KEEP_ALIVE_SECONDS = 15
SHUTDOWN_SECONDS = 10
BACKLOG = 1024  # connections that wait to be accepted
DESCRIPTORS = 16 * 1024  # of one process, where the system allows so many: connections, files, databases
CONNECTIONS = 2000  # of one process, on one listener; more are answered 503
BEAT_SECONDS, SILENT_SECONDS = 0.5, 5.0  # between two beats of a process; without one
INTERNAL_STREAMS = 64  # requests of the department at once, in all processes

FollowParent = Callable[[Callable[[], None]], None]


class _Server(uvicorn.Server):
    """Leaves the signals to `_serve`, which stops both listeners."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_public_app(serving: Serving, places: Places, health: HealthView) -> App:
    """The ASGI application of the public listener."""
    room = serving.settings.web
    base = urlsplit(room.public_url).path
    partners = PartnerDoor(serving.gate, serving.images)
    door = Door(base, IMAGES, partners, places, room.stall_timeout, partners.refused)
    app: App = Cors(door, lambda: origins(serving.mesh.current().trusted))
    app = HealthEndpoint(app, base, health.status, health.admit if serving.settings.health.filter else None)
    return Proxied(app, room.proxies, room.proxy_certificate_header) if room.proxies else app


def public_config(app: App, room: WebSettings) -> uvicorn.Config:
    """The public listener: TLS, unless it ends at a declared proxy."""
    if room.proxies:
        return uvicorn.Config(app, **_common())
    config = uvicorn.Config(
        app,
        # A probe or a token-only client has no certificate; one that is shown must chain to the authorities.
        **_tls(room.certificate, room.key, room.client_authority),
        **_common(),
    )
    return _with_tls_1_2(config)


def internal_config(app: App, room: WebSettings) -> uvicorn.Config:
    """The internal listener: plain on loopback; with TLS wherever it has a certificate."""
    if room.internal_certificate is None:
        return uvicorn.Config(app, **_common())
    tls = _tls(room.internal_certificate, room.internal_key, room.internal_client_authority)
    return _with_tls_1_2(uvicorn.Config(app, **tls, **_common()))


def _tls(certificate: Path | None, key: Path | None, authority: Path | None) -> dict[str, Any]:
    return {
        "ssl_certfile": str(certificate),
        "ssl_keyfile": str(key),
        "ssl_ca_certs": str(authority) if authority else None,
        "ssl_cert_reqs": ssl.CERT_OPTIONAL if authority else ssl.VerifyMode(0),
    }


def _with_tls_1_2(config: uvicorn.Config) -> uvicorn.Config:
    config.load()
    assert config.ssl is not None
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return config


def _common() -> dict[str, Any]:
    return {
        "http": BoundedProtocol,
        "log_config": None,
        "access_log": False,
        "lifespan": "off",
        "server_header": False,
        "proxy_headers": False,
        "ws": "none",
        "backlog": BACKLOG,
        "limit_concurrency": CONNECTIONS,
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": SHUTDOWN_SECONDS,
    }


def serve_web(foundation: Foundation) -> None:
    """Serve until SIGTERM, SIGINT or the death of the supervisor. Raises `OSError` for a port that is taken."""
    settings = foundation.settings
    room = settings.web
    recover(foundation)
    _raise_descriptor_limit()
    foundation.database.close()  # a connection must not be shared across a fork
    sockets = [_listen(room.public_host, room.public_port), _listen(room.internal_host, room.internal_port)]
    places = [Places(room.max_streams, room.processes), Places(INTERNAL_STREAMS, room.processes)]
    shared, beats = Shared(room.processes), Beats(room.processes)

    def child(number: int, follow_parent: FollowParent) -> None:
        for one in places:
            one.take_slot(number)
        shared.take_slot(number)
        watch = partial(HealthWatch, shared=shared) if number == 0 else None
        with asyncio.Runner(loop_factory=BoundedLoop) as runner:
            beat = partial(beats.beat, number)
            runner.run(_serve(settings, sockets, places, shared, watch, follow_parent, beat))

    log.info("web_listening", count=room.processes)
    vigil = Vigil(take_notifier(), partial(beats.all_within, SILENT_SECONDS))
    Prefork(room.processes, child, vigil).run()


def _raise_descriptor_limit() -> None:
    """Else a thousand silent connections, by the usual limit, would leave none for segments and databases."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


async def _serve(
    settings: Settings,
    sockets: Sequence[socket.socket],
    places: Sequence[Places],
    shared: Shared,
    make_watch: Callable[[Foundation, View], HealthWatch] | None,
    follow_parent: FollowParent,
    beat: Callable[[], None],
) -> None:
    loop = asyncio.get_running_loop()
    async with open_serving(lay_foundation(settings)) as serving:
        department = DepartmentDoor(serving)
        health = HealthView(shared, settings.health, serving.gate.records)
        configs = (
            public_config(make_public_app(serving, places[0], health), settings.web),
            internal_config(make_internal_app(serving, department, places[1], health.metrics), settings.web),
        )
        servers = [_Server(config) for config in configs]

        def stop() -> None:
            for server in servers:
                server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)

        def stop_from_thread() -> None:
            loop.call_soon_threadsafe(stop)

        follow_parent(stop_from_thread)
        stopping = threading.Event()
        trim_now_and_then(stopping)
        watch = make_watch(serving.foundation, serving.mesh) if make_watch else None
        if watch is not None:
            watch.start()
        beating = asyncio.create_task(_beat(servers, beat))
        try:
            await asyncio.gather(
                *(server.serve(sockets=[one]) for server, one in zip(servers, sockets, strict=True))
            )
        finally:
            beating.cancel()
            stopping.set()
            if watch is not None:
                await asyncio.to_thread(watch.stop)
            department.close()


async def _beat(servers: Sequence[uvicorn.Server], beat: Callable[[], None]) -> None:
    """Until cancelled, from the moment when every listener accepts."""
    while True:
        if all(server.started for server in servers):
            beat()
        await asyncio.sleep(BEAT_SECONDS)
