"""The worker's look at the ends of certificates, from the settings."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial

import structlog

from drimbox.adapters.key_files import UnusableCredential
from drimbox.bootstrap import Foundation, utc_now
from drimbox.domain.certificate_levels import LOUDNESS
from drimbox.entrypoints.certificate_inventory import Row, inventory
from drimbox.flow.certificate_alarms import CertificateAlarms, Ending
from drimbox.membership import make_mesh
from drimbox.settings.whole import Settings
from whitelist.view import View

EVERY = 12 * 3600  # seconds


def make_certificate_alarms(foundation: Foundation, actor: str) -> CertificateAlarms:
    """What the worker calls at its start and every `EVERY` seconds; `actor`: as the trace names this node."""
    log = structlog.get_logger("drimbox.flow.certificate_alarms")

    def say(event: str, loudness: str, **fields: object) -> object:
        return getattr(log, loudness)(event, **fields)

    look = partial(endings, foundation.settings, mesh_of(foundation.settings))
    return CertificateAlarms(foundation.transactions, utc_now, actor, look, say)


def mesh_of(settings: Settings) -> View | None:
    """The whitelist, for its signer; None when a pinned authority cannot be read, which its own row says."""
    try:
        return make_mesh(settings)
    except UnusableCredential:
        return None


def endings(settings: Settings, mesh: View | None, now: datetime) -> Sequence[Ending]:
    """What is at a level that is said, each certificate once: an authority is in many bundles."""
    rows: dict[tuple[str, str], list[Row]] = {}
    for row in inventory(settings, now, mesh=mesh, with_keys=True):
        if row.level in LOUDNESS:
            rows.setdefault((row.sha256 or row.setting, row.level), []).append(row)
    return [
        Ending(
            certificate,
            tuple(dict.fromkeys(row.setting for row in same)),
            same[0].level,
            same[0].not_after,
            "; ".join(dict.fromkeys(row.reason for row in same if row.reason)),
        )
        for (certificate, _), same in rows.items()
    ]
