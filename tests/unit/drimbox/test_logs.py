"""Logs: one JSON object a line, always an action, never a key that could hold patient data."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog
from pydicom import DataElement

from drimbox.adapters import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, shown = root.handlers[:], root.level, warnings.showwarning
    yield
    root.handlers[:], root.level = handlers, level
    warnings.showwarning = shown
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_our_events_are_actions(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json", "dicom")
    structlog.get_logger("ours").info("instance_received", study="1.2.3")
    (line,) = lines(capsys)
    assert (line["action"], line["study"], line["process"], line["level"]) == (
        "instance_received",
        "1.2.3",
        "dicom",
        "info",
    )


def test_what_could_name_a_patient_is_dropped_and_the_slip_shows(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json", "mllp")
    structlog.get_logger("ours").info("report_received", patient_name="PAT-TROIS", ins="279035121518989")
    (line,) = lines(capsys)
    assert line["dropped"] == ["ins", "patient_name"]
    assert "PAT-TROIS" not in json.dumps(line)


def test_a_library_line_has_an_action_too(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json", "web")
    logging.getLogger("library").warning("something %s", "happened")
    logging.getLogger("ours").warning("closed", extra={"action": "mllp_closed", "peer": "127.0.0.1"})
    first, second = lines(capsys)
    assert (first["action"], first["text"]) == ("library", "something happened")
    assert (second["action"], second["peer"]) == ("mllp_closed", "127.0.0.1")


def test_a_value_that_a_library_warns_of_stays_out(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json", "dicom")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = logs._say_where  # catch_warnings put Python's own in its place
        DataElement("PatientID", "LO", "PAT-TROIS" * 10)
    (line,) = lines(capsys)
    assert (line["action"], line["error"]) == ("library_warning", "UserWarning")
    assert "PAT-TROIS" not in json.dumps(line)
