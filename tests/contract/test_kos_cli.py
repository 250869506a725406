"""`drimbox kos`: build from files, show, check; statuses 0, 1, 2 and the reasons on stderr."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from pydicom import dcmread
from typer.testing import CliRunner

from drimbox.entrypoints import configuration as places
from drimbox.entrypoints.kos_cli import default_base, kos_app
from fixtures.configuration import configuration
from fixtures.images import SeriesSpec, StudySpec, make_study
from fixtures.reports import ActSpec, OrderSpec, ReportSpec, make_cda

BASE = "https://db.example.fr/dicom-web-rs"
EXAM = StudySpec(series=(SeriesSpec("CT", 3, "Crâne"), SeriesSpec("CR", 1, "Thorax")))


def kos(*arguments: object) -> Result:
    return CliRunner().invoke(kos_app, [str(argument) for argument in arguments])


class Case:
    """A directory with one exam and its report; `build()` makes `kos.dcm` of them."""

    def __init__(self, directory: Path) -> None:
        self.images, self.report, self.out = (
            directory / name for name in ("images", "report.xml", "kos.dcm")
        )
        make_study(self.images, EXAM)
        self.write_report()

    def write_report(self, **changes: object) -> None:
        self.report.write_bytes(make_cda(replace(ReportSpec(), **changes)))  # type: ignore[arg-type]

    def build(self, *more: object, base: str | None = BASE) -> Result:
        arguments = ["build", "--images", self.images, "--report", self.report, "--out", self.out, *more]
        return kos(*arguments, *(["--base", base] if base else []))


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(places, "PLACES", (Path("drimbox.toml"),))
    return Case(tmp_path)


def test_build_then_check_then_show(case: Case) -> None:
    built = case.build()
    assert (built.exit_code, built.stderr) == (0, "")
    assert "4 instances of 2 series" in built.stdout
    checked = kos("check", case.out)
    assert (checked.exit_code, checked.stdout.strip()) == (0, "0 errors, 0 warnings")
    shown = kos("show", "--json", case.out)
    assert shown.exit_code == 0
    manifest = json.loads(shown.stdout)
    assert manifest["study_instance_uid"] == EXAM.study_instance_uid
    assert manifest["accessions"] == [{"root": OrderSpec().accession_oid, "extension": "ACN901"}]
    assert [len(series["instances"]) for series in manifest["series"]] == [3, 1]
    assert all(series["retrieve_url"].startswith(f"{BASE}/studies/") for series in manifest["series"])
    assert "Acte = CT Head W contrast IV" in kos("show", case.out).stdout


def test_attributes_come_from_the_report_and_the_images(case: Case) -> None:
    case.build()
    dataset = dcmread(case.out)
    assert str(dataset.PatientName) == "PAT-TROIS^DOMINIQUE"
    assert dataset.InstitutionName == "Centre d'imagerie de démonstration^^^^^^^^^1999999999"
    assert (dataset.StudyDate, dataset.StudyDescription) == (EXAM.date, EXAM.description)
    assert dataset.SOPInstanceUID.startswith("2.25.")


def test_two_builds_have_their_own_uids(case: Case) -> None:
    case.build()
    first = dcmread(case.out)
    case.out.unlink()
    case.build()
    second = dcmread(case.out)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID != second.SeriesInstanceUID


def test_other_files_are_left_out_and_counted(case: Case) -> None:
    (case.images / "notes.txt").write_text("not DICOM")
    (case.images / "empty").touch()
    below = case.images / "below"
    make_study(below, replace(EXAM, series=EXAM.series[:1]))
    built = case.build()
    assert built.exit_code == 0
    assert "2 files are no DICOM instances: left out" in built.stderr
    assert "3 files are copies: left out" in built.stderr
    assert "4 instances of 2 series" in built.stdout


def test_an_output_is_never_overwritten(case: Case) -> None:
    case.out.write_bytes(b"mine")
    built = case.build()
    assert built.exit_code == 1
    assert "exists" in built.stderr
    assert case.out.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"acts": (ActSpec(studies=("1.2.3",)),)}, "does not document this study"),
        ({"ipp": "IPP-OF-ANOTHER"}, "PatientID"),
        ({"orders": (OrderSpec(accession="OTHER"),)}, "AccessionNumber"),
    ],
)
def test_images_of_another_patient_or_exam_are_refused(
    case: Case, changes: dict[str, object], reason: str
) -> None:
    case.write_report(**changes)
    built = case.build()
    assert built.exit_code == 1
    assert reason in built.stderr
    assert not case.out.exists()


def test_every_reason_is_given(case: Case) -> None:
    case.write_report(ipp="IPP-OF-ANOTHER", orders=(OrderSpec(accession="OTHER"),))
    stderr = case.build().stderr
    assert "PatientID" in stderr
    assert "AccessionNumber" in stderr


def test_a_report_that_is_none_is_refused_with_its_rule(case: Case) -> None:
    case.report.write_bytes(b"<a/>")
    built = case.build()
    assert built.exit_code == 1
    assert "error: " in built.stderr
    assert not case.out.exists()


def test_several_studies_and_no_study_are_refused(case: Case, tmp_path: Path) -> None:
    make_study(case.images / "other", replace(EXAM, study_instance_uid="1.2.3"))
    built = case.build()
    assert built.exit_code == 1
    assert "2 studies" in built.stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    built = kos("build", "--images", empty, "--report", case.report, "--out", case.out, "--base", BASE)
    assert built.exit_code == 1
    assert "no DICOM instance" in built.stderr


@pytest.mark.parametrize("base", [None, "ftp://db.example.fr/rs", "db.example.fr"])
def test_without_a_usable_base_the_usage_is_wrong(case: Case, base: str | None) -> None:
    built = case.build(base=base)
    assert built.exit_code == 2
    assert "Retrieve URL base" in built.stderr
    assert not case.out.exists()


def test_missing_options_and_files_are_wrong_usage(case: Case, tmp_path: Path) -> None:
    assert kos("build").exit_code == 2
    assert kos("check", tmp_path / "absent").exit_code == 2
    assert kos("show").exit_code == 2


def test_check_lists_every_violation_with_its_clause(case: Case) -> None:
    case.build()
    dataset = dcmread(case.out)
    del dataset.StudyID
    dataset.Modality = "CT"
    dataset.PatientName = "PAT-TROIS"
    dataset.save_as(case.out)
    checked = kos("check", case.out)
    assert checked.exit_code == 1
    assert "error: StudyID: type 2 attribute is missing [missing; PS3.3 C.7.2.1]" in checked.stdout
    assert "error: Modality: must be KO [fixed-value; PS3.3 C.17.6.1]" in checked.stdout
    assert "warning: PatientName:" in checked.stdout
    assert "may be published" in checked.stderr
    as_json = json.loads(kos("check", case.out, "--json").stdout)
    assert as_json["errors"] == 2
    assert {"rule", "message", "where", "clause", "severity"} == set(as_json["violations"][0])


def test_files_that_are_no_manifest(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"nothing")
    assert kos("check", path).exit_code == 1
    shown = kos("show", path)
    assert shown.exit_code == 1
    assert "not a readable DICOM file" in shown.stderr or "PS3.10" in shown.stderr


def test_default_base_is_that_of_the_configuration(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_base() is None
    path = Path("drimbox.toml")
    rooms = {"web": {"public_url": f"{BASE}/"}, "organisation": {"manufacturer": "MAKER"}}
    path.write_text(configuration(Path("data"), **rooms))
    assert default_base() == BASE
    path.rename("elsewhere.toml")
    monkeypatch.setenv("DRIMBOX_CONFIG", "elsewhere.toml")
    built = case.build(base=None)
    assert built.exit_code == 0, built.stderr
    dataset = dcmread(case.out)
    assert dataset.Manufacturer == "MAKER"
    url = dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].RetrieveURL
    assert url.startswith(f"{BASE}/studies/")
