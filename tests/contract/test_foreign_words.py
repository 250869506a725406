"""What pydicom says of malformed data sets stays in no process that serves: seen at `drimbox web`, by STOW-RS."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from pydicom import config, dcmwrite
from pydicom.charset import convert_encodings
from pydicom.uid import UID
from requests.auth import HTTPBasicAuth

from drimbox.entrypoints.foreign_words import keep_no_words
from drimbox.settings.whole import load_settings
from drimbox.simulators.appliance_files import drimbox_toml
from drimbox.simulators.ports import assign_ports
from drimbox.simulators.viewer_account import ViewerAccount, viewer_account
from fixtures.images import SeriesSpec, StudySpec
from fixtures.kept_pki import kept_pki
from fixtures.notes import note_dataset

PATIENCE = 60.0
SPEC = StudySpec(series=(SeriesSpec("CT", 1, rows=8, columns=8),))


@contextmanager
def web(root: Path) -> Iterator[tuple[str, ViewerAccount, Path]]:
    """A `drimbox web`: its DICOMweb address, an account, and its log."""
    text = drimbox_toml(root, assign_ports(None), kept_pki(root / "pki"))
    (root / "appliance").mkdir()
    (root / "drimbox.toml").write_text(text, "utf-8")
    room, log = load_settings(root / "drimbox.toml").web, root / "web.log"
    command = [sys.executable, "-m", "drimbox", "web", "--config", str(root / "drimbox.toml")]
    with log.open("wb") as words:
        process = subprocess.Popen(command, stderr=words)
    try:
        deadline = time.monotonic() + PATIENCE
        while not answers(room.internal_port):
            assert process.poll() is None, log.read_text("utf-8")
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"http://127.0.0.1:{room.internal_port}/dicomweb", viewer_account(root), log
    finally:
        process.terminate()
        process.wait(PATIENCE)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def malformed(number: int) -> bytes:
    """A rejection note that is kept for what it is, with a character set, a UID and a sex that cannot be."""
    note = note_dataset(SPEC, "113037", [(1, 1)])
    note.SOPInstanceUID = note.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        note.ReferencedSOPClassUIDInFile = f"1.02.{number}.x"
        note.PatientSex = f"sex {number}"
    buffer = io.BytesIO()
    dcmwrite(buffer, note, enforce_file_format=True)
    file = buffer.getvalue()
    assert file.count(b"ISO_IR 192") == 1
    return file.replace(b"ISO_IR 192", b"ISO_IR %03d" % (900 + number))


def test_malformed_instances_by_stow_leave_no_words_behind(tmp_path: Path) -> None:
    with web(tmp_path) as (url, account, log):
        statuses = [
            requests.post(
                f"{url}/studies",
                data=malformed(number),
                headers={"Content-Type": "application/dicom"},
                auth=HTTPBasicAuth(account.name, account.password),
                timeout=30,
            ).status_code
            for number in range(3)
        ]
        said = log.read_text("utf-8")
    assert statuses == [200] * 3, said
    assert "instances_received" in said, "the log is written"
    warned = [line for line in said.splitlines() if json.loads(line).get("action") == "library_warning"]
    assert warned == [], "Python keeps the text of each warning for ever"


def test_nothing_is_remembered_of_what_pydicom_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.WARN)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        remembered = convert_encodings.__globals__.setdefault("__warningregistry__", {})
        remembered.clear()
        keep_no_words()
        convert_encodings(["ISO_IR nonsense"])
        UID("1.02.x")
        kept = [key for key in remembered if key != "version"]
    assert kept == []
    with pytest.warns(UserWarning, match="ours"):
        warnings.warn("ours", UserWarning, stacklevel=1)
