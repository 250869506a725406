"""A probe that flaps fills neither the trace nor the disk."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from drimbox.flow.health_log import ROWS_PER_HOUR, HealthLog


def test_what_flaps_is_told_so_often_in_an_hour_and_then_counted() -> None:
    now = [0.0]
    rows: list[dict[str, Any]] = []
    log = HealthLog(None, lambda: datetime.now(UTC), "health:a", lambda *_: None, monotonic=lambda: now[0])  # type: ignore[arg-type]
    log.tell = lambda event, **detail: rows.append({"event": event, **detail})  # type: ignore[method-assign]
    for _ in range(100):
        log.tell_change("HEALTH_CHANGED", "dmp:connect", after="fail")
    log.tell_change("HEALTH_CHANGED", "psc:connect", after="fail")
    assert len(rows) == ROWS_PER_HOUR + 1
    assert all("repeated" not in row for row in rows)
    now[0] = 3600.0
    log.tell_change("HEALTH_CHANGED", "dmp:connect", after="pass")
    assert rows[-1] == {"event": "HEALTH_CHANGED", "after": "pass", "repeated": 100 - ROWS_PER_HOUR}
    now[0] = 7200.0
    log.tell_change("HEALTH_CHANGED", "dmp:connect", after="fail")
    assert rows[-1] == {"event": "HEALTH_CHANGED", "after": "fail"}
