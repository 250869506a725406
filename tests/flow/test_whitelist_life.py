"""The whitelist through the real doors: no fault of the list interrupts, its word that we are absent does, and ends."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from fixtures.images import SeriesSpec, StudySpec
from fixtures.reports import ActSpec, OrderSpec, ReportSpec, make_cda, make_oru

# fault of the ANS publisher -> the first step of the verification that failed, None = nothing came to be verified
FAULTS: dict[str, int | None] = {
    "unreachable": None,
    "unsigned": 3,
    "tampered": 6,
    "wrong_signer": 10,
    "expired_signer": 9,
    "revoked_signer": 11,
    "truncated": 2,
}


def refresh(appliance: Any) -> dict[str, Any]:
    done = appliance.stage.run("whitelist", "refresh", "--json")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == (1 if found["error"] else 0), done.stderr
    return found


def asked(appliance: Any) -> int:
    """What a partner without a token is answered: 401 in the mesh, 503 out of it."""
    return int(appliance.curl("/studies/1.2.3")[0])


def changes(appliance: Any) -> list[tuple[str, str]]:
    with appliance.foundation() as foundation, foundation.database.engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT detail FROM trace WHERE event = 'WHITELIST_STATE' ORDER BY id"
        )
        return [(d["before"], d["after"]) for d in (json.loads(row[0]) for row in rows)]


@pytest.fixture
def current(appliance: Any) -> Any:
    yield appliance
    assert refresh(appliance)["after"] == "CURRENT"


def bring(appliance: Any, number: int) -> str:
    study = f"1.2.250.1.999.5.{number}"
    spec = StudySpec(
        study_instance_uid=study,
        accession=f"ACN{number}",
        patient_id="IPP901",
        series=(SeriesSpec("CT", 2),),
    )
    appliance.push(appliance.make_exam(spec))
    report = ReportSpec(
        document_id=f"1.2.250.1.999.5.9.{number}",
        orders=(OrderSpec(accession=f"ACN{number}", placer=f"OPN{number}"),),
        acts=(ActSpec(studies=(study,)),),
    )
    assert b"MSA|AA" in appliance.send(make_oru(make_cda(report), report))
    return study


def test_it_is_retrieved_at_the_start_and_proved(current: Any) -> None:
    shown = current.stage.ask("whitelist", "show")
    assert (shown["state"], shown["alert"], shown["exchanges"]) == ("CURRENT", "none", True)
    assert [entry["db"] for entry in shown["entries"]] == ["drimbox.localhost"]
    assert shown["list"]["domains"] == 2
    proved = json.loads(
        current.stage.run("whitelist", "prove", "--json", "--out", str(current.stage.directory)).stdout
    )
    assert proved["file"].endswith(".zip")
    assert changes(current)[0] == ("NEVER", "CURRENT")


# The verification itself is tested step by step elsewhere: here one fault of each kind of end, the others in the soak.
KINDS = ("unreachable", "tampered", "revoked_signer")


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=() if fault in KINDS else pytest.mark.soak) for fault in FAULTS]
)
def test_no_fault_of_the_list_interrupts(current: Any, fault: str) -> None:
    """W8: the archive serves; the alert is a warning (an error from 48 h), a revoked signer is critical (5.4)."""
    step, alert = FAULTS[fault], "critical" if fault == "revoked_signer" else "warning"
    current.arm("ans", fault)
    done = refresh(current)
    assert (done["outcome"], done["after"]) == ("FAILED", "STALE")
    failed = [s["number"] for s in (done["report"] or {"steps": []})["steps"] if s["outcome"] == "failed"]
    if step is None:
        assert done["report"] is None
    else:
        assert failed[0] == step
    shown = current.stage.ask("whitelist", "show")
    assert (shown["state"], shown["alert"], shown["exchanges"]) == ("STALE", alert, True)
    assert shown["last_failure"]["reason"]
    assert asked(current) == 401
    assert ("CURRENT", "STALE") in changes(current)


def test_absence_interrupts_and_ends_by_itself_and_nothing_is_lost(current: Any) -> None:
    """W7: only a verified list that does not name us; images and reports are still received."""
    current.arm("ans", "without_us")
    assert refresh(current)["after"] == "ABSENT"
    status, body, deadline = 401, b"", time.monotonic() + 10
    while status == 401 and time.monotonic() < deadline:  # the door looks at the state once a second
        status, _, body = current.curl("/studies/1.2.3")
    assert (status, json.loads(body)["type"]) == (503, "not-in-whitelist")
    assert current.stage.ask("whitelist", "show")["alert"] == "critical"
    assert current.stage.run("status").returncode == 1
    study = bring(current, 801)
    waiting = current.until(study, lambda exam: exam["rule"] == "to-send")
    assert (waiting["manifest"]["status"], waiting["instances"]) == ("prepared", 2)
    assert current.documents(study) == []
    assert refresh(current)["after"] == "CURRENT"
    current.published(study)
    assert [document["status"] for document in current.documents(study)] == ["Approved"]
    assert [change for change in changes(current) if "ABSENT" in change] == [
        ("CURRENT", "ABSENT"),
        ("ABSENT", "CURRENT"),
    ]


def test_a_viewer_of_the_mesh_may_ask_from_its_own_page(current: Any) -> None:
    _, allowed, _ = current.curl("/studies/1.2.3", "Origin: https://vi.partner.localhost")
    assert allowed["access-control-allow-origin"] == "https://vi.partner.localhost"
    _, refused, _ = current.curl("/studies/1.2.3", "Origin: https://evil.example.fr")
    assert "access-control-allow-origin" not in refused
