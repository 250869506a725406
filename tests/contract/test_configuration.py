"""`drimbox init` and `config check`: a template that names everything, and every fault at once."""

from __future__ import annotations

import json
import re
import shutil
import socket
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drimbox.entrypoints.cli import app
from drimbox.entrypoints.configuration import check_configuration, write_template
from drimbox.settings.dicom import DicomSenderSettings
from drimbox.settings.mllp import SenderSettings
from drimbox.settings.room import ConfigurationError
from drimbox.settings.whole import Settings, load_settings, parse_settings
from drimbox.simulators.world import World
from fixtures.kept_pki import kept_pki

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a simulated world, which can be used as it is."""
    directory = tmp_path_factory.mktemp("world")
    with World(directory):
        pass
    return directory / "drimbox.toml"


@pytest.fixture
def configured(simulated: Path, tmp_path: Path) -> Path:
    """A copy of it, to be edited."""
    return Path(shutil.copy(simulated, tmp_path / "drimbox.toml"))


def edited(path: Path, old: str, new: str) -> list[str]:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    return check_configuration(path)


def test_the_simulated_configuration_has_no_fault(configured: Path) -> None:
    assert check_configuration(configured) == []
    done = RUNNER.invoke(app, ["config", "check", "--config", str(configured), "--json"])
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"faults": [], "warnings": []})


def test_the_template_names_every_setting_and_is_never_overwritten(tmp_path: Path) -> None:
    path = write_template(tmp_path / "box")
    text = path.read_text("utf-8")
    tomllib.loads(text)
    for room, field in Settings.model_fields.items():
        assert f"[{room}]" in text
        for key in field.annotation.model_fields:  # type: ignore[union-attr]
            assert f"{key} =" in text or f"[[{room}.{key}]]" in text
    for key in (*SenderSettings.model_fields, *DicomSenderSettings.model_fields):
        assert f"#{key} =" in text
    with pytest.raises(FileExistsError):
        write_template(tmp_path / "box")
    assert RUNNER.invoke(app, ["init", str(tmp_path / "box")]).exit_code == 1


def test_the_template_can_be_filled_line_by_line(tmp_path: Path) -> None:
    """Without its first character, and with a value where it has none, every line is TOML in its place."""
    text = write_template(tmp_path / "box").read_text("utf-8")
    lines = []
    for line in text.splitlines():
        own = line[1:] if re.match(r"#(\[\[|\w+ =)", line) else line
        lines.append(f'{own} "filled"' if own.endswith("=") else own)
    filled = tomllib.loads("\n".join(lines))
    assert set(filled) == set(Settings.model_fields)
    for room, field in Settings.model_fields.items():
        assert set(filled[room]) == set(field.annotation.model_fields)  # type: ignore[union-attr]
    assert [set(sender) for sender in filled["mllp"]["senders"]] == [set(SenderSettings.model_fields)]
    assert [set(sender) for sender in filled["dicom"]["senders"]] == [set(DicomSenderSettings.model_fields)]


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
    pki = kept_pki(configured.parent / "pki")
    leaf = pki.issue("AUTH_CLI", "drimbox-simulee", "1750803447", expired=True)
    leaf.write(configured.parent / "pki", "expired")
    old, new = settings.psc.client_certificate, configured.parent / "pki" / "expired.pem"
    faults = edited(configured, f'client_certificate = "{old}"', f'client_certificate = "{new}"')
    assert any("expired" in fault for fault in faults)


def test_the_tls_door_of_reports_is_checked(configured: Path) -> None:
    """Its certificate serves a server, its authority is one, its port is its own."""
    mllp = load_settings(configured).mllp
    text = configured.read_text("utf-8")
    head, _, rest = text.partition("[mllp]")
    room, _, tail = rest.partition("\n\n")
    client = str(mllp.tls_certificate).replace("appliance_server", "ris_auth")
    room = (
        room.replace(str(mllp.tls_certificate), client)
        .replace(str(mllp.tls_client_authority), client)
        .replace(f"tls_port = {mllp.tls_port}", f"tls_port = {mllp.port}")
    )
    configured.write_text(f"{head}[mllp]{room}\n\n{tail}", "utf-8")
    faults = check_configuration(configured)
    wrong = "this is an ORG AUTH_CLI certificate"
    assert f"mllp.tls_certificate: {wrong}, a server one is needed (extKeyUsage lacks serverAuth)" in faults
    assert "mllp.tls_certificate: the key does not match the certificate" in faults
    assert any(
        f.startswith(f"mllp.tls_client_authority: ris-simule: {wrong}, an authority's") for f in faults
    )
    assert f"mllp.tls_port: {mllp.port} is already the port of mllp.port" in faults


def test_a_taken_tls_port_is_said(configured: Path) -> None:
    mllp = load_settings(configured).mllp
    with socket.create_server((mllp.host, mllp.tls_port)):
        faults = check_configuration(configured)
    assert [fault.split(":")[0] for fault in faults] == ["mllp.tls_port"]


def test_senders_that_can_never_get_in_are_said(configured: Path) -> None:
    text = configured.read_text("utf-8")
    rows = [
        '{ name = "far", addresses = ["10.0.0.5"] }',
        f'{{ name = "pinned", addresses = ["127.0.0.1"], certificate_sha256 = "{"AB:" * 31}CD" }}',
        '{ name = "first", addresses = ["127.0.0.0/8"] }',
        '{ name = "second", addresses = ["127.0.0.1"], application = "RIS" }',
    ]
    text = re.sub(r"senders = .*", f"senders = [{', '.join(rows)}]", text)
    configured.write_text(re.sub(r"tls_port = \d+", "tls_port = 0", text), "utf-8")
    done = RUNNER.invoke(app, ["config", "check", "--config", str(configured), "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["faults"] == [
        "mllp.senders.0 (far): can never get in: none of its addresses can reach mllp.host 127.0.0.1",
        "mllp.senders.1 (pinned): can never get in: it has a certificate_sha256, and there is no mllp.tls_port",
        "mllp.senders.3 (second): every message of it is taken for one of first, which stands before it",
    ]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (
            'name = "RIS", addresses = ["127.0.0.1", "::1"]',
            'name = "RIS", addresses = ["10.0.0.300"]',
            "mllp.senders.0.addresses",
        ),
        (
            'name = "RIS", addresses = ["127.0.0.1", "::1"]',
            'name = "RIS", addresses = []',
            "mllp.senders.0.addresses",
        ),
        ('name = "RIS"', 'name = "RIS", certificate_sha256 = "ab"', "mllp.senders.0.certificate_sha256"),
        ('name = "RIS"', 'name = "RIS", not_tolerated = ["typo"]', "mllp.senders.0.not_tolerated"),
        ('name = "RIS"', 'name = "RIS", typo = 1', "mllp.senders.0.typo: unknown key"),
        ("tls_key = ", "#", "mllp: Value error, tls_port needs tls_key"),
    ],
)
def test_what_is_wrong_with_a_sender_is_said(configured: Path, old: str, new: str, fault: str) -> None:
    assert [found[: len(fault)] for found in edited(configured, old, new)] == [fault]


def test_senders_of_images_are_checked(configured: Path) -> None:
    good = [
        '{ ae_title = "CT1", addresses = ["127.0.0.1", "10.0.0.0/8"] }',
        '{ ae_title = "CT1", addresses = ["::1"] }',
        '{ ae_title = "PACS" }',
    ]
    titles = "calling_ae_titles = "
    assert edited(configured, titles, f"senders = [{', '.join(good)}]\n{titles}") == []
    bad = [
        '{ ae_title = "A\\\\B", addresses = ["10.0.0.300"], certificate_sha256 = ["ab"] }',
        "{ }",
    ]
    faults = edited(configured, ", ".join(good), ", ".join(bad))
    assert [fault.partition(": ")[0] for fault in faults] == [
        "dicom.senders.0.ae_title",
        "dicom.senders.0.addresses",
        "dicom.senders.0.certificate_sha256",
        "dicom.senders.1.ae_title",
    ]
    pinned = f'{{ ae_title = "CT1", certificate_sha256 = ["{"AB:" * 31}CD"] }}'
    assert edited(configured, ", ".join(bad), pinned) == [
        "dicom: Value error, senders.0 (CT1) has a certificate_sha256, and there is no tls_port"
    ]


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
