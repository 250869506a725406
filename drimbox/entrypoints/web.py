"""`drimbox web`: the public listener (WADO-RS for partners, RAD-107) and the internal one (the department).

Several processes behind the same two sockets; in each, one event loop and both listeners.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import structlog
import uvicorn
from prometheus_client.core import GaugeMetricFamily, Metric

from dicom_store.asgi import App
from dicom_store.door import Door
from dicom_store.places import Places
from dicom_store.resources import IMAGES
from drimbox.adapters.held import Held
from drimbox.bootstrap import Foundation, lay_foundation
from drimbox.entrypoints.beats import Beats
from drimbox.entrypoints.cors import Cors
from drimbox.entrypoints.health import HealthView, HealthWatch, Shared
from drimbox.entrypoints.http_protocol import BoundedLoop, BoundedProtocol
from drimbox.entrypoints.intake import recover
from drimbox.entrypoints.internal_door import DepartmentDoor, make_internal_app
from drimbox.entrypoints.listener_tls import Shown, context_of_the_moment, hold_internal, hold_public
from drimbox.entrypoints.memory import trim_now_and_then
from drimbox.entrypoints.meter_keeping import keep_meters
from drimbox.entrypoints.notify import Vigil, take_notifier
from drimbox.entrypoints.partner_door import PartnerDoor
from drimbox.entrypoints.prefork import Prefork
from drimbox.entrypoints.proxied import Proxied
from drimbox.entrypoints.renewal import Renewal
from drimbox.entrypoints.serving import Serving, open_serving
from drimbox.settings.whole import Settings
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


def listener_config(app: App, shown: Held[Shown] | None) -> uvicorn.Config:
    """A listener in TLS; in clear without a certificate to show (`hold_public`, `hold_internal`).

    Raises OSError (`UnusableCredential` is one) when the files cannot be used.
    """
    config = uvicorn.Config(app, **_common())
    config.load()
    config.ssl = context_of_the_moment(shown) if shown else None
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
    """Serve until SIGTERM, SIGINT or the death of the supervisor; SIGHUP renews the credentials.

    Raises `OSError` for a port that is taken.
    """
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
            runner.run(_serve(settings, sockets, places, shared, watch, follow_parent, beat, number))

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
    number: int,
) -> None:
    loop, hangup = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, hangup.set)  # before anything is read that it would have renewed
    async with open_serving(lay_foundation(settings)) as serving:
        department = DepartmentDoor(serving)
        health = HealthView(shared, settings.health, serving.gate.records)
        more = partial(_gauges, health, places)
        configs = (
            listener_config(make_public_app(serving, places[0], health), hold_public(serving.foundation)),
            listener_config(
                make_internal_app(serving, department, places[1], more), hold_internal(serving.foundation)
            ),
        )
        servers = [_Server(config) for config in configs]

        def stop() -> None:
            for server in servers:
                server.should_exit = True

        for one in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(one, stop)

        def stop_from_thread() -> None:
            loop.call_soon_threadsafe(stop)

        follow_parent(stop_from_thread)
        stopping = threading.Event()
        trim_now_and_then(stopping)
        watch = make_watch(serving.foundation, serving.mesh) if make_watch else None
        if watch is not None:
            watch.start()
        beating = asyncio.create_task(_beat(servers, beat))
        renewing = asyncio.create_task(_renew(hangup, Renewal(serving.foundation)))
        try:
            with keep_meters(serving.foundation, f"web-{number}"):
                await asyncio.gather(
                    *(server.serve(sockets=[one]) for server, one in zip(servers, sockets, strict=True))
                )
        finally:
            beating.cancel()
            renewing.cancel()
            stopping.set()
            if watch is not None:
                await asyncio.to_thread(watch.stop)
            department.close()


def _gauges(health: HealthView, places: Sequence[Places]) -> Iterator[Metric]:
    """What the processes of `web` know together, in memory that they share."""
    yield from health.metrics()
    streams = GaugeMetricFamily(
        "drimbox_serve_streams_open", "Requests of the DICOMweb doors being answered now", labels=("door",)
    )
    for door, taken in zip(("partner", "account"), places, strict=True):
        streams.add_metric((door,), taken.taken)
    yield streams


async def _renew(hangup: asyncio.Event, renewal: Renewal) -> None:
    """Until cancelled: renew the credentials after each SIGHUP, beside the event loop."""
    while True:
        await hangup.wait()
        hangup.clear()
        await asyncio.to_thread(renewal.run)


async def _beat(servers: Sequence[uvicorn.Server], beat: Callable[[], None]) -> None:
    """Until cancelled, from the moment when every listener accepts."""
    while True:
        if all(server.started for server in servers):
            beat()
        await asyncio.sleep(BEAT_SECONDS)
