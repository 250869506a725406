"""What an operator and the health report are told of the whitelist."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from whitelist.cache import Loaded
from whitelist.decision import OwnName, exchanges, naming
from whitelist.document import Domain
from whitelist.progress import alert_of
from whitelist.schedule import as_of


def describe(loaded: Loaded, own: OwnName, now: datetime, next_attempt: datetime) -> dict[str, Any]:
    """JSON members; instants as ISO 8601 in UTC with Z, null when there is none; `age_seconds` since the last
    accepted retrieval.
    """
    kept, trusted = loaded.kept, loaded.trusted
    state = as_of(kept.state, kept.last_success, now)
    named = naming(trusted, own) if trusted else None
    entries = trusted.entries_of(own.host) if trusted else ()
    return {
        "state": state.value,
        "since": _text(kept.since),
        "alert": alert_of(kept, now).value,
        "exchanges": exchanges(state),
        "url": kept.url,
        "host": own.host,
        "last_attempt": _text(kept.last_attempt),
        "last_success": _text(kept.last_success),
        "age_seconds": int((now - kept.last_success).total_seconds()) if kept.last_success else None,
        "next_attempt": _text(next_attempt),
        "last_failure": _failure(loaded),
        "entries": [_entry(entry) for entry in entries],
        "list": _list(loaded),
        "warnings": [
            *loaded.warnings,
            *(named.warnings if named else ()),
            *(trusted.warnings if trusted else ()),
        ],
    }


def _failure(loaded: Loaded) -> dict[str, Any] | None:
    kept, failure = loaded.kept, loaded.kept.failure
    if failure is None:
        return None
    return {
        "at": _text(failure.at),
        "code": failure.code,
        "reason": failure.reason,
        "failures": kept.failures,
        "since": _text(kept.failing_since),
    }


def _entry(entry: Domain) -> dict[str, str]:
    return {
        "identifier": entry.identifier,
        "db": entry.db,
        "vi": entry.vi,
        "label": entry.label,
        "operator": entry.operator,
    }


def _list(loaded: Loaded) -> dict[str, Any] | None:
    kept, report = loaded.kept, loaded.report
    if report is None or report.trusted is None:
        return None
    return {
        "file": kept.list_file,
        "sha256": kept.sha256,
        "accepted_at": _text(kept.accepted_at),
        "signed_at": _text(report.signed_at),
        "generated_at": _text(report.trusted.generated_at),
        "signer": report.signer.subject.rfc4514_string() if report.signer else None,
        "signer_expires_at": _text(report.signer.not_valid_after_utc) if report.signer else None,
        "domains": len(report.trusted.domains),
    }


def _text(instant: datetime | None) -> str | None:
    if instant is None:
        return None
    return instant.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
