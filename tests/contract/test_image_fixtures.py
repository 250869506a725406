"""The synthetic exams are proper DICOM: IODs, encodings, identity as asked; and the command that writes them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from fixtures.__main__ import main
from fixtures.images import TRANSFER_SYNTAXES, SeriesSpec, StudySpec, make_study, study_datasets, uid

SPEC = StudySpec(
    study_instance_uid="1.2.250.1.999.1.77",
    series=(
        SeriesSpec("CT", 2, "Crâne"),
        SeriesSpec("MR", 1, number=7, body_part="HEAD"),
        SeriesSpec("CR", 1),
    ),
)


def test_identity_and_hierarchy_are_those_asked(tmp_path: Path) -> None:
    spec = replace(
        SPEC, accession="ACN1", patient_id="IPP1", patient_name="A^B", birth_date="20000101", sex="M"
    )
    paths = make_study(tmp_path / "exam", spec)
    assert [path.name for path in paths] == [
        "0001_00001.dcm",
        "0001_00002.dcm",
        "0007_00001.dcm",
        "0003_00001.dcm",
    ]
    read = [dcmread(path) for path in paths]
    assert {d.StudyInstanceUID for d in read} == {spec.study_instance_uid}
    assert {
        (d.AccessionNumber, d.PatientID, str(d.PatientName), d.PatientBirthDate, d.PatientSex) for d in read
    } == {("ACN1", "IPP1", "A^B", "20000101", "M")}
    assert [(d.Modality, d.SeriesNumber, d.InstanceNumber) for d in read] == [
        ("CT", 1, 1),
        ("CT", 1, 2),
        ("MR", 7, 1),
        ("CR", 3, 1),
    ]
    assert len({d.SOPInstanceUID for d in read}) == 4
    assert len({d.SeriesInstanceUID for d in read}) == 3
    assert read[0].SeriesDescription == "Crâne"


def test_patterns_of_uids() -> None:
    spec = replace(
        SPEC, series_uid_pattern="1.2.250.1.999.2.{series}", sop_uid_pattern="{study}.{series}.{instance}"
    )
    assert (uid(spec, 201), uid(spec, 201, 31)) == ("1.2.250.1.999.2.201", "1.2.250.1.999.1.77.201.31")


@pytest.mark.parametrize("transfer_syntax", TRANSFER_SYNTAXES)
def test_pixels_are_the_phantom_in_every_encoding(tmp_path: Path, transfer_syntax: str) -> None:
    paths = make_study(tmp_path, replace(SPEC, transfer_syntax=transfer_syntax))
    reference = list(study_datasets(SPEC))
    for path, native in zip(paths, reference, strict=True):
        dataset = dcmread(path)
        assert dataset.file_meta.TransferSyntaxUID == TRANSFER_SYNTAXES[transfer_syntax]
        assert np.array_equal(dataset.pixel_array, native.pixel_array)
        assert dataset.pixel_array.min() >= 0
        assert dataset.pixel_array.max() > 900


def test_the_same_specification_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = make_study(tmp_path / "a", SPEC), make_study(tmp_path / "b", SPEC)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize("transfer_syntax", ["explicit", "implicit", "rle"])
def test_dciodvfy_finds_no_error(tmp_path: Path, transfer_syntax: str) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed")
    for path in make_study(tmp_path, replace(SPEC, transfer_syntax=transfer_syntax)):
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, path.name
        assert "Error" not in done.stdout + done.stderr, path.name


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(ValueError, match="transfer syntax"):
        list(study_datasets(replace(SPEC, transfer_syntax="jpeg")))
    with pytest.raises(ValueError, match="modality"):
        list(study_datasets(replace(SPEC, series=(SeriesSpec("US"),))))


def test_command_writes_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "exam"
    status = main(
        [
            "images",
            "--out",
            str(out),
            "--study",
            "1.2.3",
            "--accession",
            "A9",
            "--series",
            "CT:2:T1",
            "--series",
            "MR:1",
        ]
    )
    assert status == 0
    assert "3 files" in capsys.readouterr().out
    read = [dcmread(path) for path in sorted(out.iterdir())]
    assert [(d.Modality, d.SeriesDescription, d.AccessionNumber, d.StudyInstanceUID) for d in read] == [
        ("CT", "T1", "A9", "1.2.3"),
        ("CT", "T1", "A9", "1.2.3"),
        ("MR", "Serie MR", "A9", "1.2.3"),
    ]


@pytest.mark.parametrize(("form", "start"), [("cda", b"<?xml"), ("oru", b"MSH|"), ("mdm", b"MSH|")])
def test_command_writes_a_report(tmp_path: Path, form: str, start: bytes) -> None:
    out = tmp_path / "report"
    arguments = ["report", "--out", str(out), "--study", "1.2.3.4", "--accession", "A9", "--form", form]
    assert main(arguments) == 0
    assert out.read_bytes().lstrip().startswith(start)
    if form == "cda":
        assert b'"1.2.3.4"' in out.read_bytes()
        assert b'"A9"' in out.read_bytes()
    assert main([*arguments, "--framed"]) == 0
    assert out.read_bytes().startswith(b"\x0b")


@pytest.mark.parametrize("arguments", [[], ["images"], ["images", "--out", "x", "--series", "CT"]])
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


def test_module_is_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fixtures", "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert "images" in done.stdout
