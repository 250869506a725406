"""The guide's own messages 01, 02, 03 (create, replace, withdraw): in order, out of order, each sent twice.

Documented answers: hl7-mss 1.6. The three carry LF terminators, base64 without padding, one MSH-10 (015) and no IPP;
their INS is of the test authority that the simulated configuration accepts. Each order has an appliance of its own.
"""

from __future__ import annotations

import io
import json
import sqlite3
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pydicom
import pytest

from fixtures.images import SeriesSpec, StudySpec

Name = Literal["01", "02", "03"]
STUDY = "1.3.6.1.4.1.5962.99.1.3711725607.829148806.1687338938407.3.0"
ROOT = "1.2.250.1.71.4.2.2.120456789"
INS = "279035121518989"
FILES: dict[Name, str] = {
    "01": "01_mdm_t02_img_init_v21.er7",
    "02": "02_mdm_t10_img_replace_v21.er7",
    "03": "03_mdm_t04_img_delete_v21.er7",
}
EVENTS: dict[Name, str] = {"01": "T02", "02": "T10", "03": "T04"}
# Without IPP in the report, images are tied to it by an INS as PatientID and by the accession number.
IMAGES = StudySpec(
    study_instance_uid=STUDY, accession="7252295367250056", patient_id=INS, series=(SeriesSpec("CT", 3),)
)
HIDDEN = ["N", "INVISIBLE_PATIENT", "INVISIBLE_REPRESENTANTS_LEGAUX"]
SETTLED_TABLES = ("exam", "report", "report_study", "report_parent", "submission")


@dataclass(frozen=True)
class Step:
    """One message and what must follow. `row`: of the state table, in the trace; `error`: ERR-3 and ERR-5 of an AE.

    `documents`: status of the manifests at the DMP, oldest first; `visible`: confidentiality of the last one;
    `reports`: last arc of the current reports.
    """

    message: Name
    row: str
    documents: tuple[str, ...]
    reports: tuple[str, ...]
    manifest: str
    visible: list[str] = field(default_factory=lambda: ["N"])
    error: tuple[bytes, bytes] | None = None
    warning: str | None = None


_UNKNOWN = (b"207", b"906")
_CREATED = Step("01", "new", ("Approved",), ("71024000081",), "published", HIDDEN)
_REPLACED = Step("02", "replacement", ("Deprecated", "Approved"), ("71024000082",), "published")
_ORPHAN = Step(
    "02", "orphan-replacement", ("Approved",), ("71024000082",), "published", warning="orphan-replacement"
)
_WARNED = "deletion-other-content"  # the CDA of the deletion is not the one of the replacement
ORDERS: dict[str, tuple[Step, ...]] = {
    "create, replace, withdraw": (
        _CREATED,
        _REPLACED,
        Step("03", "deletion-other-content", ("Deprecated", "Deleted"), (), "unpublished", warning=_WARNED),
        # what comes again after the end changes nothing
        Step("01", "again-superseded", ("Deprecated", "Deleted"), (), "unpublished", warning="replay-superseded"),
        Step("02", "again-withdrawn", ("Deprecated", "Deleted"), (), "unpublished", warning="replay-withdrawn"),
    ),
    "withdraw, replace, create, withdraw": (
        Step("03", "", (), (), "none", [], error=_UNKNOWN),
        _ORPHAN,
        Step("01", "new", ("Approved",), ("71024000082",), "published"),  # superseded from the start
        Step("03", "deletion-other-content", ("Deleted",), (), "unpublished", warning=_WARNED),
    ),
    "create, withdraw, replace": (
        _CREATED,
        Step("03", "", ("Approved",), ("71024000081",), "published", HIDDEN, error=_UNKNOWN),
        _REPLACED,
    ),
}  # fmt: skip
pytestmark = pytest.mark.parametrize(
    ("appliance", "order"),
    [
        pytest.param(o, o, id=o, marks=pytest.mark.soak if o == "create, withdraw, replace" else ())
        for o in ORDERS
    ],
    indirect=["appliance"],
    scope="module",
)


