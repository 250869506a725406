"""The images of the homologation exams are proper IODs, angiography and nuclear medicine with frames included."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fixtures.homologation import exam, images_of
from fixtures.images import SeriesSpec, StudySpec, make_study, study_datasets

SEVERAL_FRAMES = StudySpec(series=(SeriesSpec("NM", 1, frames=2), SeriesSpec("XA", 1)))


@pytest.mark.parametrize("spec", [images_of(exam("E"), 105), images_of(exam("N"), 115), SEVERAL_FRAMES])
def test_dciodvfy_finds_no_error(tmp_path: Path, spec: StudySpec) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed")
    for path in make_study(tmp_path, spec):
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, path.name
        assert "Error" not in done.stdout + done.stderr, done.stderr


def test_frames_are_pictures() -> None:
    image, *_others = study_datasets(images_of(exam("N"), 115))
    image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    assert image.pixel_array.shape == (4, 32, 32)
    assert image.pixel_array.max() > 900


def test_frames_of_a_cross_section_are_refused() -> None:
    with pytest.raises(ValueError, match="frames"):
        list(study_datasets(StudySpec(series=(SeriesSpec("CT", 1, frames=2),))))
