"""Every certificate that this installation uses, with its end: for operators, alarms and metrics."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from drimbox.adapters.certificate_files import facts_of, read_facts
from drimbox.adapters.credential_check import judge_credential
from drimbox.adapters.key_files import UnusableCredential
from drimbox.domain.certificate_facts import CertificateFacts, kind_of
from drimbox.domain.certificate_levels import Level, days_left, level_of
from drimbox.entrypoints.credentials_in_use import CredentialInUse, absences, credentials_in_use
from drimbox.settings.whole import Settings
from whitelist.view import View

SIGNER = "whitelist.url"  # the signer comes with the list


class Place(StrEnum):
    """What a certificate of the inventory is to us."""

    OWN = "own"  # it identifies us
    CHAIN = "chain"  # an authority that we show with it
    AUTHORITY = "authority"  # one that we trust
    SIGNER = "list signer"  # of the whitelist in force


@dataclass(frozen=True, slots=True)
class Row:
    """One certificate of one setting. `role`: what it is for; `reason`: why it is unusable or was not seen.

    `kind`: recognised by its usages; `serial`: hexadecimal; `sha256`: of the certificate. Of one that cannot be read
    the texts are empty, the instants and `days_left` (whole days, negative once it has ended) None.
    """

    setting: str
    place: Place
    role: str
    level: Level
    reason: str = ""
    path: str = ""
    subject: str = ""
    issuer: str = ""
    serial: str = ""
    sha256: str = ""
    kind: str = ""
    not_before: datetime | None = None
    not_after: datetime | None = None
    days_left: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The row, instants as ISO 8601 UTC."""
        row = {name: getattr(self, name) for name in self.__slots__}
        stamps = {name: _stamp(row[name]) for name in ("not_before", "not_after")}
        return row | {"place": self.place.value, "level": self.level.value} | stamps


def inventory(
    settings: Settings, now: datetime, *, mesh: View | None = None, with_keys: bool = False
) -> Sequence[Row]:
    """A row for each certificate of each setting, the soonest end first, what has no end before all.

    `mesh`: to tell the signer of the whitelist in force too. `with_keys`: private keys are opened as well, as far as
    this process may: milliseconds each.
    """
    rows = [row for one in credentials_in_use(settings) for row in _rows(one, settings, now, with_keys)]
    loaded = mesh.loaded() if mesh is not None else None
    if loaded is not None and loaded.report is not None and loaded.report.signer is not None:
        signer = facts_of(loaded.report.signer)  # readable: its list was verified
        level = level_of(signer.not_after, now, settings.health.certificate_warn_days)
        rows.append(_row(SIGNER, Place.SIGNER, "whitelist signer", level, signer, now))
    beginning = datetime.min.replace(tzinfo=UTC)
    return sorted(rows, key=lambda row: (row.not_after or beginning, row.setting))


def _rows(one: CredentialInUse, settings: Settings, now: datetime, with_keys: bool) -> Iterator[Row]:
    place = Place.OWN if one.is_own else Place.AUTHORITY
    if reason := _unseen(one.certificate):
        yield Row(one.name, place, one.role.value, Level.UNSEEN, reason, str(one.certificate))
        return
    try:
        first, *others = read_facts(one.certificate)
    except UnusableCredential as error:
        yield Row(
            one.name, place, one.role.value, Level.UNUSABLE, "; ".join(error.faults), str(one.certificate)
        )
        return
    warn_days = settings.health.certificate_warn_days
    if one.is_own:
        level = level_of(first.not_after, now, warn_days)
        reason = "; ".join(_faults(one, settings, now, with_keys))
        level = Level.UNUSABLE if reason and level is not Level.EXPIRED else level
        yield _row(one.name, place, one.role.value, level, first, now, reason, one.certificate)
    rest = Place.CHAIN if one.is_own else Place.AUTHORITY
    for facts in others if one.is_own else (first, *others):
        level = level_of(facts.not_after, now, warn_days)
        yield _row(one.name, rest, one.role.value, level, facts, now, path=one.certificate)


def _faults(one: CredentialInUse, settings: Settings, now: datetime, with_keys: bool) -> Sequence[str]:
    """Why one of ours cannot serve. A key that this process may not open is no fault: another one does."""
    passphrase = settings.keys.passphrase
    hidden = any(map(_unseen, filter(None, (one.key, passphrase))))
    key = one.key if with_keys and not hidden else None
    return judge_credential(one.certificate, key, one.role, now, one.expected, passphrase=passphrase).faults


def _unseen(path: Path) -> str:
    """Why this process may not see a file that others may; nothing when it can look, be the file there or not."""
    if absent := tuple(absences(path)):
        return absent[0]
    is_away = os.access(path.parent, os.X_OK) and not path.exists()
    return "" if is_away or os.access(path, os.R_OK) else f"{path}: this account may not read it"


def _row(
    setting: str,
    place: Place,
    role: str,
    level: Level,
    facts: CertificateFacts,
    now: datetime,
    reason: str = "",
    path: Path | None = None,
) -> Row:
    return Row(
        setting=setting,
        place=place,
        role=role,
        level=level,
        reason=reason,
        path="" if path is None else str(path),
        subject=facts.subject_name,
        issuer=facts.issuer_name,
        serial=f"{facts.serial:x}",
        sha256=facts.sha256,
        kind=kind_of(facts).value,
        not_before=facts.not_before,
        not_after=facts.not_after,
        days_left=days_left(facts.not_after, now),
    )


def _stamp(instant: datetime | None) -> str | None:
    return None if instant is None else f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
