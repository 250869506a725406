"""Keys that the service manager hands over (`credential:NAME`), and what a unit checks before it starts."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drimbox.entrypoints.cli import app
from drimbox.entrypoints.configuration import check_configuration
from drimbox.entrypoints.credentials_in_use import DOOR_USES
from drimbox.entrypoints.supervisor import DOORS
from drimbox.settings.room import ConfigurationError
from drimbox.settings.whole import load_settings
from drimbox.simulators.appliance_files import drimbox_toml
from drimbox.simulators.pki import Pki
from drimbox.simulators.ports import assign_ports
from fixtures.kept_pki import kept_pki

NAME = "drimbox.web.key"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("credentials") / "pki")


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pki: Pki) -> Iterator[Path]:
    """The directory of the credentials of this process, with one of them."""
    directory = tmp_path / "credentials"
    directory.mkdir()
    (directory / NAME).write_bytes(pki.key("appliance_server").read_bytes())
    (directory / NAME).chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    yield directory


@pytest.fixture
def config(tmp_path: Path, pki: Pki) -> Path:
    """A configuration whose web key is a credential."""
    text = drimbox_toml(tmp_path, assign_ports(None), pki)
    own = f'key = "{pki.key("appliance_server")}"'
    room = text[text.index("[web]") :]
    path = tmp_path / "drimbox.toml"
    path.write_text(text.replace(room, room.replace(own, f'key = "credential:{NAME}"', 1)), "utf-8")
    (tmp_path / "appliance").mkdir()
    return path


def test_a_credential_is_a_file_of_this_process(given: Path, config: Path) -> None:
    assert load_settings(config).web.key == given / NAME
    assert check_configuration(config) == []


def test_one_that_was_not_given_is_refused_by_its_name(given: Path, config: Path) -> None:
    (given / NAME).unlink()
    assert check_configuration(config) == [
        f"web.certificate: credential {NAME} was not given to this process: see LoadCredential= of its unit"
    ]


def test_without_credentials_commands_still_read_the_configuration(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`drimbox exams list` by an operator needs no key; `config check` says which one is missing."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert load_settings(config).web.key is not None
    (fault,) = check_configuration(config)
    assert fault.startswith(f"web.certificate: credential {NAME}: $CREDENTIALS_DIRECTORY is not set")


@pytest.mark.parametrize("name", ["", "..", "../drimbox.toml", "/etc/passwd", "a b", ".hidden"])
def test_a_credential_has_a_plain_name(given: Path, config: Path, name: str) -> None:
    config.write_text(config.read_text("utf-8").replace(f"credential:{NAME}", f"credential:{name}"), "utf-8")
    with pytest.raises(ConfigurationError, match=r"web\.key: .*credential:NAME"):
        load_settings(config)


def test_a_door_is_checked_while_the_others_run(given: Path, config: Path) -> None:
    """Before `drimbox mllp` starts, the ports of the others are taken, and their keys not given to it."""
    (given / NAME).unlink()
    settings = load_settings(config)
    with ExitStack() as running:
        for port in (settings.dicom.port, settings.web.public_port, settings.web.internal_port):
            running.enter_context(socket.create_server(("127.0.0.1", port)))
        assert len(check_configuration(config)) == 4
        assert check_configuration(config, "mllp") == []
        assert check_configuration(config, "worker") == []
        assert len(check_configuration(config, "web")) == 3
        (fault,) = check_configuration(config, "dicom")
        assert fault.startswith("dicom.port: ")


def test_a_check_makes_no_database(given: Path, config: Path) -> None:
    """Made by the operator who checks, it would be closed to the account of the doors."""
    settings = load_settings(config)
    settings.storage.root.mkdir()
    for url in (settings.storage.root, settings.storage.root.parent):
        text = config.read_text("utf-8").replace(settings.database.url, f"sqlite:///{url}/new.sqlite")
        config.write_text(text, "utf-8")
        assert check_configuration(config) == []
        assert not (url / "new.sqlite").exists()


def test_two_doors_on_one_port_are_said_to_the_second(given: Path, config: Path) -> None:
    settings = load_settings(config)
    text = config.read_text("utf-8").replace(str(settings.web.internal_port), str(settings.dicom.port))
    config.write_text(text, "utf-8")
    assert any("is already the port of" in fault for fault in check_configuration(config, "web"))


def test_every_door_knows_what_it_uses() -> None:
    assert set(DOOR_USES) == set(DOORS)


def test_the_command_takes_a_door_that_exists(given: Path, config: Path) -> None:
    check = ["config", "check", "--config", str(config), "--door"]
    assert CliRunner().invoke(app, [*check, "web"]).exit_code == 0
    assert CliRunner().invoke(app, [*check, "window"]).exit_code == 2
    assert os.environ["CREDENTIALS_DIRECTORY"] == str(given)
