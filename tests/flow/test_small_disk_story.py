"""An appliance on a real file system of 96 MiB: every door refuses before it is full, the rest goes on, it recovers."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests
from pynetdicom import AE

from drimbox.bootstrap import utc_now
from drimbox.flow import exams
from drimbox.simulators.still_reactor import still_reactor
from fixtures.images import SeriesSpec, StudySpec
from fixtures.reports import ActSpec, OrderSpec, ReportSpec, make_cda, make_oru
from fixtures.small_disk import MIB, SmallDisk, small_disk

ROOT = "1.2.250.1.999.91"
FLOOR = 32 * MIB


@pytest.fixture(scope="module", autouse=True)
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    """Before the appliance, and after it."""
    with small_disk(tmp_path_factory.mktemp("small") / "disk") as mounted:
        yield mounted


@pytest.fixture(scope="module")
def edit_config(disk: SmallDisk) -> Callable[[str], str]:
    """Images, documents and database on the small disk."""

    def edit(text: str) -> str:
        for wanted, line in (
            (r"minimum_free_bytes = .*", f"minimum_free_bytes = {FLOOR}"),
            (r"root = .*storage.*", f'root = "{disk.root}/storage"'),
            (r"url = .*sqlite.*", f'url = "sqlite:///{disk.root}/drimbox.sqlite"'),
        ):
            text, count = re.subn(f"^{wanted}$", line, text, flags=re.M)
            assert count == 1
        return text

    return edit


class Story:
    """One exam by its number, at each door."""

    def __init__(self, appliance: Any, number: int) -> None:
        self.appliance, self.study = appliance, f"{ROOT}.{number}"
        self.report = ReportSpec(
            document_id=f"{ROOT}.9.{number}.1",
            orders=(OrderSpec(accession=f"ACN{number}", placer=f"OPN{number}"),),
            acts=(ActSpec(studies=(self.study,)),),
        )
        spec = StudySpec(
            study_instance_uid=self.study, accession=f"ACN{number}", patient_id="IPP901",
            series=(SeriesSpec("CT", 2),),
        )  # fmt: skip
        self.files: list[Path] = appliance.make_exam(spec)

    def store(self) -> list[tuple[int, str]]:
        """C-STORE: status and ErrorComment of each."""
        dicom = self.appliance.world["appliance"]["dicom"]
        images = [pydicom.dcmread(file) for file in self.files]
        entity = AE(ae_title="PACS")
        entity.add_requested_context(images[0].SOPClassUID, images[0].file_meta.TransferSyntaxUID)
        association = entity.associate(dicom["host"], dicom["port"], ae_title=dicom["ae_title"])
        assert association.is_established
        answers = []
        for image in images:
            with still_reactor(association):
                answers.append(association.send_c_store(image))
        association.release()
        return [(int(answer.Status), str(answer.get("ErrorComment", ""))) for answer in answers]

    def stow(self) -> requests.Response:
        """STOW-RS."""
        doors, boundary = self.appliance.world["appliance"], uuid.uuid4().hex
        parts = [
            f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + file.read_bytes() + b"\r\n"
            for file in self.files
        ]
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        return requests.post(
            f"{doors['dicomweb']}/studies", data=b"".join(parts) + f"--{boundary}--".encode(), timeout=60,
            headers={"Content-Type": kind, "Accept": "application/dicom+json"},
            auth=(doors["account"]["name"], doors["account"]["password"]),
        )  # fmt: skip

    def say(self) -> bytes:
        """MLLP: the acknowledgement."""
        return bytes(self.appliance.send(make_oru(make_cda(self.report), self.report)))

    def retrieve(self, kos: str) -> int:
        """As a partner."""
        headers = (f"Authorization: Bearer {self.appliance.token()}", f"KOS-SOPInstanceUID: {kos}")
        return int(self.appliance.curl(f"/studies/{self.study}", *headers)[0])


def refusals(appliance: Any, event: str) -> list[Any]:
    with appliance.foundation() as foundation, foundation.transactions.reading() as transaction:
        return [one.detail["code"] for one in transaction.traces.after(0, 10_000) if one.event == event]


def test_refused_before_it_is_full_and_taken_as_soon_as_there_is_room(
    appliance: Any, disk: SmallDisk
) -> None:
    before, late = Story(appliance, 1), Story(appliance, 2)
    assert [status for status, _ in before.store()] == [0, 0]
    assert b"MSA|AA" in before.say()
    kos = appliance.published(before.study)["manifest"]["sop_instance_uid"]

    disk.leave(FLOOR - MIB)
    documents = sorted(path for path in (disk.root / "storage").rglob("*") if path.is_file())
    answers = late.store()
    assert [status for status, _ in answers] == [0xA700, 0xA700]
    assert "free space" in answers[0][1]
    answer = late.stow()
    failed = answer.json()["00081198"]["Value"]
    assert (answer.status_code, "Retry-After" in answer.headers) == (507, True)
    assert [one["00081197"]["Value"] for one in failed] == [[0xA700], [0xA700]]
    assert b"MSA|AR" in late.say()
    posted = appliance.post(make_cda(late.report))
    assert (posted.status_code, posted.json()["type"]) == (507, "insufficient-storage")
    assert "free space" not in json.dumps(posted.json()), "internals are for the operator"
    assert refusals(appliance, "INSTANCE_REFUSED") == ["storage-full"] * 2, "one row for each peer"
    assert refusals(appliance, "REPORT_REFUSED") == ["no-room"] * 2, "MLLP and HTTP"
    now = sorted(path for path in (disk.root / "storage").rglob("*") if path.is_file())
    assert [path for path in now if path not in documents and "audit" not in path.parts] == []

    assert before.retrieve(kos) == 200
    with appliance.foundation() as foundation:
        exams.withdraw_exam(
            foundation.transactions, before.study, now=utc_now(), actor="operator", reason="a test"
        )
    appliance.until(before.study, lambda exam: exam["manifest"]["status"] == "unpublished")
    assert before.retrieve(kos) == 410
    with appliance.foundation() as foundation:
        exams.restore_exam(
            foundation.transactions, before.study, now=utc_now(), actor="operator", reason="a test"
        )
    appliance.published(before.study)

    disk.empty()
    assert [status for status, _ in late.store()] == [0, 0], "without a restart, at the next look"
    assert late.stow().status_code == 200
    assert b"MSA|AA" in late.say()
    assert appliance.post(make_cda(late.report)).status_code in (200, 201)
    appliance.published(late.study)
    assert late.retrieve(appliance.exam(late.study)["manifest"]["sop_instance_uid"]) == 200
