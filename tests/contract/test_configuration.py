"""`drimbox init` and `config check`: a template that names everything, and every fault at once."""

from __future__ import annotations

import json
import socket
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drimbox.entrypoints.cli import app
from drimbox.entrypoints.configuration import check_configuration, write_template
from drimbox.settings import ConfigurationError, Settings, load_settings, parse_settings
from drimbox.simulators.pki import make_pki
from drimbox.simulators.world import World

RUNNER = CliRunner()


@pytest.fixture
def configured(tmp_path: Path) -> Iterator[Path]:
    """The configuration of a simulated world, which can be used as it is."""
    with World(tmp_path):
        pass
    yield tmp_path / "drimbox.toml"


def edited(path: Path, old: str, new: str) -> list[str]:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    return check_configuration(path)


def test_the_simulated_configuration_has_no_fault(configured: Path) -> None:
    assert check_configuration(configured) == []
    done = RUNNER.invoke(app, ["config", "check", "--config", str(configured), "--json"])
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"faults": []})


def test_the_template_names_every_setting_and_is_never_overwritten(tmp_path: Path) -> None:
    path = write_template(tmp_path / "box")
    text = path.read_text("utf-8")
    tomllib.loads(text)
    for room, field in Settings.model_fields.items():
        assert f"[{room}]" in text
        for key in field.annotation.model_fields:  # type: ignore[union-attr]
            assert f"{key} =" in text
    with pytest.raises(FileExistsError):
        write_template(tmp_path / "box")
    assert RUNNER.invoke(app, ["init", str(tmp_path / "box")]).exit_code == 1


def test_every_missing_and_unknown_key_is_said_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_settings('[dicom]\nport = 0\ntypo = 1\n[web]\npublic_url = "http://x"')
    faults = caught.value.faults
    assert "dicom.typo: unknown key" in faults
    assert "dicom.ae_title: missing" in faults
    assert "storage: missing" in faults
    assert any(fault.startswith("dicom.port:") for fault in faults)
    assert any("https" in fault for fault in faults)


def test_no_institution_has_a_default() -> None:
    """No default OID, institution, AE title, password or address that leaves the machine."""
    with pytest.raises(ConfigurationError) as caught:
        parse_settings("")
    missing = {fault.split(":")[0] for fault in caught.value.faults}
    assert missing >= {"storage", "database", "dicom", "web", "organisation", "policy", "dmp", "psc"}


def test_a_taken_port_and_a_wrong_certificate_are_both_said(configured: Path) -> None:
    settings = load_settings(configured)
    with socket.create_server((settings.dicom.host, settings.dicom.port)):
        faults = edited(
            configured, str(settings.dmp.signature_certificate), str(settings.dmp.client_certificate)
        )
    assert any(fault.startswith("dicom.port:") for fault in faults)
    assert any(fault.startswith("dmp.signature_certificate:") for fault in faults)


def test_an_expired_certificate_is_said(configured: Path) -> None:
    settings = load_settings(configured)
    pki = make_pki(configured.parent / "pki", datetime.now(UTC))
    leaf = pki.issue("AUTH_CLI", "drimbox-simulee", "1750803447", expired=True)
    leaf.write(configured.parent / "pki", "expired")
    old, new = settings.psc.client_certificate, configured.parent / "pki" / "expired.pem"
    faults = edited(configured, f'client_certificate = "{old}"', f'client_certificate = "{new}"')
    assert any("expired" in fault for fault in faults)


def test_a_missing_file_and_an_unreachable_database_are_said(configured: Path) -> None:
    settings = load_settings(configured)
    configured.write_text(
        configured.read_text("utf-8")
        .replace(settings.database.url, "sqlite:////nowhere/drimbox.sqlite")
        .replace(str(settings.web.key), str(settings.web.key) + ".absent"),
        "utf-8",
    )
    faults = check_configuration(configured)
    assert any(fault.startswith("database.url:") for fault in faults)
    assert any(fault.startswith("web.certificate:") for fault in faults)


def test_no_configuration_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = RUNNER.invoke(app, ["exams", "list"])
    assert done.exit_code == 1
    assert "no configuration" in str(done.exception)
