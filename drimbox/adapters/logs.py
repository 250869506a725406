"""Structured logs on standard error: one event a line, always with an `action`, never patient data.

Callers log identifiers of objects (study, submission, message) and outcomes; names, INS and document contents
have no key here, and keys outside the list are dropped with their name kept, so that a slip shows and leaks nothing.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, TextIO

import structlog

# What a log line may carry. Everything else is dropped (its name is listed under `dropped`).
ALLOWED = frozenset(
    {
        "action", "level", "timestamp", "logger", "process", "study", "submission", "report", "message", "kos",
        "rule", "code", "status", "outcome", "reason", "peer", "door", "host", "port", "count", "bytes", "seconds",
        "attempts", "until", "path", "url", "version", "state", "segment", "exit_status", "exception", "slug", "error",
        "text", "setting",
    }
)  # fmt: skip


# What a line of the standard library's logging may bring: its `process` would be the number of ours.
_EXTRA = ALLOWED - {"process"}


class _Named:
    """Says which process speaks: asked at each line, for loggers outlive the fork that makes another one of it."""

    process = ""

    def __call__(
        self, _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        event["process"] = self.process
        return event


_NAMED = _Named()


def configure(level: str, style: str, process: str) -> None:
    """Set up structlog and the standard library's logging (pynetdicom, uvicorn) for one process."""
    _NAMED.process = process
    logging.basicConfig(level=level.upper(), handlers=[_handler(style)], force=True)
    for chatty in ("pynetdicom", "uvicorn.access", "alembic", "urllib3", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("pydicom").setLevel(
        logging.ERROR
    )  # its warnings quote values, which may be a patient's
    warnings.showwarning = _say_where
    structlog.configure(
        processors=[*_shared(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _say_where(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning of a library may quote what it read: only its kind and place are logged."""
    del message, file, line
    structlog.get_logger(__name__).warning(
        "library_warning", error=category.__name__, path=f"{Path(filename).name}:{lineno}"
    )


def _handler(style: str) -> logging.Handler:
    renderer: Any = structlog.processors.JSONRenderer(ensure_ascii=False)
    if style == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), event_key="action")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_shared(), structlog.stdlib.ExtraAdder(allow=_EXTRA)],
            processors=[
                _name_action,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _only_allowed,
                renderer,
            ],
        )
    )
    return handler


def _shared() -> list[Any]:
    return [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _NAMED,
    ]


def _name_action(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Our own events are actions; a library's line is its `text`, under the action it names or its logger."""
    text = event.pop("event")
    if event.get("_from_structlog"):
        event["action"] = text
    else:
        event.setdefault("action", event.get("logger"))
        event["text"] = text
    return event


def _only_allowed(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    strangers = sorted(key for key in event if key not in ALLOWED)
    for key in strangers:
        del event[key]
    if strangers:
        event["dropped"] = strangers
    return event
