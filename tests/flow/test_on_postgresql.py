"""The same story with the facts in PostgreSQL, and with the algorithms of the sample accepted in 2023."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from fixtures.images import SeriesSpec, StudySpec
from fixtures.reports import ReportSpec, make_cda, make_mdm

SIMULATE = ["--accept-sha1"]
STUDY = "1.2.250.1.999.1.901"  # of the default report


@pytest.fixture(scope="module")
def edit_config(postgresql: str) -> Callable[[str], str]:
    """PostgreSQL instead of SQLite, SHA-1 instead of SHA-256."""
    name = f"story_{uuid.uuid4().hex}"
    engine = create_engine(f"{postgresql}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()

    def edit(config: str) -> str:
        config, urls = re.subn(r'url = "sqlite:[^"]*"', f'url = "{postgresql}/{name}"', config)
        config, profiles = re.subn(r"\[dmp\]\n", '[dmp]\ncompatibility = "sha1"\n', config)
        assert (urls, profiles) == (1, 1)
        return config

    return edit


def test_one_exam_on_postgresql(appliance: Any) -> None:
    spec = StudySpec(
        study_instance_uid=STUDY, accession="ACN901", patient_id="IPP901", series=(SeriesSpec("CR", 2),)
    )
    appliance.push(appliance.make_exam(spec))
    report = ReportSpec()
    ack = appliance.send(make_mdm(make_cda(report), report, control_id="PG-1"))
    assert b"ACK^T02^ACK" in ack
    assert b"MSA|AA|PG-1" in ack
    exam = appliance.published(STUDY)
    (document,) = appliance.documents(STUDY)
    assert (document["status"], document["unique_id"]) == ("Approved", exam["manifest"]["sop_instance_uid"])
    status, headers, body = appliance.curl(
        f"/studies/{STUDY}",
        f"Authorization: Bearer {appliance.token()}",
        f"KOS-SOPInstanceUID: {exam['manifest']['sop_instance_uid']}",
    )
    assert (status, int(headers["content-length"])) == (200, len(body))
    assert [event["event"] for event in appliance.trace(STUDY)].count("CLAIMED") == 1
