"""`drimbox reports` on real stores: why a message was refused, submitted again after a fix, checked, deleted."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from drimbox.bootstrap import Foundation, lay_foundation, make_reception, make_senders
from drimbox.domain.errors import ReportRefused
from drimbox.domain.senders import admitted
from drimbox.entrypoints.cli import app
from drimbox.flow import exams
from drimbox.flow.keep_report import Arrival
from drimbox.settings.whole import load_settings
from fixtures.configuration import configuration
from fixtures.newest_database import bring_to_newest
from fixtures.reports import ReportSpec, frame, make_cda, make_mdm, make_omi, make_oru, replacement_of

STUDY = "1.2.250.1.999.1.901"  # of the default report
SPEC = ReportSpec()
ORU = make_oru(make_cda(SPEC), SPEC)
ORPHAN = replacement_of(SPEC, "1.2.250.1.999.7.9.2")
REPLACEMENT = make_mdm(make_cda(ORPHAN), ORPHAN, order_control="RO")
PATIENT = (SPEC.birth_family, SPEC.ins, SPEC.ipp)
RIS = {"name": "RIS", "addresses": ["127.0.0.0/8"]}
SETTINGS: dict[str, dict[str, Any]] = {"mllp": {"senders": [RIS]}, "inbox": {"keep_days": 365}}


class Box:
    """One appliance's stores, its doors' reception, and the command line on them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "drimbox.toml"
        self.configure()
        bring_to_newest(self.foundation.database)

    def configure(self, **rooms: dict[str, Any]) -> None:
        self.config.write_text(configuration(self.root, **(SETTINGS | rooms)), "utf-8")
        if hasattr(self, "foundation"):
            self.foundation.database.close()
        self.foundation: Foundation = lay_foundation(load_settings(self.config))

    def hl7(self, message: bytes, age: timedelta = timedelta(minutes=1)) -> bytes | None:
        senders = admitted(make_senders(self.foundation.settings), "127.0.0.1")
        arrival = Arrival(message, "mllp", "127.0.0.1", datetime.now(UTC) - age, senders)
        return make_reception(self.foundation).message(arrival)

    def cda(self, document: bytes, age: timedelta = timedelta(minutes=1)) -> None:
        arrival = Arrival(document, "http", "127.0.0.1", datetime.now(UTC) - age)
        make_reception(self.foundation).document(arrival)

    def run(self, *arguments: object, status: int = 0) -> Result:
        command = ["reports", *map(str, arguments), "--config", str(self.config)]
        done = CliRunner().invoke(app, command, env={"COLUMNS": "400"})
        assert done.exit_code == status, done.output + repr(done.exception)
        return done

    def json(self, *arguments: object, status: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", status=status).stdout)

    def exam(self) -> dict[str, Any]:
        return exams.show_exam(self.foundation.transactions, self.foundation.documents, STUDY, "Europe/Paris")

    def revision(self) -> int:
        with self.foundation.transactions.reading() as transaction:
            exam = transaction.ledger.exam(STUDY)
            return exam.revision if exam else -1


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    box.foundation.database.close()


# -- seen, fixed, submitted again


def test_a_refused_orphan_is_taken_once_the_setting_is_changed(box: Box) -> None:
    box.configure(policy={"orphan_replacement": False})
    assert b"MSA|AE" in (box.hl7(REPLACEMENT) or b"")
    (row,) = box.json("list", "--refused")
    assert (row["kind"], row["code"], row["sender"], row["studies"]) == (
        "MDM^T10",
        "207/900 900",
        "RIS",
        [STUDY],
    )
    shown = box.json("show", row["short"])
    assert shown["todo"]["setting"] == "policy.orphan_replacement"

    refused = box.run("replay", row["short"], status=1)
    assert "MSA|AE|RIS-000902" in refused.stdout
    assert "refused again: the document to replace is not known here" in refused.stderr

    box.configure(policy={"orphan_replacement": True})
    accepted = box.json("replay", row["short"])
    assert (accepted["verdict"], accepted["replay_of"], accepted["door"]) == ("AA", row["id"], "mllp")
    assert "MSA|AA|RIS-000902" in accepted["acknowledgement"]
    (report,) = box.exam()["reports"]
    assert report["id"] == "1.2.250.1.999.7.9.2"
    assert [one["verdict"] for one in box.json("show", row["id"])["replays"]] == ["AA", "AE"]
    assert [one["verdict"] for one in box.json("list", "--study", STUDY)] == ["AA", "AE", "AE"]
    assert "operator" in {event["actor"] for event in exams.trace_exam(box.foundation.transactions, STUDY)}


def test_a_replay_of_what_was_accepted_changes_nothing(box: Box) -> None:
    box.hl7(ORU)
    before = box.revision(), box.exam()
    (row,) = box.json("list")
    done = box.run("replay", row["id"])
    assert "nothing was submitted" in done.stdout
    assert "MSA|AA|RIS-000901" in done.stdout
    assert (box.revision(), box.exam()) == before
    assert len(box.json("list")) == 1


def test_an_old_deletion_order_does_not_undo_what_came_since(box: Box) -> None:
    box.hl7(ORU, timedelta(hours=3))
    box.hl7(make_omi(SPEC), timedelta(hours=2))
    spec = replacement_of(SPEC, "1.2.250.1.999.7.9.2")
    box.hl7(make_oru(make_cda(spec), spec, order_control="RO"), timedelta(hours=1))
    before = box.revision(), box.exam()
    order = next(row for row in box.json("list") if row["kind"] == "OMI^O23")
    assert box.json("replay", order["id"])["submitted"] is False
    assert (box.revision(), box.exam()) == before


def test_a_sender_that_is_gone_from_the_settings(box: Box) -> None:
    box.configure(policy={"orphan_replacement": False})
    box.hl7(REPLACEMENT)
    (row,) = box.json("list")
    box.configure(mllp={"senders": [{"name": "OTHER", "addresses": ["127.0.0.1"]}]})
    done = box.run("replay", row["id"], status=1)
    assert done.stderr == "drimbox: its sender RIS is no longer in mllp.senders: put it back, or send again\n"


def test_a_sender_that_was_not_named_yet(box: Box) -> None:
    box.configure(mllp={"senders": [{**RIS, "application": "SOMEBODY"}]})
    box.hl7(ORU)
    (row,) = box.json("list")
    assert box.json("show", row["id"])["todo"]["setting"] == "mllp.senders"
    box.configure()
    assert box.json("replay", row["id"])["sender"] == "RIS"


def test_a_bare_cda_by_http(box: Box) -> None:
    box.configure(policy={"orphan_replacement": False})
    with pytest.raises(ReportRefused):
        box.cda(make_cda(ORPHAN))
    (row,) = box.json("list")
    assert (row["door"], row["kind"], row["sender"]) == ("http", "CDA", None)
    assert "by HTTP" in box.run("show", row["id"]).stdout
    box.configure()
    done = box.run("replay", row["id"])
    assert "verdict   AA" in done.stdout


# -- shown


def test_the_table_is_for_people(box: Box) -> None:
    box.hl7(ORU.replace(b"ORU^R01^ORU_R01", b"[/red]^[b]^X"))
    box.hl7(ORU)
    done = box.run("list").stdout
    lines = [line for line in done.splitlines() if "mllp" in line]
    assert len(lines) == 2
    assert all(word in lines[0] + lines[1] for word in ("RIS", "ORU^R01", "AA", "AE", STUDY, "[/red]^[b]"))


def test_show_says_all_but_who_the_patient_is(box: Box) -> None:
    spec = replace(SPEC, orders=(), acts=(replace(SPEC.acts[0], studies=()),))
    box.hl7(make_oru(make_cda(spec), spec))
    box.hl7(ORU)
    for row in box.json("list"):
        text = box.run("show", row["id"]).stdout + json.dumps(box.json("show", row["id"]))
        assert not [word for word in PATIENT if word in text]
    taken, refused = (box.run("show", row["id"]).stdout for row in box.json("list"))
    if "verdict   AA" not in taken:
        taken, refused = refused, taken
    assert "to do     nothing: the message was taken" in taken
    assert "report    1.2.250.1.999.7.9.1 version 1 (NW), current" in taken
    assert "bytes, kept" in taken
    assert "\n          MSA|AA|RIS-000901\n" in taken
    assert "to do     have it fixed at the sender, and sent again" in refused
    assert refused.count("\nerror: ") > 1
    assert "\n          ERR||OBX^1^5|" in refused


def test_a_message_without_msh(box: Box) -> None:
    box.hl7(b"hello\r")
    (row,) = box.json("list", "--refused")
    shown = box.run("show", row["id"]).stdout
    assert "kind      unreadable, MSH-10 none" in shown
    assert "verdict   AE 100 hl7-100" in shown
    assert "\n          MSA|AE\n" in shown


def test_an_acknowledgement_was_never_answered(box: Box) -> None:
    assert box.hl7(b"MSH|^~\\&|A|B|C|D|20260914101500||ACK^R01^ACK|1|P|2.5\rMSA|AA|7\r") is None
    (row,) = box.json("list")
    shown = box.run("show", row["id"]).stdout
    assert "answer    none: this message is never answered" in shown
    assert "to do     nothing here" in shown
    assert box.json("replay", row["id"], status=1)["acknowledgement"] is None


def test_patient_data_goes_to_the_file_that_is_named(box: Box) -> None:
    box.hl7(ORU)
    (row,) = box.json("list")
    content, cda = box.root / "message.hl7", box.root / "report.xml"
    done = box.run("show", row["id"], "--content", content, "--cda", cda)
    assert not [word for word in PATIENT if word in done.output]
    assert (content.read_bytes(), cda.read_bytes()) == (ORU, make_cda(SPEC))
    assert {stat.S_IMODE(file.stat().st_mode) for file in (content, cda)} == {0o600}
    again = box.run("show", row["id"], "--content", content, status=1)
    assert again.stderr == f"drimbox: {content} exists: give a new file\n"
    nowhere = box.root / "nowhere" / "x"
    assert str(nowhere) in box.run("show", row["id"], "--cda", nowhere, status=1).stderr


def test_ids_that_nobody_or_several_have(box: Box) -> None:
    for number in range(20):  # two of twenty begin alike
        box.hl7(f"PID|{number}\r".encode())
    first = [row["id"][0] for row in box.json("list")]
    twice = next(letter for letter in first if first.count(letter) > 1)
    for command in ("show", "replay"):
        assert "several messages begin with" in box.run(command, twice, status=1).stderr
        assert "no message zzz is known here" in box.run(command, "zzz", status=1).stderr


def test_damaged_bytes_are_said(box: Box) -> None:
    box.hl7(b"hello\r")
    (row,) = box.json("list")
    digest = box.json("show", row["id"])["content"]["sha256"]
    box.foundation.documents.forget(digest)
    assert "MISSING or changed on disk" in box.run("show", row["id"]).stdout
    assert "cannot be read" in box.run("replay", row["id"], status=1).stderr
    assert "cannot be read" in box.run("show", row["id"], "--content", box.root / "x", status=1).stderr
    assert not (box.root / "x").exists()


# -- deleted


def test_purge_then_show_then_replay(box: Box) -> None:
    box.configure(policy={"orphan_replacement": False})
    box.hl7(ORU.replace(b"|2.5|", b"|2.9|"), timedelta(days=366))
    box.cda(make_cda(SPEC), timedelta(days=366))
    box.hl7(b"hello\r", timedelta(days=364))
    assert box.json("purge", "--dry-run") == {"dry_run": True, "messages": 2, "documents": 1}
    assert box.run("purge").stdout == "2 messages: 1 documents deleted\n"
    assert box.json("purge") == {"dry_run": False, "messages": 0, "documents": 0}
    refused = next(row for row in box.json("list") if row["code"] == "203 hl7-203")
    shown = box.run("show", refused["id"]).stdout
    assert "deleted on " in shown
    assert "MSA|AE" in shown
    assert "(inbox.keep_days): have it sent again" in box.run("replay", refused["id"], status=1).stderr
    assert "(inbox.keep_days)" in box.run("show", refused["id"], "--content", box.root / "x", status=1).stderr
    taken = next(row for row in box.json("list") if row["kind"] == "CDA")
    assert box.json("show", taken["id"])["cda"]["kept"]
    assert box.exam()["patient"]["ins"] == SPEC.ins


def test_zero_days_keep_for_ever(box: Box) -> None:
    box.configure(inbox={"keep_days": 0})
    box.hl7(b"hello\r", timedelta(days=9000))
    done = box.run("purge")
    assert done.stdout == "0 messages: 0 documents deleted\n"
    assert "kept for ever" in done.stderr


# -- checked, without configuration


def check(*arguments: object, status: int = 0) -> Result:
    done = CliRunner().invoke(app, ["reports", "check", *map(str, arguments)])
    assert done.exit_code == status, done.output
    return done


def test_check_needs_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, data in (("a.hl7", ORU.replace(b"\r", b"\n")), ("b.mllp", frame(ORU)), ("c.xml", make_cda())):
        (tmp_path / name).write_bytes(data)
        assert ": 0 errors," in check(name).stdout


def test_check_says_every_violation(tmp_path: Path) -> None:
    spec = replace(SPEC, orders=(), acts=(replace(SPEC.acts[0], studies=()),))
    file = tmp_path / "wrong.hl7"
    file.write_bytes(make_oru(make_cda(spec), spec))
    body = json.loads(check(file, "--json", status=1).stdout)
    wrong = [one for one in body["violations"] if one["severity"] == "error"]
    assert (body["kind"], body["errors"]) == ("ORU^R01", len(wrong))
    assert len(wrong) > 1
    assert all(one["clause"] and one["where"] for one in wrong)
    done = check(file, status=1)
    assert done.stdout.count("error: ") == len(wrong)
    assert done.stderr == f"drimbox: {file}: would be refused\n"


def test_check_of_what_is_no_report(tmp_path: Path) -> None:
    file = tmp_path / "two"
    file.write_bytes(frame(ORU) * 2)
    assert "2 framed messages" in check(file, status=1).stderr
    file.write_bytes(b"")
    assert "CDA: 1 errors" in check(file, status=1).stdout
    check(tmp_path / "nowhere", status=2)


@pytest.mark.parametrize("command", ["list", "show", "replay", "check", "purge"])
def test_every_command_has_help(command: str) -> None:
    done = CliRunner().invoke(app, ["reports", command, "--help"])
    assert done.exit_code == 0
    assert "--json" in done.output


def test_official_messages_have_no_error(official: Path) -> None:
    files = sorted((official / "hl7").iterdir())
    assert files
    for file in files:
        assert ": 0 errors," in check(file).stdout