@dataclass
class Story:
    """The messages of one order as they were answered, and what stood after each."""

    appliance: Any
    official: Path

    def send(self, message: Name) -> bytes:
        ack: bytes = self.appliance.send((self.official / "hl7" / FILES[message]).read_bytes())
        return ack

    def rows(self, table: str) -> list[dict[str, Any]]:
        settings = tomllib.loads(Path(self.appliance.stage.config).read_text("utf-8"))
        with sqlite3.connect(settings["database"]["url"].removeprefix("sqlite:///")) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY rowid")]

    def everything(self) -> dict[str, Any]:
        """The ledger but for the inbox and the trace, the exam as it is shown, what the DMP holds and was asked."""
        return {
            **{table: self.rows(table) for table in SETTLED_TABLES},
            "exams show": self.appliance.exam(STUDY),
            "documents": self.appliance.documents(STUDY),
            "requests": len(self.appliance.stage.control("/control/dmp/requests")),
        }

    def quiet(self) -> dict[str, Any]:
        """Everything, once no exam is due and no lot unfinished, and nothing moves any more."""
        deadline, seen = time.monotonic() + 20, self.everything()
        while time.monotonic() < deadline:
            time.sleep(0.3)  # more than a turn of the worker's
            before, seen = seen, self.everything()
            if seen == before and all(exam["reconcile_at"] is None for exam in seen["exam"]):
                return seen
        raise AssertionError(f"never quiet: {seen}")

    def until(self, step: Step) -> list[dict[str, Any]]:
        """The documents of the DMP, once they stand as the step says."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            documents: list[dict[str, Any]] = self.appliance.documents(STUDY)
            known = self.appliance.exam(STUDY)["manifest"]["status"]
            if (tuple(d["status"] for d in documents), known) == (step.documents, step.manifest):
                return documents
            time.sleep(0.2)
        raise AssertionError(f"after {step.message}: {documents}, {self.appliance.exam(STUDY)}")

    def told(self, name: str) -> list[dict[str, Any]]:
        """Details of the trace rows of that name, of any study."""
        return [json.loads(row["detail"]) for row in self.rows("trace") if row["event"] == name]


@pytest.fixture(scope="module")
def edit_config() -> Callable[[str], str]:
    """The three files say CONNEXION_SECRETE = Y: nothing leaves unless its VIHF code is configured."""
    return lambda text: text.replace("[dmp]\n", '[dmp]\nsecret_connection_code = "SECRET-TEST"\n')


@pytest.fixture(scope="module")
def story(appliance: Any, official: Path) -> Iterator[Story]:
    appliance.push(appliance.make_exam(IMAGES))
    appliance.refused_for(STUDY, "no-report")
    yield Story(appliance, official)


def check_answer(ack: bytes, step: Step) -> None:
    """hl7-mss 1.8: MSA-2 is the one MSH-10 of the three files; ERR-3 and ERR-5 of a refusal."""
    head, acknowledged, *more = ack.split(b"\r")
    assert head.split(b"|")[8] == f"ACK^{EVENTS[step.message]}^ACK".encode()
    assert acknowledged.split(b"|")[:3] == [b"MSA", b"AE" if step.error else b"AA", b"015"]
    codes = [tuple(segment.split(b"|")[n].split(b"^")[0] for n in (3, 5)) for segment in more if segment]
    assert codes == ([step.error] if step.error else [])


def check_trace(story: Story, step: Step, *, repeated: bool) -> None:
    if step.error:
        assert story.told("REPORT_REFUSED")[-1]["code"].startswith(b"/".join(step.error).decode())
        return
    event = "REPORT_REPEATED" if repeated or step.row.startswith("again") else "REPORT_RECEIVED"
    detail = story.told(event)[-1]
    if not repeated:
        assert detail["row"] == step.row
        assert step.warning is None or step.warning in detail["warnings"]


def test_each_message_does_what_the_state_table_says_and_nothing_more_when_it_comes_again(
    story: Story, order: str
) -> None:
    for step in ORDERS[order]:
        check_answer(story.send(step.message), step)
        documents = story.until(step)
        check_trace(story, step, repeated=False)
        stands = story.quiet()
        assert [r["id"].rpartition(".")[2] for r in stands["exams show"]["reports"]] == list(step.reports)
        if documents:
            assert [code.split("^")[0] for code in documents[-1]["confidentiality"]] == step.visible
            assert {document["patient_id"].split("^")[0] for document in documents} == {INS}
        again = story.send(step.message)
        check_answer(again, step)
        check_trace(story, step, repeated=True)
        after = story.quiet()
        assert {name: was for name, was in stands.items() if after[name] != was} == {}


def test_partners_see_the_end_of_the_story(story: Story, order: str) -> None:
    """The last manifest serves its three images, or is gone."""
    last = ORDERS[order][-1]
    kos = story.appliance.exam(STUDY)["manifest"]["sop_instance_uid"]
    status, _headers, body = story.appliance.curl(
        f"/studies/{STUDY}", f"Authorization: Bearer {story.appliance.token()}", f"KOS-SOPInstanceUID: {kos}"
    )
    if last.manifest == "published":
        manifest = pydicom.dcmread(io.BytesIO(story.appliance.content(kos)))
        (evidence,) = manifest.CurrentRequestedProcedureEvidenceSequence
        assert [len(s.ReferencedSOPSequence) for s in evidence.ReferencedSeriesSequence] == [3]
        assert (status, manifest.PatientID) == (200, INS)
    else:
        assert (status, json.loads(body)["type"]) == (410, "kos-unpublished")
