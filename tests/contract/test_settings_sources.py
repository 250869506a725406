"""Where settings come from: the file, variables of the environment, and for secrets a file of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from drimbox.adapters.key_files import UnusableCredential
from drimbox.bootstrap import database_url
from drimbox.entrypoints.configuration import check_configuration
from drimbox.settings.room import ConfigurationError
from drimbox.settings.whole import load_settings, parse_settings
from fixtures.configuration import configuration

SECRET = "p@ss:w/ord%"  # what an address would have to escape


def faults_of(text: str, **variables: str) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        parse_settings(text, variables)
    return refused.value.faults


def test_a_variable_stands_for_a_key(tmp_path: Path) -> None:
    variables = {
        "DRIMBOX_DICOM__PORT": "11999",
        "DRIMBOX_DICOM__CALLING_AE_TITLES": '["CT1", "123"]',
        "DRIMBOX_DICOM__AE_TITLE": "104",
        "DRIMBOX_POLICY__IDEMPOTENT_DELETE": "true",
        "DRIMBOX_LOG__LEVEL": "debug",
        "DRIMBOX_CONFIG": "/elsewhere.toml",
        "HOME": "/root",
    }
    settings = parse_settings(configuration(tmp_path), variables)
    assert settings.dicom.port == 11999
    assert settings.dicom.calling_ae_titles == ("CT1", "123")
    assert settings.dicom.ae_title == "104"
    assert settings.policy.idempotent_delete is True
    assert settings.log.level == "debug"


def test_the_environment_of_the_process_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "drimbox.toml"
    path.write_text(configuration(tmp_path), "utf-8")
    monkeypatch.setenv("DRIMBOX_MLLP__MAX_CONNECTIONS", "7")
    assert load_settings(path).mllp.max_connections == 7


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("DRIMBOX_DICOM__PROT", "1", "dicom.prot ($DRIMBOX_DICOM__PROT): unknown key"),
        ("DRIMBOX_DICON__PORT", "1", "dicon ($DRIMBOX_DICON__PORT): unknown key"),
        ("DRIMBOX_DICOM__PORT", "no", "dicom.port ($DRIMBOX_DICOM__PORT): Input should be a valid integer"),
        ("DRIMBOX_DICOM__CALLING_AE_TITLES", "[1", "not TOML"),
    ],
)
def test_a_wrong_variable_is_named(tmp_path: Path, name: str, value: str, fault: str) -> None:
    (said,) = faults_of(configuration(tmp_path), **{name: value})
    assert said.startswith(fault)


def test_the_password_of_the_database_is_in_a_file_alone(tmp_path: Path) -> None:
    for url in (
        "postgresql+psycopg://box:secret@db/drimbox",
        "postgresql+psycopg://box@db/d?password=secret",
    ):
        (said,) = faults_of(configuration(tmp_path), DRIMBOX_DATABASE__URL=url)
        assert "database.password" in said
        assert "secret" not in said
    (said,) = faults_of(configuration(tmp_path), DRIMBOX_DATABASE__URL="secret")
    assert said.endswith("not a database address")
    path = tmp_path / "password"
    path.write_text(f"{SECRET}\n", "utf-8")
    path.chmod(0o600)
    variables = {
        "DRIMBOX_DATABASE__URL": "postgresql+psycopg://box@db/drimbox",
        "DRIMBOX_DATABASE__PASSWORD": str(path),
    }
    settings = parse_settings(configuration(tmp_path), variables)
    assert make_url(database_url(settings)).password == SECRET
    assert SECRET not in repr(settings)
    path.chmod(0o644)
    with pytest.raises(UnusableCredential, match="others than its owner"):
        database_url(settings)


def test_a_real_server_asks_for_the_password(
    tmp_path: Path, postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server of the tests trusts everybody but this account (scram-sha-256)."""
    admin = create_engine(f"{postgresql}/postgres", isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        rules = Path(str(connection.scalar(text("SHOW hba_file"))))
        before = rules.read_text("utf-8")
        rules.write_text(f"host all guarded 127.0.0.1/32 scram-sha-256\n{before}", "utf-8")
        connection.execute(text("CREATE ROLE guarded LOGIN PASSWORD 'right'"))
        connection.execute(text("CREATE DATABASE guarded OWNER guarded"))
        connection.execute(text("SELECT pg_reload_conf()"))
    admin.dispose()
    password, path = tmp_path / "password", tmp_path / "drimbox.toml"
    path.write_text(configuration(tmp_path), "utf-8")
    address = make_url(postgresql).set(username="guarded", database="guarded").render_as_string()
    monkeypatch.setenv("DRIMBOX_DATABASE__URL", address)
    monkeypatch.setenv("DRIMBOX_DATABASE__PASSWORD", str(password))

    def faults() -> list[str]:
        return [fault for fault in check_configuration(path) if fault.startswith("database.")]

    try:
        assert [fault.partition(": ")[0] for fault in faults()] == ["database.password"]
        for content, expected in (("wrong", 1), ("right", 0)):
            password.write_text(f"{content}\n", "utf-8")
            password.chmod(0o600)
            found = faults()
            assert len(found) == expected
            assert content not in "".join(found)
    finally:
        rules.write_text(before, "utf-8")
