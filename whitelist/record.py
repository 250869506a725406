"""What is remembered between two retrievals, and its JSON (`state.json`). Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from whitelist.decision import Alert, State

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a retrieval ended without an accepted list: stable slug and sentence."""

    at: datetime
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Kept:
    """The state of the whitelist here. All instants aware.

    since: when the state was entered. list_file, sha256, accepted_at, signed_at, generated_at: of the archived list
    in force. url, own_host: what the retrieval was configured for. failures: in a row; tries: attempts in a row
    that did not end in a list that names us. minute: of the UTC day, drawn once. told: the last state that the
    listener of changes heard.
    """

    state: State = State.NEVER
    since: datetime | None = None
    told: State = State.NEVER
    list_file: str | None = None
    sha256: str | None = None
    accepted_at: datetime | None = None
    signed_at: datetime | None = None
    generated_at: datetime | None = None
    url: str = ""
    own_host: str = ""
    etag: str | None = None
    modified: str | None = None
    last_attempt: datetime | None = None
    last_success: datetime | None = None
    next_attempt: datetime | None = None
    failure: Failure | None = None
    failures: int = 0
    tries: int = 0
    failing_since: datetime | None = None
    minute: int | None = None
    alert: Alert = Alert.NONE
    alerted_at: datetime | None = None


def to_json(kept: Kept) -> bytes:
    """UTF-8 JSON, one member a field."""
    members = {field.name: _plain(getattr(kept, field.name)) for field in fields(kept)}
    return json.dumps({"format": FORMAT, **members}, indent=1, ensure_ascii=False).encode()


def from_json(octets: bytes) -> Kept:
    """Raises ValueError for anything that `to_json` does not write."""
    members = json.loads(octets)
    if not isinstance(members, dict) or members.pop("format", None) != FORMAT:
        raise ValueError("not a state of this format")
    if set(members) != set(_READERS):
        raise ValueError("members are missing or unknown")
    return Kept(**{name: read(members[name]) for name, read in _READERS.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Failure):
        return {"at": value.at.isoformat(), "code": value.code, "reason": value.reason}
    return value


def _time(value: Any) -> datetime:
    read = datetime.fromisoformat(_text(value))
    if read.tzinfo is None:
        raise ValueError("an instant has no time zone")
    return read


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")  # noqa: TRY004  # of the file, not of a caller
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("not a count")
    return value


def _failure(value: Any) -> Failure:
    if not isinstance(value, dict) or set(value) != {"at", "code", "reason"}:
        raise ValueError("not a failure")
    return Failure(_time(value["at"]), _text(value["code"]), _text(value["reason"]))


def _optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


_TIMES = (
    "since", "accepted_at", "signed_at", "generated_at", "last_attempt", "last_success", "next_attempt",
    "failing_since", "alerted_at",
)  # fmt: skip
_READERS: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(_TIMES, _optional(_time)),
    **dict.fromkeys(("list_file", "sha256", "etag", "modified"), _optional(_text)),
    **dict.fromkeys(("url", "own_host"), _text),
    **dict.fromkeys(("failures", "tries"), _count),
    "state": State,
    "told": State,
    "alert": Alert,
    "failure": _optional(_failure),
    "minute": _optional(_count),
}
