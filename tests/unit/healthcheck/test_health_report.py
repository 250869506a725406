"""What results say of the whole, and what is told of them to whom."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from healthcheck.probe import Outcome, ProbeResult, Status, summarise
from healthcheck.report import DamagedReport, decode, encode, full_report, public_body

AT = datetime(2026, 11, 22, 6, 0, tzinfo=UTC)
PASS, WARN, FAIL = Status
VITAL = frozenset({"database:write"})


def result(name: str = "database:write", status: Status = PASS, **changes: Any) -> ProbeResult:
    given = {
        "name": name, "kind": "datastore", "period": 15.0, "outcome": Outcome(status, "", 3.2, "ms"), "at": AT,
        "instant": 1000.0, "seconds": 0.003,
    }  # fmt: skip
    return ProbeResult(**(given | changes))


@pytest.mark.parametrize(
    ("results", "instant", "expected"),
    [
        ((), 1000.0, FAIL),
        ((result(), result("dmp:connect")), 1000.0, PASS),
        ((result(), result("dmp:connect", WARN)), 1000.0, WARN),
        ((result(), result("dmp:connect", FAIL)), 1000.0, WARN),
        ((result(status=WARN), result("dmp:connect")), 1000.0, WARN),
        ((result(status=FAIL), result("dmp:connect")), 1000.0, FAIL),
        ((result(), result("dmp:connect")), 1045.0, PASS),
        ((result(), result("dmp:connect")), 1045.1, FAIL),
        ((result(), result("dmp:connect", period=60.0)), 1045.0, PASS),
        ((result(instant=1040.0), result("dmp:connect")), 1050.0, FAIL),
        ((result(instant=1040.0), result("dmp:connect", FAIL, instant=1040.0)), 1050.0, WARN),
    ],
)
def test_the_worst_counts_and_what_is_old_fails(
    results: tuple[ProbeResult, ...], instant: float, expected: Status
) -> None:
    assert summarise(results, instant, VITAL) is expected


@pytest.mark.parametrize(("status", "word"), [(PASS, "pass"), (WARN, "warn"), (FAIL, "fail")])
def test_anybody_learns_one_word(status: Status, word: str) -> None:
    assert json.loads(public_body(status)) == {"status": word}


def test_an_operator_learns_everything() -> None:
    failed = result("worker:heartbeat", outcome=Outcome(FAIL, "the worker is silent", 90, "s"))
    report = full_report((failed, result()), 1002.5, VITAL, releaseId="1.2", description="node-a")
    assert report == {
        "status": "warn", "releaseId": "1.2", "description": "node-a",
        "checks": {
            "database:write": [{
                "status": "pass", "componentType": "datastore", "observedValue": 3.2, "observedUnit": "ms",
                "time": "2026-11-22T06:00:00.000Z", "ageSeconds": 2.5, "tookSeconds": 0.003, "vital": True,
            }],
            "worker:heartbeat": [{
                "status": "fail", "componentType": "datastore", "observedValue": 90, "observedUnit": "s",
                "output": "the worker is silent", "time": "2026-11-22T06:00:00.000Z", "ageSeconds": 2.5,
                "tookSeconds": 0.003, "vital": False,
            }],
        },
    }  # fmt: skip


def test_a_stale_check_says_so() -> None:
    (check,) = full_report((result(),), 1100.0, VITAL)["checks"]["database:write"]
    assert (check["status"], check["output"]) == ("fail", "not looked at for 100 s; then: pass")


@given(
    st.lists(
        st.builds(
            ProbeResult,
            st.text(max_size=20),
            st.sampled_from(["component", "datastore", "system"]),
            st.floats(0.1, 4000),
            st.builds(
                Outcome,
                st.sampled_from(Status),
                st.text(max_size=300),
                st.none() | st.integers() | st.text() | st.floats(allow_nan=False),
                st.text(max_size=5),
            ),
            st.datetimes(timezones=st.just(UTC)),
            st.floats(0, 1e9),
            st.floats(0, 100),
        ),
        max_size=5,
    )
)
def test_results_travel_whole(results: list[ProbeResult]) -> None:
    assert decode(encode(results)) == tuple(results)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[1]", b"[[]]", b'[["a"]]', b'[["a","b",1,9,"","","","x",1,1]]', b"\xff"]
)
def test_what_is_no_report_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedReport):
        decode(data)
