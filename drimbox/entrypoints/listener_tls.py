"""The certificates that our listeners show, and whom they trust: held, and renewed between two handshakes.

A connection keeps the context that it was opened with; the next one gets that of its moment.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from drimbox.adapters.held import Held
from drimbox.adapters.key_files import present
from drimbox.bootstrap import Foundation, utc_now
from drimbox.entrypoints.mllp_tls import for_one_connection, server_context
from drimbox.entrypoints.renewal import credential_faults
from drimbox.settings.dicom import DicomSettings
from drimbox.settings.mllp import MllpSettings


class Shown(NamedTuple):
    """What a listener shows: `certificate` is the PEM that its context was made of."""

    context: ssl.SSLContext
    certificate: bytes


@dataclass(frozen=True, slots=True)
class ListenerFiles:
    """PEM files: certificate with its chain, its key, authorities of the clients (None: none is asked), passphrase."""

    certificate: Path
    key: Path
    authority: Path | None
    passphrase: Path | None = None

    def all(self) -> tuple[Path, ...]:
        """Every file that there is."""
        given = (self.certificate, self.key, self.authority, self.passphrase)
        return tuple(filter(None, given))


def hold_listener(
    foundation: Foundation,
    setting: str,
    files: ListenerFiles,
    make: Callable[[ListenerFiles], ssl.SSLContext],
) -> Held[Shown]:
    """What a listener of this process shows, not read yet; SIGHUP renews it. `setting`: of the certificate."""

    def shown() -> Shown:
        return Shown(make(files), files.certificate.read_bytes())

    judge = partial(credential_faults, foundation.settings, setting)
    foundation.held.append(held := Held(setting, files.all(), shown, judge))
    return held


# --- web: renewed by SIGHUP


def hold_public(foundation: Foundation) -> Held[Shown] | None:
    """Of the public listener; None where TLS ends at a declared proxy."""
    room, passphrase = foundation.settings.web, foundation.settings.keys.passphrase
    if room.proxies or room.certificate is None or room.key is None:
        return None
    files = ListenerFiles(room.certificate, room.key, room.client_authority, passphrase)
    return hold_listener(foundation, "web.certificate", files, web_context)


def hold_internal(foundation: Foundation) -> Held[Shown] | None:
    """Of the internal listener; None where it is plain, on loopback."""
    room, passphrase = foundation.settings.web, foundation.settings.keys.passphrase
    if room.internal_certificate is None or room.internal_key is None:
        return None
    files = ListenerFiles(
        room.internal_certificate, room.internal_key, room.internal_client_authority, passphrase
    )
    return hold_listener(foundation, "web.internal_certificate", files, web_context)


def web_context(files: ListenerFiles) -> ssl.SSLContext:
    """TLS 1.2 at least. A client certificate may be missing; one that is shown must chain to the authorities.

    Raises OSError (`UnusableCredential` is one).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.authority is not None:
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(files.authority)
    present(context, files.certificate, files.key, files.passphrase)
    return context


class ContextOfTheMoment(ssl.SSLContext):
    """For an event loop, which keeps one context for a listener: each connection is made of what is held then."""

    held: Held[Shown]

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """The TLS of one connection."""
        return self.held.current().context.wrap_bio(*arguments, **options)


def context_of_the_moment(held: Held[Shown]) -> ssl.SSLContext:
    """Raises OSError (`UnusableCredential` is one) when the files cannot be used now."""
    held.current()
    made = ContextOfTheMoment(ssl.PROTOCOL_TLS_SERVER)
    made.held = held
    return made


# --- MLLP and DICOM over TLS: a client certificate is required, files are followed


def follow_files(
    foundation: Foundation, setting: str, room: MllpSettings | DicomSettings
) -> Callable[[], ssl.SSLContext]:
    """What makes the context of each connection. It raises OSError at the first one only."""
    assert room.tls_certificate and room.tls_key  # the settings demand them with a tls_port
    passphrase = foundation.settings.keys.passphrase
    files = ListenerFiles(room.tls_certificate, room.tls_key, room.tls_client_authority, passphrase)
    held = hold_listener(foundation, setting, files, _demanding_context)
    return lambda: for_one_connection(held.follow(utc_now()).context)


def _demanding_context(files: ListenerFiles) -> ssl.SSLContext:
    assert files.authority  # the settings demand it with a tls_port
    return server_context(files.certificate, files.key, files.authority, files.passphrase)
