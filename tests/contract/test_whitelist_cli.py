"""`drimbox whitelist verify/show/refresh/import/prove` as testers and operators use them, on the official lists too."""

from __future__ import annotations

import base64
import json
import re
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner, Result

from drimbox.bootstrap import lay_foundation
from drimbox.entrypoints.cli import app
from drimbox.settings.whole import load_settings
from drimbox.simulators.appliance_files import drimbox_toml
from drimbox.simulators.faults import Faults
from drimbox.simulators.lists import AnsPublisher
from drimbox.simulators.ports import assign_ports
from fixtures.certificates import NOW
from fixtures.kept_pki import kept_pki
from fixtures.list_authorities import make_authorities, make_crl, make_signer
from fixtures.whitelists import sign_list, write_list

CURRENT = "LISTEBLANCHE_DRIM-M_SIGNEE_TEST.xml"
OLDER = "LISTEBLANCHE_DRIM-M_SIGNEE_TEST.2025.08.08.xml"
UNSIGNED = "LISTEBLANCHE_DRIM-M_NONSIGNEE_TEST.xml"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["whitelist", *map(str, arguments)])


def outcomes(result: Result) -> dict[int, str]:
    return {step["number"]: step["outcome"] for step in json.loads(result.stdout)["steps"]}


@pytest.fixture
def anchors(official: Path, tmp_path: Path) -> Path:
    """The TEST authorities of the IGC Santé as files, taken out of the current list (drim-m-data 2.3)."""
    text = (official / "whitelist" / CURRENT).read_text("utf-8")
    _leaf, intermediate, root = re.findall(r"<ds:X509Certificate>([^<]+)<", text)
    directory = tmp_path / "anchors"
    directory.mkdir()
    for name, content in (("aci.cer", intermediate), ("acr.cer", root)):
        (directory / name).write_bytes(base64.b64decode("".join(content.split())))
    return directory


@pytest.mark.parametrize(
    ("name", "more", "status", "failed"),
    [
        (CURRENT, (), 0, []),
        (CURRENT, ("--crl", "require"), 1, [11]),
        (OLDER, (), 1, [9]),
        (OLDER, ("--at", "2025-08-10"), 0, []),
        (OLDER, ("--at", "2025-08-10T12:00:00+02:00"), 0, []),
        (UNSIGNED, (), 1, [3]),
    ],
)
def test_the_official_lists(
    official: Path, anchors: Path, name: str, more: tuple[str, ...], status: int, failed: list[int]
) -> None:
    at = () if "--at" in more else ("--at", "2026-11-21")
    done = run("verify", official / "whitelist" / name, "--anchors", anchors, *at, *more, "--json")
    assert done.exit_code == status, done.output
    assert [number for number, outcome in outcomes(done).items() if outcome == "failed"] == failed


def test_a_crl_that_cannot_be_had_is_said(official: Path, anchors: Path) -> None:
    done = run(
        "verify", official / "whitelist" / CURRENT, "--anchors", anchors, "--at", "2026-11-21", "--json"
    )
    assert outcomes(done)[11] == "warned"
    done = run("verify", official / "whitelist" / CURRENT, "--anchors", anchors, "--at", "2026-11-21")
    assert "no CRL" in done.stdout
    assert "accepted at 2026-11-21" in done.stdout


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """A list of ours with its authorities and CRLs beside it, good at `NOW`."""
    authorities = make_authorities()
    for holder, name in ((authorities.root, "root"), (authorities.intermediate, "aci")):
        (tmp_path / f"{name}.pem").write_bytes(holder.certificate.public_bytes(Encoding.PEM))
        (tmp_path / f"{name}.crl").write_bytes(make_crl(holder).public_bytes(Encoding.PEM))
    path = tmp_path / "list.xml"
    path.write_bytes(sign_list(write_list(), make_signer(authorities), authorities))
    return path


def test_crls_beside_the_anchors_are_used(signed: Path) -> None:
    done = run(
        "verify", signed, "--anchors", signed.parent, "--at", NOW.isoformat(), "--crl", "require", "--json"
    )
    assert done.exit_code == 0, done.output
    assert outcomes(done)[11] == "held"


def test_the_other_environment_is_refused(signed: Path) -> None:
    done = run(
        "verify",
        signed,
        "--anchors",
        signed.parent,
        "--at",
        NOW.isoformat(),
        "--environment",
        "production",
        "--json",
    )
    assert done.exit_code == 1
    assert outcomes(done)[9] == "failed"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--at", "yesterday"), 2, "no date"),
        (("--crl", "never"), 2, "require or prefer"),
        (("--environment", "home"), 2, "test or production"),
    ],
)
def test_wrong_usage(signed: Path, arguments: tuple[str, ...], status: int, words: str) -> None:
    done = run("verify", signed, "--anchors", signed.parent, *arguments)
    assert (done.exit_code, words in done.output) == (status, True)


def test_a_directory_without_authorities(signed: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run("verify", signed, "--anchors", tmp_path / "empty")
    assert done.exit_code == 1
    assert "0 root and 0 intermediate" in done.output


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """An appliance that never retrieved a list; nobody publishes one."""
    pki = kept_pki(tmp_path / "pki")
    path = tmp_path / "drimbox.toml"
    path.write_text(drimbox_toml(tmp_path, assign_ports(None), pki), "utf-8")
    (tmp_path / "appliance").mkdir()
    foundation = lay_foundation(load_settings(path))
    foundation.database.migrate()
    foundation.database.close()
    return path


def test_a_publisher_that_cannot_be_reached(config: Path) -> None:
    done = run("refresh", "--config", config)
    assert done.exit_code == 1
    assert "NEVER -> NEVER" in done.stdout
    assert "connect" in done.output
    shown = json.loads(run("show", "--json", "--config", config).stdout.splitlines()[-1])
    assert (shown["state"], shown["alert"], shown["exchanges"]) == ("NEVER", "error", False)
    assert "NEVER" in run("show", "--config", config).stdout
    proved = run("prove", "--config", config)
    assert (proved.exit_code, "no list was ever accepted" in proved.output) == (1, True)


def test_a_list_by_hand(config: Path, tmp_path: Path) -> None:
    pki = kept_pki(tmp_path / "pki")
    publisher = AnsPublisher(pki, Faults(), lambda: datetime.now(UTC))
    good, bad = tmp_path / "good.xml", tmp_path / "bad.xml"
    good.write_bytes(publisher.content().body)
    bad.write_bytes(publisher.content("tampered").body)
    text = config.read_text("utf-8").replace(
        'environment = "test"', 'environment = "test"\ncrl_policy = "prefer"'
    )
    config.write_text(text, "utf-8")
    refused = run("import", bad, "--config", config)
    assert (refused.exit_code, "NEVER -> NEVER" in refused.stdout) == (1, True)
    taken = run("import", good, "--config", config)
    assert taken.exit_code == 0, taken.output
    assert "NEVER -> CURRENT" in taken.stdout
    proved = run("prove", "--out", tmp_path / "proof", "--config", config)
    assert proved.exit_code == 0, proved.output
    with zipfile.ZipFile(proved.stdout.splitlines()[-1]) as found:
        assert {"LISTE.xml", "RAPPORT.json", "PREUVE.xml", "LISEZMOI.txt"} <= set(found.namelist())
        assert found.read("LISTE.xml") == good.read_bytes()
