"""A machine that burns, and the one that takes its place: backup, restore, and what the DMP says of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from drimbox.entrypoints.demo_stage import start_appliance
from drimbox.settings.whole import load_settings
from fixtures.images import SeriesSpec, StudySpec
from fixtures.reports import ActSpec, OrderSpec, ReportSpec, make_cda, make_oru

ROOT = "1.2.250.1.999.90"


@dataclass
class Story:
    """What was told before the fire."""

    studies: list[str]
    run: str
    verified: dict[str, Any]
    files: dict[str, dict[str, bytes]]


def study(number: int) -> str:
    return f"{ROOT}.{number}"


def bring(appliance: Any, number: int) -> None:
    spec = StudySpec(
        study_instance_uid=study(number), accession=f"ACN{number}", patient_id="IPP901",
        series=(SeriesSpec("CT", 3),),
    )  # fmt: skip
    report = ReportSpec(
        document_id=f"{ROOT}.9.{number}.1",
        orders=(OrderSpec(accession=f"ACN{number}", placer=f"OPN{number}"),),
        acts=(ActSpec(studies=(study(number),)),),
    )
    appliance.push(appliance.make_exam(spec))
    appliance.send(make_oru(make_cda(report), report))


def images(appliance: Any, uid: str) -> dict[str, bytes]:
    with appliance.foundation() as foundation, foundation.database.reading() as session:
        found = foundation.archive.retrieve(session, uid)
        return {one.ref.SOPInstanceUID: b"".join(foundation.archive.read(one)) for one in found}


def command(appliance: Any, *words: str, status: int = 0) -> dict[str, Any]:
    done = appliance.stage.run(*words, "--json")
    assert done.returncode == status, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


pytestmark = pytest.mark.soak  # the drill itself is in tests/contract/test_backup.py, on both databases


@pytest.fixture(scope="module")
def story(appliance: Any) -> Story:
    """Three exams are public; a backup; then one is withdrawn, everything burns, and is restored."""
    for number in (1, 2, 3):
        bring(appliance, number)
    studies = [study(number) for number in (1, 2, 3)]
    for uid in studies:
        appliance.published(uid)
    backups = str(appliance.stage.directory / "backups")
    made = command(appliance, "backup", backups)
    verified = command(appliance, "verify", "--dmp", "--dmp-rate", "50")
    files = {uid: images(appliance, uid) for uid in studies}
    assert appliance.stage.run("exams", "withdraw", studies[2], "--reason", "test").returncode == 0
    appliance.until(studies[2], lambda exam: exam["manifest"]["status"] == "unpublished")
    burn(appliance)
    restored = command(appliance, "restore", backups)
    assert (restored["run"], restored["verify"]["whole"]) == (made["run"], True)
    return Story(studies, made["run"], verified, files)


def burn(appliance: Any) -> None:
    serving = appliance.stage.processes.pop()
    serving.terminate()
    serving.communicate(timeout=30)
    settings = load_settings(Path(appliance.stage.config))
    shutil.rmtree(settings.storage.root)
    file = Path(settings.database.url.removeprefix("sqlite:///"))
    for one in file.parent.glob(f"{file.name}*"):
        one.unlink()


def test_before_the_fire_the_dmp_agreed(story: Story) -> None:
    assert story.verified["dmp"] == {"looked_up": 3, "left_out": 0, "findings": []}


def test_every_image_is_back(appliance: Any, story: Story) -> None:
    assert [len(images(appliance, uid)) for uid in story.studies] == [3, 3, 3]
    assert {uid: images(appliance, uid) for uid in story.studies} == story.files


def test_the_dmp_agrees_but_for_what_happened_since(appliance: Any, story: Story) -> None:
    found = command(appliance, "verify", "--dmp", "--dmp-rate", "50", status=1)["dmp"]
    (finding,) = found["findings"]
    assert found["looked_up"] == 3
    assert (finding["study"], finding["kind"] in ("absent", "status")) == (story.studies[2], True)
    (row,) = [event for event in appliance.trace(story.studies[2]) if event["event"] == "DMP_DISAGREES"]
    assert row["detail"]["kind"] == finding["kind"]


def test_a_silent_dmp_is_not_taken_for_agreement(appliance: Any, story: Story) -> None:
    appliance.arm("dmp", "http_500")
    found = command(appliance, "verify", "--dmp", "--study", story.studies[0], status=1)["dmp"]
    assert [one["kind"] for one in found["findings"]] == ["unanswered"]


def test_the_restored_appliance_serves(appliance: Any, story: Story) -> None:
    start_appliance(appliance.stage)
    kos = appliance.exam(story.studies[0])["manifest"]["sop_instance_uid"]
    status, _, body = appliance.curl(
        f"/studies/{story.studies[0]}",
        f"Authorization: Bearer {appliance.token()}",
        f"KOS-SOPInstanceUID: {kos}",
        'Accept: multipart/related; type="application/dicom"; transfer-syntax=*',
    )
    assert status == 200
    assert all(data in body for data in story.files[story.studies[0]].values())
