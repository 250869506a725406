"""docs/segments.md is true: its own commands take an image out of a segment with dd, xxd and dcmtk."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.kept_images import KeptImages

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "segments.md"
BLOCKS = re.findall(r"```\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("dd", "xxd", "dcmdump", "sha256sum"))), reason="a tool is not installed"
)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[KeptImages]:
    made = KeptImages(tmp_path / "box")
    yield made
    made.close()


def shell(script: str, directory: Path, **environment: str) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=directory,
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def block(containing: str) -> str:
    (found,) = [one for one in BLOCKS if containing in one]
    return found


def test_the_first_image_without_a_database(box: KeptImages, tmp_path: Path) -> None:
    study = box.store_exam().study_instance_uid
    first, second = box.records(study)[:2]
    said = shell(block("dd if="), tmp_path, SEGMENT=str(box.segments / first.segment))
    assert (tmp_path / "image.dcm").read_bytes() == box.files(study)[first.sop_instance_uid]
    assert first.sha256 in said
    assert first.sop_instance_uid in said, "dcmdump shows it"
    next_header = said.splitlines()[-3]
    behind = 48 + first.length
    assert next_header.startswith(f"{behind:08x}: 4453 4547 0001 0001"), "DSEG, version 1, kind 1: its JSON"
    assert second.start > behind


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="sqlite3 is not installed")
def test_any_image_with_the_index(box: KeptImages, tmp_path: Path) -> None:
    study = box.store_exam().study_instance_uid
    one = box.records(study)[2]
    (root,) = [box.config.parent]
    said = shell(block("sqlite3"), tmp_path, ROOT=str(root), UID_=one.sop_instance_uid)
    segment, offset, length, sha256 = said.strip().split("|")
    assert (segment, int(offset), int(length), sha256) == (one.segment, one.offset, one.length, one.sha256)
    command = f'dd if="$SEGMENT" of=image.dcm iflag=skip_bytes,count_bytes bs=1M skip={offset} count={length}'
    shell(f"{command}; dcmdump image.dcm", tmp_path, SEGMENT=str(box.segments / segment))
    assert (tmp_path / "image.dcm").read_bytes() == box.files(study)[one.sop_instance_uid]


def test_the_directory_follows_from_the_study(box: KeptImages, tmp_path: Path) -> None:
    study = box.store_exam().study_instance_uid
    digest = shell(f"printf %s {study} | sha256sum", tmp_path)
    assert [name.rpartition("/")[0] for name in box.on_disk()] == [f"{digest[:2]}/{digest[2:4]}/{study}"]


def test_the_document_tells_every_command_and_state() -> None:
    text = DOCUMENT.read_text("utf-8")
    for word in (
        "archive instance",
        "archive compact",
        "archive forget",
        "drimbox verify",
        "sealed",
        "retired",
    ):
        assert word in text
