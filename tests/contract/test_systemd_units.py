"""The units: what systemd itself says of them, and what they promise about our own graces and keys."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from drimbox.entrypoints import prefork
from drimbox.entrypoints.supervisor import DOORS
from drimbox.settings.dicom import DicomSettings
from drimbox.settings.dmp import DmpSettings

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "systemd"
PROGRAM = "/opt/drimbox/bin/drimbox"
WORST = 1.5  # exposure, of 10, by `systemd-analyze security`


@pytest.fixture(scope="module")
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    return found


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units, with a program that this machine has."""
    for unit in (*UNITS.glob("*.service"), *UNITS.glob("*.target")):
        text = unit.read_text("utf-8").replace(PROGRAM, sys.executable)
        (tmp_path / unit.name).write_text(text, "utf-8")
    return tmp_path


def settings_of(door: str) -> dict[str, list[str]]:
    """Every setting of a unit, with its values."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / f"drimbox-{door}.service").read_text("utf-8").splitlines():
        if match := re.fullmatch(r"([A-Za-z]+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def test_systemd_finds_no_fault(analyze: str, installed: Path) -> None:
    units = sorted(map(str, installed.iterdir()))
    assert len(units) == 5
    done = subprocess.run([analyze, "verify", "--man=no", *units], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("door", DOORS)
def test_systemd_finds_little_exposed(analyze: str, installed: Path, door: str) -> None:
    command = [analyze, "security", "--offline=true", str(installed / f"drimbox-{door}.service")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert level is not None, done.stderr
    assert float(level[1]) <= WORST


@pytest.mark.parametrize("door", DOORS)
def test_a_unit_checks_and_runs_its_own_door(door: str) -> None:
    unit = settings_of(door)
    configured = "--config /etc/drimbox/drimbox.toml"
    assert unit["ExecStartPre"] == [f"{PROGRAM} config check --door {door} {configured}"]
    assert unit["ExecStart"] == [f"{PROGRAM} {door} {configured}"]
    assert (unit["Type"], unit["Restart"], unit["User"]) == (["notify"], ["always"], ["drimbox"])
    assert unit["PartOf"] == unit["WantedBy"] == ["drimbox.target"]
    assert f"drimbox-{door}.service" in (UNITS / "drimbox.target").read_text("utf-8")


def test_all_units_are_hardened_alike() -> None:
    own = {
        "Description",
        "ExecStartPre",
        "ExecStart",
        "WatchdogSec",
        "TimeoutStopSec",
        "LoadCredential",
        "Nice",
    }
    alike = [{key: value for key, value in settings_of(door).items() if key not in own} for door in DOORS]
    assert alike == [alike[0]] * len(DOORS)
    assert "ReadWritePaths" not in alike[0]
    assert alike[0]["StateDirectory"] == ["drimbox"]


def test_who_waits_for_an_answer_comes_first() -> None:
    assert {door: settings_of(door).get("Nice") for door in DOORS} == dict.fromkeys(DOORS) | {"web": ["-5"]}


def test_systemd_waits_longer_than_we_do() -> None:
    def default(room: type[DicomSettings | DmpSettings], name: str) -> float:
        return float(room.model_fields[name].default)

    exchange = default(DmpSettings, "connect_timeout") + default(DmpSettings, "answer_timeout")
    ours = {
        "dicom": 10.0 + 2 * default(DicomSettings, "idle_timeout"),
        "mllp": 2 * 20.0,
        "web": prefork.STOP_SECONDS,
        "worker": 2 * exchange + 13.0,
    }
    for door, seconds in ours.items():
        (allowed,) = settings_of(door)["TimeoutStopSec"]
        assert float(allowed) > seconds


def test_the_guide_names_every_credential() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    names = {name for door in DOORS for name in settings_of(door)["LoadCredential"]}
    assert [name for name in sorted(names) if f"`{name}`" not in readme] == []
