"""Orders about an exam (OMI^O23): what is read, what is tolerated, what is refused and with which code."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drimbox.domain.hl7v2 import ExamOrder, MessageRefused, read_message
from drimbox.domain.identifiers import Identifier
from fixtures.reports import make_omi

OMI = make_omi(control_id="001")
IPC = next(s for s in OMI.split(b"\r") if s.startswith(b"IPC"))


def read(message: bytes) -> ExamOrder:
    found = read_message(message)
    assert isinstance(found, ExamOrder)
    return found


def edited(old: str, new: str, message: bytes = OMI) -> bytes:
    assert old.encode() in message
    return message.replace(old.encode(), new.encode())


def without(name: str) -> bytes:
    return b"".join(
        s + b"\r" for s in OMI.removesuffix(b"\r").split(b"\r") if not s.startswith(name.encode())
    )


def test_a_cancelled_exam() -> None:
    order = read(OMI)
    assert (order.control, order.cancelled) == ("CA", True)
    assert order.study_instance_uid == "1.2.250.1.999.1.901"
    assert order.accession == Identifier("", "ACN901")
    assert order.requested_procedure_id == Identifier("", "PACS-DEMO")
    assert order.ins == Identifier("1.2.250.1.213.1.4.10", "279035121518989")
    assert order.local_ids == (Identifier("1.2.250.1.999.7.1", "IPP901"),)
    assert (order.identity_reliability, order.patient_class) == ("VALI", "O")
    assert order.header.control_id == "001"
    assert order.warnings == ()


@pytest.mark.parametrize("control", ["NW", "SC", "XO", "SR", "OC", "DC"])
def test_only_ca_deletes(control: str) -> None:
    order = read(make_omi(control=control))
    assert (order.control, order.cancelled) == (control, False)


def test_identifiers_with_their_issuer() -> None:
    message = edited("IPC|ACN901|PACS-DEMO|", "IPC|ACN901^RIS^1.2.250.1.999.7.3^ISO|24590-2^LN|")
    order = read(message)
    assert order.accession == Identifier("1.2.250.1.999.7.3", "ACN901")
    assert order.requested_procedure_id == Identifier("LN", "24590-2")


def test_no_character_set_is_utf8() -> None:
    order = read(edited("PACS-DEMO", "Échographie"))
    assert order.header.character_set == ""
    assert order.requested_procedure_id.extension == "Échographie"


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r\n\r\n"])
def test_terminators(ending: bytes) -> None:
    order = read(OMI.replace(b"\r", ending))
    assert [w.rule for w in order.warnings] == ["terminator"]
    assert replace(order, warnings=()) == read(OMI)


@pytest.mark.parametrize("name", ["PV1", "TQ1", "OBX"])
def test_what_may_be_absent(name: str) -> None:
    assert read(without(name)).study_instance_uid == read(OMI).study_instance_uid


def test_several_steps_of_one_exam() -> None:
    assert read(OMI + IPC.replace(b"|1||", b"|2||") + b"\r").accession == read(OMI).accession


def test_no_structure_is_noted() -> None:
    assert [w.rule for w in read(edited("OMI^O23^OMI_O23", "OMI^O23")).warnings] == ["structure"]


def test_the_operations_on_a_report_do_not_concern_an_order() -> None:
    assert read_message(OMI, operations={"NW"}) == read(OMI)


ORDER = b"ORC|CA|\rOBR|1|A|B|18748-4^CR^LN\r"
REFUSED = {
    "another event": (edited("OMI^O23^OMI_O23", "OMI^O22^OMI_O22"), 201, "MSH^1^9"),
    "version of ORU": (edited("|T|2.5.1|", "|T|2.5|"), 203, "MSH^1^12"),
    "version of MDM": (edited("|T|2.5.1|", "|T|2.6|"), 203, "MSH^1^12"),
    "processing id": (edited("|T|2.5.1|", "|X|2.5.1|"), 202, "MSH^1^11"),
    "teleradiology": (edited("2.5.1||||||||", "2.5.1|||||||||1.0^CISIS_TLR_HL7_V2"), 200, "MSH^1^21"),
    "character set": (edited("2.5.1||||||||", "2.5.1||||||GB18030"), 103, "MSH^1^18"),
    "no PID": (without("PID"), 100, "PID"),
    "no ORC": (without("ORC"), 100, "ORC"),
    "no OBR": (without("OBR"), 100, "OBR"),
    "no IPC": (without("IPC"), 100, "IPC"),
    "IPC before OBR": (without("IPC").replace(b"OBR", IPC + b"\rOBR"), 100, ""),
    "a document segment": (OMI + b"TXA|1|18748-4|TEXT\r", 100, ""),
    "an order without its exam": (OMI + ORDER, 100, ""),
    "no control id": (edited("OMI_O23|001|", "OMI_O23||"), 101, "MSH^1^10"),
    "no patient id": (OMI.replace(OMI.split(b"PID|||")[1].split(b"|")[0], b""), 101, "PID^1^3"),
    "no order control": (edited("ORC|CA|", "ORC||"), 101, "ORC^1^1"),
    "no accession number": (edited("IPC|ACN901|", "IPC||"), 101, "IPC^1^1"),
    "no study": (edited("|1.2.250.1.999.1.901|", "||"), 101, "IPC^1^3"),
    "no study in the second step": (OMI + b"IPC|ACN901|P||2\r", 101, "IPC^2^3"),
    "unknown order control": (edited("ORC|CA|", "ORC|ZZ|"), 103, "ORC^1^1"),
    "not a UID": (edited("|1.2.250.1.999.1.901|", "|1.2.250.01|"), 102, "IPC^1^3"),
    "a path": (edited("|1.2.250.1.999.1.901|", "|../../etc|"), 102, "IPC^1^3"),
    "a long UID": (edited("|1.2.250.1.999.1.901|", f"|1.2.{'9' * 64}|"), 102, "IPC^1^3"),
    "two studies": (OMI + b"IPC|ACN901|P|1.2.3|2\r", 198, "IPC^2^3"),
    "two accession numbers": (OMI + IPC.replace(b"ACN901", b"ACN902") + b"\r", 198, "IPC^2^1"),
    "two order controls": (OMI + ORDER.replace(b"CA", b"NW") + IPC + b"\r", 198, "ORC^2^1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_exact_code(case: str) -> None:
    message, error, location = REFUSED[case]
    with pytest.raises(MessageRefused) as refused:
        read_message(message)
    found = refused.value
    assert (found.ack, found.error, found.application_error, found.location) == ("AE", error, None, location)
    assert found.header.message_code == "OMI"


def test_all_missing_fields_are_named() -> None:
    with pytest.raises(MessageRefused) as refused:
        read_message(edited("IPC|ACN901|PACS-DEMO|1.2.250.1.999.1.901|", "IPC||||"))
    assert "IPC-1" in refused.value.reason
    assert "IPC-3" in refused.value.reason
