"""SIGHUP: the credentials of this process are made anew of their files, for the next handshake or signature.

The settings are not read again. Nothing that is open is disturbed: it keeps what it was opened with. New files are
judged as `drimbox config check` does; those that have a fault wait, and the old ones serve on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any

import structlog

from drimbox.adapters.held import Held, words
from drimbox.adapters.https import client_credential
from drimbox.bootstrap import Foundation, utc_now
from drimbox.entrypoints.credentials_in_use import credentials_in_use, judge_in_use
from drimbox.settings.whole import Settings

log = structlog.get_logger(__name__)

#: whom each TLS certificate is used with: authorities that are renewed with it
PEERS: Mapping[str, str] = {
    "web.certificate": "web.client_authority",
    "web.internal_certificate": "web.internal_client_authority",
    "mllp.tls_certificate": "mllp.tls_client_authority",
    "dicom.tls_certificate": "dicom.tls_client_authority",
    "dmp.client_certificate": "dmp.authority",
    "psc.client_certificate": "psc.authority",
    "audit.certificate": "audit.authority",
}


class Renewal:
    """Of one process: of what it holds by now (`Foundation.held`), the DMP signature, and its client certificates."""

    def __init__(self, foundation: Foundation) -> None:
        self._foundation = foundation
        for held in (foundation.signature, *_clients(foundation.settings)):
            held.judge = partial(credential_faults, foundation.settings, held.setting)

    def run(self) -> None:
        """Renew. A credential that cannot be renewed stays as it was; the log says which and why."""
        changed = []
        for held in (*self._foundation.held, *_clients(self._foundation.settings)):
            try:
                if held.renew(utc_now()):
                    changed.append(held.setting)
            except OSError as error:
                reason = f"{held.setting}: {words(error)}; the old one stays in use"
                log.error("credential_not_renewed", setting=held.setting, reason=reason)  # noqa: TRY400 expected
            except Exception:  # a defect of ours must not end a door that serves
                log.exception("credential_not_renewed", setting=held.setting)
        log.info("credentials_renewed", setting=", ".join(changed), count=len(changed))


def credential_faults(settings: Settings, setting: str, now: datetime) -> list[str]:
    """Why the files of that credential must not be taken into use, nor those of the authorities that go with it."""
    wanted = (setting, PEERS.get(setting, ""))
    rows = [one for one in credentials_in_use(settings) if one.name in wanted]
    return [
        fault if one.name == setting else f"{one.name}: {fault}"
        for one in rows
        for fault in judge_in_use(one, settings, now).faults
    ]


def _clients(settings: Settings) -> Iterator[Held[Any]]:
    """Client certificates, which follow their files anyway; those that this process never used stay unread."""
    dmp, psc, audit, passphrase = settings.dmp, settings.psc, settings.audit, settings.keys.passphrase
    rows = (
        ("dmp.client_certificate", dmp.authority, dmp.client_certificate, dmp.client_key),
        ("psc.client_certificate", psc.authority, psc.client_certificate, psc.client_key),
        ("audit.certificate", audit.authority, audit.certificate, audit.key),
    )
    for setting, authority, certificate, key in rows:
        if authority is not None and certificate is not None and key is not None:
            yield client_credential(authority, certificate, key, passphrase, setting)
