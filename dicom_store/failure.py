"""How a door says that something of ours failed: the kind and the place, never the message, which may quote data."""

from __future__ import annotations

import logging
import traceback


def log_failure(
    log: logging.Logger, what: str, error: Exception, *, action: str, study: str | None = None
) -> None:
    """One line of what failed and the kind of the error, then where. `action`: a stable name for programs."""
    place = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s: %s\n%s", what, type(error).__name__, place, extra={"action": action, "study": study})
