"""`drimbox kos`: make, show and check a manifest without a server. Exit 0 done, 1 refused, 2 wrong usage."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from dicom_store.study import StudySnapshot
from drimbox.domain import kos
from drimbox.domain.cda import read_cda
from drimbox.domain.errors import ReportRefused
from drimbox.domain.exam import RULES, ExamFacts, Policy, ReportFacts
from drimbox.domain.identifiers import INS_AUTHORITIES
from drimbox.domain.kos_content import retrieve_base
from drimbox.domain.report import Organization, Report
from drimbox.domain.violations import Violation, errors
from drimbox.entrypoints.configuration import NoConfiguration, find_configuration
from drimbox.entrypoints.image_directory import ImageDirectory, UnusableImages, read_directory
from drimbox.settings.whole import Settings, load_settings

kos_app = typer.Typer(help="The manifest of a study (KOS).", no_args_is_help=True)

MAX_MANIFEST_BYTES = 64 * 1024 * 1024
_FileArgument = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="DICOM file.")]
_JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@kos_app.callback()
def _kos() -> None:
    """The manifest of a study (KOS)."""


@kos_app.command("build")
def build(
    images: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Directory of one study.")],
    report: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Its report, a CDA.")],
    out: Annotated[Path, typer.Option(help="File to write; never overwritten.")],
    base: Annotated[
        str | None, typer.Option(help="Retrieve URL base; the configured one by default.")
    ] = None,
) -> None:
    """Make the manifest of a study from its images and its report."""
    settings = _configured()
    address = base or default_base()
    if address is None:
        _refuse("no Retrieve URL base: give --base URL or a configuration", status=2)
    try:
        retrieve_base(address)
    except ValueError as error:
        _refuse(str(error), status=2)
    study = _read_images(images)
    facts = _read_report(report, _time_zone(settings))
    _cross_check(study, facts)
    data = _manifest(study, facts, address, settings)
    try:
        with out.open("xb") as file:
            file.write(data)
    except OSError as error:
        _refuse(f"{out}: {error.strerror}", status=1)
    typer.echo(f"{out}: {len(study.instances)} instances of {len(study.series)} series, {len(data)} bytes")


@kos_app.command("show")
def show(file: _FileArgument, as_json: _JsonOption = False) -> None:
    """What a manifest says."""
    try:
        manifest = kos.read_manifest(_read(file))
    except kos.NotAManifest as error:
        _refuse(f"{file}: {error}", status=1)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(manifest), ensure_ascii=False, default=datetime.isoformat))
        return
    for line in _lines(manifest):
        typer.echo(line)


@kos_app.command("check")
def check(file: _FileArgument, as_json: _JsonOption = False) -> None:
    """Every violation of the IOD, of TID 2010 and of the DRIM-M profile, with its clause."""
    found = kos.check_manifest(_read(file))
    if as_json:
        rows = [dataclasses.asdict(violation) for violation in found]
        typer.echo(json.dumps({"errors": len(errors(found)), "violations": rows}, ensure_ascii=False))
    else:
        _print_violations(found, to_stderr=False)
        typer.echo(f"{len(errors(found))} errors, {len(found) - len(errors(found))} warnings")
    if errors(found):
        _refuse(f"{file}: not a manifest that may be published", status=1)


def default_base() -> str | None:
    """Retrieve URL base of the configuration, None without one. Raises `ConfigurationError` if faulty."""
    settings = _configured()
    return settings.web.public_url if settings else None


def _configured() -> Settings | None:
    """Settings of the configuration that other commands would use; None without any."""
    try:
        return load_settings(find_configuration(None))
    except NoConfiguration:
        return None


def _time_zone(settings: Settings | None) -> str:
    return settings.policy.time_zone if settings else "Europe/Paris"


def _read_images(directory: Path) -> StudySnapshot:
    try:
        found: ImageDirectory = read_directory(directory)
    except UnusableImages as error:
        _refuse(str(error), status=1)
    for count, kind in ((found.ignored, "files are no DICOM instances"), (found.copies, "files are copies")):
        if count:
            typer.echo(f"{count} {kind}: left out", err=True)
    return found.study


def _read_report(path: Path, time_zone: str) -> Report:
    reading = read_cda(path.read_bytes(), time_zone=time_zone)
    _print_violations(reading.violations, to_stderr=True)
    if reading.report is None:
        _refuse(f"{path}: not a report that can be used", status=1)
    return reading.report


def _cross_check(study: StudySnapshot, report: Report) -> None:
    """The conditions of a publication hold here too: images and report are of one patient and one exam."""
    if study.StudyInstanceUID not in {act.StudyInstanceUID for act in report.studies}:
        _refuse("the report does not document this study", status=1)
    source = ReportFacts(report, "", "", (), destined_to_dmp=True, patient_class="", sender={})
    facts = ExamFacts(study.StudyInstanceUID, study, None, (source,))
    policy = Policy(tuple(INS_AUTHORITIES), "", settle_after=0)
    reasons = [reason for rule in RULES if (reason := rule.broken(facts, policy))]
    if reasons:
        _refuse("\ndrimbox: ".join(reasons), status=1)


def _manifest(study: StudySnapshot, report: Report, base: str, settings: Settings | None) -> bytes:
    try:
        dataset = kos.build_manifest(
            study,
            report,
            requests=kos.requests_for(report, study.AccessionNumbers),
            retrieve_base=base,
            manufacturer=settings.organisation.manufacturer if settings else "DRIMBox",
            institution=_institution(report, study.StudyInstanceUID),
            sop_instance_uid=f"2.25.{uuid.uuid4().int}",
            series_instance_uid=f"2.25.{uuid.uuid4().int}",
            now=datetime.now(UTC),
            time_zone=_time_zone(settings),
        )
    except ReportRefused as error:
        _refuse(error.reason, status=1)
    return kos.encode_manifest(dataset)


def _institution(report: Report, study_instance_uid: str) -> Organization | None:
    """Who performed the act, else who wrote the report."""
    professionals = (report.study(study_instance_uid).performer, *report.authors)
    return next((one.organization for one in professionals if one and one.organization), None)


def _read(file: Path) -> bytes:
    if file.stat().st_size > MAX_MANIFEST_BYTES:
        _refuse(f"{file}: longer than {MAX_MANIFEST_BYTES} bytes", status=1)
    return file.read_bytes()


def _lines(manifest: kos.Manifest) -> Iterable[str]:
    rows: dict[str, Any] = {
        "manifest": manifest.sop_instance_uid,
        "study": manifest.study_instance_uid,
        "patient": f"{manifest.patient_id} ({manifest.patient_issuer or 'no issuer'})",
        "created": manifest.created.isoformat() if manifest.created else "unknown",
        "accessions": ", ".join(f"{one.extension} ({one.root})" for one in manifest.accessions) or "none",
    }
    yield from (f"{name:<11}{value}" for name, value in rows.items())
    for series in manifest.series:
        yield f"{'series':<11}{series.series_instance_uid}: {len(series.instances)} instances"
        yield f"{'':<11}{series.retrieve_url}"
    yield from manifest.description.splitlines()


def _print_violations(found: Iterable[Violation], *, to_stderr: bool) -> None:
    for one in found:
        place = f"{one.where}: " if one.where else ""
        typer.echo(f"{one.severity.value}: {place}{one.message} [{one.rule}; {one.clause}]", err=to_stderr)


def _refuse(reason: str, *, status: int) -> NoReturn:
    typer.echo(f"drimbox: {reason}", err=True)
    raise typer.Exit(status)
