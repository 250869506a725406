"""What the health check of this installation looks at: a row per probe, from the settings (trust-and-identity 6.3)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from urllib.parse import urlsplit

from drimbox.adapters import probes, probes_dicom, probes_net, probes_tls
from drimbox.adapters.held import Held
from drimbox.adapters.probes_net import ClientFiles
from drimbox.bootstrap import Foundation, node_name, utc_now
from drimbox.entrypoints.credentials_in_use import credentials_in_use
from drimbox.entrypoints.image_senders import make_image_senders
from drimbox.entrypoints.listener_tls import Shown
from drimbox.flow.heartbeats import WEB
from drimbox.membership import make_anchors, whitelist_directory
from drimbox.settings.whole import Settings
from healthcheck.probe import Look, Probe
from whitelist.crl_store import CrlStore
from whitelist.fetch import Fetcher
from whitelist.view import View

# Probe to setting: what `drimbox web` holds, in the process of which these probes look, until SIGHUP renews it
_LISTENERS = {"web": "web.certificate", "web-internal": "web.internal_certificate"}
# Of the deadline: the look's own words are better than "given up"
_OWN_LIMIT = 0.8


def make_probes(foundation: Foundation, mesh: View) -> tuple[Probe, ...]:
    """Every probe of this node, each under its own name. `mesh`: of the process that looks.

    Raises `UnusableCredential` when a pinned authority of the whitelist cannot be read.
    """
    room = foundation.settings.health

    def near(name: str, look: Look, kind: str = "component") -> Probe:
        return Probe(name, look, room.period, room.deadline, kind)

    def far(name: str, look: Look) -> Probe:
        return Probe(name, look, room.remote_period, room.deadline)

    every = (
        *(near(name, look, kind) for name, look, kind in _parts(foundation, mesh)),
        *(near(name, look) for name, look in _doors(foundation.settings)),
        far("crl:age", _crl_look(foundation.settings)),
        *(far(name, look) for name, look in _certificates(foundation)),
        *(far(name, look) for name, look in _servers(foundation.settings)),
    )
    return tuple(probe for probe in every if probe.name not in room.not_here)


def _parts(foundation: Foundation, mesh: View) -> Iterator[tuple[str, Look, str]]:
    settings, transactions = foundation.settings, foundation.transactions
    node, room, segments = node_name(settings), settings.health, settings.storage.root / "images" / "segments"
    yield "database:write", partial(probes.database_write, transactions, node, utc_now), "datastore"
    yield "images:write", partial(probes.images_write, segments, f".health-{node}-{WEB}"), "datastore"
    yield "images:free", partial(probes.images_free, segments, settings.storage.minimum_free_bytes), "system"
    yield (
        "worker:heartbeat",
        partial(probes.worker_heartbeat, transactions, node, utc_now, room.period),
        "component",
    )
    yield "queue:age", partial(probes.queue_age, transactions, utc_now, room.queue_age_warn), "component"
    yield "whitelist:state", partial(probes.whitelist_state, mesh, utc_now), "component"


def _doors(settings: Settings) -> Iterator[tuple[str, Look]]:
    dicom, mllp, seconds = settings.dicom, settings.mllp, settings.health.deadline * _OWN_LIMIT
    who = (dicom.ae_title, dicom.calling_ae_titles, make_image_senders(dicom))
    yield "dicom:echo", partial(probes_dicom.echo, (dicom.host, dicom.port), *who, seconds)
    if dicom.tls_port and dicom.tls_certificate is not None:  # the settings demand it with a tls_port
        secure = (dicom.host, dicom.tls_port, dicom.tls_certificate, seconds, "drimbox dicom")
        yield "dicoms:handshake", partial(probes_tls.tls_begins, *secure)
    yield "mllp:connect", partial(probes_net.mllp_connect, mllp.host, mllp.port, seconds)
    if mllp.tls_port:
        yield "mllps:connect", partial(probes_net.mllp_connect, mllp.host, mllp.tls_port, seconds)


def _crl_look(settings: Settings) -> Look:
    anchors, room = make_anchors(settings.whitelist), settings.whitelist
    source = Fetcher(room.connect_timeout, room.answer_timeout)  # never asked: nothing is refreshed here
    store = CrlStore(whitelist_directory(settings) / "crls", {}, anchors, source, utc_now, random.random)
    return partial(probes.crl_age, store.current, anchors.crl_grace, utc_now)


def _certificates(foundation: Foundation) -> Iterator[tuple[str, Look]]:
    settings, held = foundation.settings, {one.setting: one for one in foundation.held}
    warn_days = settings.health.certificate_warn_days
    for one in credentials_in_use(settings):
        if not one.probe:
            continue
        name, path = one.probe, one.certificate
        look: Look = partial(probes.certificate_validity, path, warn_days, utc_now)
        listener = held.get(_LISTENERS.get(name, ""))
        if listener is not None:
            look = partial(probes.certificate_served, path, partial(_shown, listener), warn_days, utc_now)
        yield f"certificates:{name}", look


def _shown(listener: Held[Shown]) -> bytes:
    return listener.current().certificate


def _servers(settings: Settings) -> Iterator[tuple[str, Look]]:
    dmp, psc, seconds = settings.dmp, settings.psc, settings.health.deadline * _OWN_LIMIT
    passphrase = settings.keys.passphrase
    dmp_files = ClientFiles(
        dmp.authority, dmp.client_certificate, dmp.client_key, passphrase, "dmp.client_certificate"
    )
    dmp_places = tuple(dict.fromkeys((_place(dmp.repository_url), _place(dmp.registry_url))))
    yield "dmp:connect", partial(probes_net.tls_connect, dmp_places, dmp_files, utc_now, seconds)
    psc_files = ClientFiles(
        psc.authority, psc.client_certificate, psc.client_key, passphrase, "psc.client_certificate"
    )
    psc_places = (_place(psc.discovery_url or psc.issuer),)
    yield "psc:connect", partial(probes_net.tls_connect, psc_places, psc_files, utc_now, seconds)


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 443
