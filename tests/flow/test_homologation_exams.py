"""The 26 exams of the homologation session (drim-m-data 10, 12) as one story, in ORU and in MDM form.

Each form has an appliance of its own: the identifiers are those of the ANS in both. `pytest -s` shows the table.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep
from typing import Any, get_args

import pydicom
import pytest

from drimbox.simulators.multipart_reader import boundary_of, read_parts
from fixtures import homologation
from fixtures.homologation import EXAMS, Action, Cancel, End, Exam, Form, Push, Reject, Send, exam, study_uid

PATIENT = "279035121518989^^^&1.2.250.1.213.1.4.10&ISO^NH"
STAGE_SECONDS = 30.0
ROOT = Path(__file__).resolve().parent.parent.parent
OFFICIAL = Path(os.environ.get("DRIMBOX_OFFICIAL_DATA", ROOT.parent / "shared" / "data")) / "hl7"
# The ANS's own files of the session that are here, by form and report; the order of W goes with both forms.
FILES = {
    ("ORU", "J"): "CR_J-ORU.hl7",
    ("MDM", "G1_MAJ"): "CR_G1_MAJ-MDM.hl7",
    ("ORU", "W_Suppression"): "CR_W_Suppression-OMI.hl7",
    ("MDM", "W_Suppression"): "CR_W_Suppression-OMI.hl7",
}
PLACEHOLDERS = {
    "applicationSupplier": "RIS",
    "facilitySupplier": "CIM",
    "applicationReceiver": "DRIMBOX",
    "facilityReceiver": "CIM",
}
# The same exams, said in another form: what differs between the two is in the reader's own tests.
FORMS = [
    pytest.param(form, form, id=form, marks=pytest.mark.soak if form == "MDM" else ())
    for form in get_args(Form)
]
pytestmark = pytest.mark.parametrize(("appliance", "form"), FORMS, indirect=["appliance"], scope="module")
ACK_OF = {"NW": "T02", "RO": "T10", "CA": "T04"}


@dataclass
class Story:
    """All exams, stage by stage and side by side; `acks` by name of the message."""

    appliance: Any
    form: Form
    files: dict[int, list[Path]] = field(default_factory=dict)
    acks: dict[str, bytes] = field(default_factory=dict)
    official: set[str] = field(default_factory=set)
    listed: dict[str, set[str]] = field(default_factory=dict)

    def play(self) -> None:
        for number in range(max(len(one.stages) for one in EXAMS)):
            stages = [(one, one.stages[number]) for one in EXAMS if number < len(one.stages)]
            self.push([(one, action) for one, stage in stages for action in stage.actions])
            for one, stage in stages:
                for action in stage.actions:
                    self.send(one, action)
            self.wait({study: end for _, stage in stages for study, end in stage.ends.items()})

    def push(self, actions: list[tuple[Exam, Action]]) -> None:
        """One storescu for the images and the notes of all exams."""
        files: list[Path] = []
        for one, action in actions:
            if isinstance(action, Push):
                made = self.files.get(action.study) or self.make(one, action.study)
                files += made[action.first : action.last]
            elif isinstance(action, Reject):
                directory = self.appliance.stage.directory / "notes" / one.letter
                files.append(homologation.note_of(one, action, directory))
        if files:
            self.appliance.push(files)

    def make(self, one: Exam, study: int) -> list[Path]:
        self.files[study] = self.appliance.make_exam(homologation.images_of(one, study))
        return self.files[study]

    def send(self, one: Exam, action: Action) -> None:
        if isinstance(action, Send):
            ours = homologation.message_of(one, action, self.form, f"{self.form}-{action.name}"[:20])
            self.acks[action.name] = self.appliance.send(self.theirs(action.name) or ours)
        elif isinstance(action, Cancel):
            name = f"{one.letter}_Suppression"
            self.acks[name] = self.appliance.send(
                self.theirs(name) or homologation.cancellation_of(one, action)
            )

    def theirs(self, name: str) -> bytes | None:
        """The ANS's own message, with its placeholders filled as the test tool fills them."""
        path = OFFICIAL / FILES.get((self.form, name), "none")
        if not path.is_file():
            return None
        text = path.read_bytes()
        for placeholder, value in PLACEHOLDERS.items():
            text = text.replace(b"{{%s}}" % placeholder.encode(), value.encode())
        text = text.replace(b"{{idMessage}}", f"{self.form}-{name}"[:20].encode())
        assert b"{{" not in text
        self.official.add(name)
        return text

    def wait(self, ends: Mapping[int, End]) -> None:
        """Until every study stands as expected, or the time is over: the table will tell."""
        deadline = monotonic() + STAGE_SECONDS
        while monotonic() < deadline and self.look(ends) != dict(ends):
            sleep(0.3)

    def look(self, studies: Mapping[int, End]) -> dict[int, End]:
        """How these studies stand now, in the words of `End`."""
        held: dict[str, list[dict[str, Any]]] = {}
        for document in self.appliance.stage.control("/control/dmp/documents"):
            for reference in document["reference_ids"]:
                if document["type_code"].startswith("IMG-KOS") and "studyInstanceUID" in reference:
                    held.setdefault(reference.split("^")[0], []).append(document)
        return {number: self.seen(number, held.get(study_uid(number), [])) for number in studies}

    def seen(self, number: int, documents: list[dict[str, Any]]) -> End:
        shown = self.appliance.exam(study_uid(number)) or {"manifest": {"status": "unknown"}, "rule": None}
        last = documents[-1] if documents else None
        return End(
            instances=len(self.instances(last["unique_id"])) if last else 0,
            accessions=tuple(r.split("^")[0] for r in last["reference_ids"] if r.endswith(":accession"))
            if last
            else (),
            manifest=shown["manifest"]["status"],
            rule=shown["rule"],
            documents=tuple(document["status"] for document in documents),
            confidentiality=tuple(code.split("^")[0] for code in last["confidentiality"]) if last else (),
        )

    def instances(self, kos_uid: str) -> set[str]:
        """SOP Instance UIDs that a manifest at the DMP lists."""
        if kos_uid not in self.listed:
            kos = pydicom.dcmread(io.BytesIO(self.appliance.content(kos_uid)))
            self.listed[kos_uid] = {
                str(ref.ReferencedSOPInstanceUID)
                for evidence in kos.CurrentRequestedProcedureEvidenceSequence
                for series in evidence.ReferencedSeriesSequence
                for ref in series.ReferencedSOPSequence
            }
        return self.listed[kos_uid]

    def documents(self, number: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.appliance.documents(study_uid(number))
        return found

    def fetch(self, number: int, kos_uid: str, file: Path | None = None) -> tuple[int, str, int]:
        """WADO-RS of a study or of one image: status, slug of the refusal, number of parts."""
        path = f"/studies/{study_uid(number)}"
        if file is not None:
            image = pydicom.dcmread(file, stop_before_pixels=True)
            path += f"/series/{image.SeriesInstanceUID}/instances/{image.SOPInstanceUID}"
        status, headers, body = self.appliance.curl(
            path, f"Authorization: Bearer {self.appliance.token()}", f"KOS-SOPInstanceUID: {kos_uid}"
        )
        if status != 200:
            return status, json.loads(body)["type"], 0
        return status, "", len(list(read_parts(iter([body]), boundary_of(headers["content-type"]))))


@pytest.fixture(scope="module")
def story(form: Form, appliance: Any) -> Iterator[Story]:
    played = Story(appliance, form)
    played.play()
    yield played


def words(end: End) -> str:
    """An end state in one line."""
    hidden = "+".join(code.removeprefix("INVISIBLE_")[:7] for code in end.confidentiality)
    why = f" ({end.rule})" if end.rule else ""
    documents, accessions = " ".join(end.documents), ",".join(end.accessions)
    return (
        f"{end.manifest}{why}, {end.instances} images, {accessions}, {hidden}, DMP: {documents or 'nothing'}"
    )


def test_each_exam_ends_as_the_session_expects(story: Story) -> None:
    expected = {number: end for one in EXAMS for number, end in one.stages[-1].ends.items()}
    seen = story.look(expected)
    print(f"\n{story.form}: exam -> expected -> seen")
    for one in EXAMS:
        for number in one.studies:
            verdict = "holds" if seen[number] == expected[number] else "DIFFERS"
            print(f"{one.letter} {number} {verdict:7} {one.scenario} [{one.clause}]")
            print(f"      -> {words(expected[number])}\n      -> {words(seen[number])}")
    assert {n: words(end) for n, end in seen.items()} == {n: words(end) for n, end in expected.items()}
    assert seen == expected


def test_each_message_was_acknowledged_and_no_more(story: Story) -> None:
    """AA alone: ACK_RECEPTION = Y of V, W and X asks a ZAM, which is not sent by default (hl7-mss 1.5)."""
    sent = [a for one in EXAMS for stage in one.stages for a in stage.actions if isinstance(a, Send)]
    assert len(story.acks) == len(sent) + 1
    for action in sent:
        head, acknowledged, *more = story.acks[action.name].split(b"\r")
        event = "R01" if story.form == "ORU" else ACK_OF[action.operation]
        assert head.split(b"|")[8] == f"ACK^{event}^ACK".encode()
        assert acknowledged == b"MSA|AA|" + f"{story.form}-{action.name}"[:20].encode()
        assert more == [b""]
    assert b"ACK^O23^ACK" in story.acks["W_Suppression"]
    assert story.acks["W_Suppression"].split(b"\r")[1] == b"MSA|AA|001"


def test_the_official_messages_took_part(story: Story) -> None:
    if not OFFICIAL.is_dir():
        pytest.skip("official inputs are absent: set DRIMBOX_OFFICIAL_DATA")
    assert story.official == {name for form, name in FILES if form == story.form}


def test_every_manifest_is_of_the_patient_and_names_its_successor(story: Story) -> None:
    for one in EXAMS:
        for number in one.studies:
            documents = story.documents(number)
            assert {document["patient_id"] for document in documents} == {PATIENT}
            for older, newer in pairwise(documents):
                assert older["replaced_by"] == newer["unique_id"]
            assert not documents[-1]["replaced_by"]


def test_nothing_was_published_twice(story: Story) -> None:
    """One transaction of the DMP for each step: TD2.1a per study, TD2.1b per replacement, TD3.3c per withdrawal."""
    transactions = [r["transaction"] for r in story.appliance.stage.control("/control/dmp/requests")]
    ends = [end for one in EXAMS for end in one.stages[-1].ends.values()]
    assert transactions.count("TD2.1a") == len(ends) == 27
    assert transactions.count("TD2.1b") == sum(end.documents.count("Deprecated") for end in ends)
    assert transactions.count("TD3.3c") == sum(end.manifest == "unpublished" for end in ends)


def test_f_each_study_has_its_own_request(story: Story) -> None:
    for number in exam("F").studies:
        (document,) = story.documents(number)
        kos = pydicom.dcmread(io.BytesIO(story.appliance.content(document["unique_id"])))
        assert [str(r.AccessionNumber) for r in kos.ReferencedRequestSequence] == [f"ACN{number}"]
        assert [str(r.PlacerOrderNumberImagingServiceRequest) for r in kos.ReferencedRequestSequence] == [
            f"OPN{number}"
        ]
        assert any(code.split("^")[0] == "MR" for code in document["event_codes"])  # sent as RM
        assert story.fetch(number, document["unique_id"]) == (200, "", 2)


@pytest.mark.parametrize(("letter", "modality"), [("C", "CT"), ("E", "NM"), ("M", "NM"), ("N", "XA")])
def test_a_partner_gets_every_image(story: Story, letter: str, modality: str) -> None:
    (number,) = exam(letter).studies
    (document,) = story.documents(number)
    assert any(code.split("^")[0] == modality for code in document["event_codes"])
    parts = sum(series.instances for series in exam(letter).series)
    assert story.fetch(number, document["unique_id"]) == (200, "", parts)


@pytest.mark.parametrize(("letter", "number"), [("I", 110), ("W", 124)])
def test_what_was_unpublished_is_gone_for_partners(story: Story, letter: str, number: int) -> None:
    (document,) = story.documents(number)
    assert exam(letter).studies == (number,)
    assert story.fetch(number, document["unique_id"]) == (410, "kos-unpublished", 0)
    events = [event["event"] for event in story.appliance.trace(study_uid(number))]
    assert ("WITHDRAWAL_ASKED" if letter == "W" else "REPORT_WITHDRAWN") in events


def test_u_the_rejected_image_is_not_served(story: Story) -> None:
    older, newer = story.documents(122)
    rejected, *kept = story.files[122]
    assert story.instances(newer["unique_id"]) == {
        str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID) for file in kept
    }
    assert story.fetch(122, newer["unique_id"], rejected) == (404, "instance-not-shared", 0)
    assert story.fetch(122, newer["unique_id"], kept[0]) == (200, "", 1)
    assert story.fetch(122, older["unique_id"]) == (404, "kos-replaced", 0)


def test_q_only_the_last_of_three_manifests_serves(story: Story) -> None:
    first, second, last = (document["unique_id"] for document in story.documents(118))
    assert [len(story.instances(kos)) for kos in (first, second, last)] == [2, 3, 4]
    assert story.fetch(118, first) == story.fetch(118, second) == (404, "kos-replaced", 0)
    assert story.fetch(118, last) == (200, "", 4)
    history = [step["status"] for step in story.appliance.exam(study_uid(118))["history"]]
    assert history == ["replaced", "replaced", "published"]


def test_g_two_reports_stay_known(story: Story) -> None:
    reports = {
        r["id"]: (r["version"], r["operation"]) for r in story.appliance.exam(study_uid(108))["reports"]
    }
    root = homologation.REPORTS
    assert reports == {f"{root}.408": (1, "NW"), f"{root}.4072": (2, "RO")}
    assert "REPORT_REPLACED" in [event["event"] for event in story.appliance.trace(study_uid(108))]
