"""Messages that carry a report: what is read, what is tolerated, what is refused and with which code."""

from __future__ import annotations

import base64
from collections.abc import Collection
from dataclasses import replace

import pytest

from drimbox.domain.hl7v2 import MessageRefused, ReportMessage, peek_header, read_message
from drimbox.domain.hl7v2_grammar import FLAGS
from drimbox.domain.identifiers import Identifier
from fixtures.reports import DEFAULT_FLAGS, ReportSpec, make_cda, make_mdm, make_oru

CDA = make_cda()
PAYLOAD = base64.b64encode(CDA)
ORU = make_oru(CDA)
MDM = make_mdm(CDA)
EVERYTHING = {"NW", "RO", "CA"}


def read(message: bytes, **options: Collection[str]) -> ReportMessage:
    found = read_message(message, **options)
    assert isinstance(found, ReportMessage)
    return found


def edited(old: str | bytes, new: str | bytes, message: bytes = ORU) -> bytes:
    old, new = (x.encode("utf-8") if isinstance(x, str) else x for x in (old, new))
    assert old in message
    return message.replace(old, new)


def segments(message: bytes) -> list[bytes]:
    return message.removesuffix(b"\r").split(b"\r")


def joined(parts: list[bytes]) -> bytes:
    return b"".join(part + b"\r" for part in parts)


def field(message: bytes, segment: str, number: int, value: str) -> bytes:
    """The message with one field of the first segment of that name replaced."""
    parts = segments(message)
    index = next(i for i, part in enumerate(parts) if part.startswith(segment.encode()))
    fields = parts[index].split(b"|")
    position = number - 1 if segment == "MSH" else number
    fields += [b""] * (position + 1 - len(fields))
    fields[position] = value.encode("utf-8")
    parts[index] = b"|".join(fields)
    return joined(parts)


def refusal(message: bytes, operations: set[str] | None = None) -> MessageRefused:
    with pytest.raises(MessageRefused) as refused:
        read_message(message, operations=operations or {"NW"})
    return refused.value


def codes(message: bytes) -> tuple[str, int, int | None, str]:
    found = refusal(message)
    return found.ack, found.error, found.application_error, found.location


def warned(message: bytes) -> set[str]:
    return {w.rule for w in read(message).warnings}


def test_oru() -> None:
    message = read(ORU)
    assert message.cda == CDA
    assert (message.operation, message.patient_class, message.type_code) == ("NW", "O", "18748-4")
    assert (message.document_id, message.parent_id, message.document_location) == ("", "", "OBX^1^5")
    assert message.visit == Identifier("1.2.250.1.999.7.1", "V260901")
    assert message.ins == Identifier("1.2.250.1.213.1.4.10", "279035121518989")
    assert message.local_ids == (Identifier("1.2.250.1.999.7.1", "IPP901"),)
    assert message.identity_reliability == "VALI"
    assert message.flags == DEFAULT_FLAGS
    assert message.warnings == ()


def test_header() -> None:
    header = read(ORU).header
    assert (header.sending_application, header.sending_facility) == ("RIS-DEMO", "CENTRE-DEMO")
    assert (header.receiving_application, header.receiving_facility) == ("DRIMBOX", "CENTRE-DEMO")
    assert (header.message_code, header.trigger_event, header.structure) == ("ORU", "R01", "ORU_R01")
    assert (header.control_id, header.processing_id, header.version) == ("RIS-000901", "T", "2.5")
    assert peek_header(ORU) == header


def test_mdm() -> None:
    message = read(MDM)
    assert message.cda == CDA
    assert (message.operation, message.document_id) == ("NW", "1.2.250.1.999.7.9.1")
    assert message.header.version == "2.6"
    assert message.warnings == ()


def test_sender() -> None:
    sender = read(ORU).sender
    assert sender is not None
    assert sender.person == Identifier("1.2.250.1.71.4.2.1", "899900000019")
    assert (sender.family, sender.given) == ("ESSAI", "Camille")
    assert sender.organization == Identifier("1.2.250.1.71.4.2.2", "999999999")
    assert sender.organization_name == ReportSpec().organization_name
    assert sender.as_mapping()["organization_id"] == "999999999"


@pytest.mark.parametrize(
    ("order_control", "status", "event", "operation"),
    [("NW", "F", "T02", "NW"), ("RO", "C", "T10", "RO"), ("CA", "D", "T04", "CA")],
)
def test_operations(order_control: str, status: str, event: str, operation: str) -> None:
    spec = ReportSpec(replaces=("1.2.250.1.999.7.8",))
    oru = make_oru(CDA, order_control=order_control, status=status)
    mdm = make_mdm(CDA, spec, event=event, order_control=order_control, status=status)
    for message in (oru, mdm):
        assert read(message).operation == operation
    assert read(mdm).parent_id == "1.2.250.1.999.7.8"
    assert warned(mdm) == (set() if operation == "RO" else {"parent-ignored"})


@pytest.mark.parametrize(("order_control", "status", "event"), [("RO", "C", "T10"), ("CA", "D", "T04")])
def test_an_operation_that_the_caller_cannot_carry_out(order_control: str, status: str, event: str) -> None:
    spec = ReportSpec(replaces=("1.2.250.1.999.7.8",))
    found = refusal(make_mdm(CDA, spec, event=event, order_control=order_control, status=status))
    assert (found.ack, found.error, found.application_error) == ("AE", 207, 906)
    assert "not supported" in found.reason


@pytest.mark.parametrize(
    ("order_control", "status", "event"),
    [
        ("NW", "C", "T02"),
        ("RO", "F", "T10"),
        ("CA", "F", "T04"),
        ("RO", "C", "T02"),
        ("NW", "F", "T10"),
        ("SC", "F", "T02"),
    ],
)
def test_incoherent_operations(order_control: str, status: str, event: str) -> None:
    spec = ReportSpec(replaces=("1.2.250.1.999.7.8",))
    found = refusal(make_mdm(CDA, spec, event=event, order_control=order_control, status=status), EVERYTHING)
    assert (found.error, found.application_error) == (207, 906)
    assert all(value in found.reason for value in (order_control, status, event))


REFUSED = {
    "empty": (b"", 100, ""),
    "not HL7": (b"GET / HTTP/1.1\r\n\r\n", 100, ""),
    "no MSH": (joined(segments(ORU)[1:]), 100, ""),
    "MSH only": (segments(ORU)[0], 100, "PID"),
    "equal delimiters": (edited(b"MSH|^~\\&|", b"MSH|^^\\&|"), 100, ""),
    "alphanumeric delimiters": (edited(b"MSH|^~\\&|", b"MSHA^~\\&|"), 100, ""),
    "short MSH-2": (edited(b"MSH|^~\\&|", b"MSH|^~|"), 100, ""),
    "too many segments": (ORU + b"NTE|1\r" * 6000, 100, ""),
    "another message type": (edited("ORU^R01^ORU_R01", "ADT^A01^ADT_A01"), 200, "MSH^1^9"),
    "order entry": (edited("ORU^R01^ORU_R01", "ORM^O01^ORM_O01"), 200, "MSH^1^9"),
    "an order about an exam by its header alone": (
        edited("ORU^R01^ORU_R01", "OMI^O23^OMI_O23"),
        203,
        "MSH^1^12",
    ),
    "no message type": (edited("ORU^R01^ORU_R01", ""), 200, "MSH^1^9"),
    "another event": (edited("ORU^R01^ORU_R01", "ORU^R30^ORU_R30"), 201, "MSH^1^9"),
    "processing id": (field(ORU, "MSH", 11, "X"), 202, "MSH^1^11"),
    "no processing id": (field(ORU, "MSH", 11, ""), 202, "MSH^1^11"),
    "version": (field(ORU, "MSH", 12, "2.3"), 203, "MSH^1^12"),
    "version of MDM on ORU": (field(ORU, "MSH", 12, "2.6"), 203, "MSH^1^12"),
    "version of ORU on MDM": (field(MDM, "MSH", 12, "2.5"), 203, "MSH^1^12"),
    "character set": (field(ORU, "MSH", 18, "GB18030"), 103, "MSH^1^18"),
    "bytes": (edited("médicale", "médicale".encode("latin-1")), 102, "MSH^1^18"),
    "no PID": (joined([s for s in segments(ORU) if not s.startswith(b"PID")]), 100, "PID"),
    "no ORC": (joined([s for s in segments(ORU) if not s.startswith(b"ORC")]), 100, "ORC"),
    "no OBX": (joined(segments(ORU)[:5]), 100, "OBX"),
    "no TXA": (joined([s for s in segments(MDM) if not s.startswith(b"TXA")]), 100, "TXA"),
    "no PV1 in MDM": (joined([s for s in segments(MDM) if not s.startswith(b"PV1")]), 100, "PV1"),
    "order of segments": (joined([segments(ORU)[i] for i in (0, 2, 1, *range(3, 17))]), 100, ""),
    "two MSH": (ORU + ORU, 100, ""),
    "no control id": (field(ORU, "MSH", 10, ""), 101, "MSH^1^10"),
    "no patient id": (field(ORU, "PID", 3, ""), 101, "PID^1^3"),
    "no patient class": (field(ORU, "PV1", 2, ""), 101, "PV1^1^2"),
    "no order control": (field(ORU, "ORC", 1, ""), 101, "ORC^1^1"),
    "no type": (field(ORU, "OBR", 4, ""), 101, "OBR^1^4"),
    "no document id": (field(MDM, "TXA", 12, ""), 101, "TXA^1^12"),
    "no status": (field(ORU, "OBX", 11, ""), 101, "OBX^1^11"),
    "empty document": (field(ORU, "OBX", 5, ""), 101, "OBX^1^5"),
    "no document": (edited(b"OBX|1|ED|", b"OBX|1|TX|"), 101, "OBX^1^5"),
    "no data": (field(ORU, "OBX", 5, "^TEXT^XML^Base64"), 102, "OBX^1^5"),
    "not base64": (edited(PAYLOAD[:8], b"%%%%%%%%"), 102, "OBX^1^5"),
    "cut base64": (edited(PAYLOAD, PAYLOAD.rstrip(b"=")[:-3] + b"A"), 102, "OBX^1^5"),
    "hexadecimal": (edited(b"^XML^Base64^", b"^XML^Hex^"), 102, "OBX^1^5"),
    "not XML": (edited(PAYLOAD, base64.b64encode(b"plain text")), 102, "OBX^1^5"),
    "not a CDA": (edited(PAYLOAD, base64.b64encode(b"<html/>")), 102, "OBX^1^5"),
    "a DTD": (edited(PAYLOAD, base64.b64encode(b"<!DOCTYPE x><x/>")), 102, "OBX^1^5"),
    "a flag that is neither": (edited("||Y^^expanded", "||O^^expanded"), 103, "OBX^7^5"),
    "a flag said twice": (ORU + b"OBX|12|CE|MASQUE_PS^^MetaDMPMSS||Y||||||F\r", 198, "OBX^12^5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_exact_code(case: str) -> None:
    message, error, location = REFUSED[case]
    assert codes(message) == ("AE", error, None, location)


def test_all_missing_fields_are_named() -> None:
    found = refusal(field(field(ORU, "PID", 3, ""), "OBR", 4, ""))
    assert "PID-3" in found.reason
    assert "OBR-4" in found.reason


def test_a_replacement_needs_its_parent() -> None:
    message = make_mdm(CDA, event="T10", order_control="RO", status="C")
    assert codes(message) == ("AE", 101, None, "TXA^1^13")


def test_two_orders_that_say_different_things() -> None:
    parts = segments(ORU)
    second = [b"ORC|CA", *parts[4:6]]
    found = refusal(joined([*parts, *second]), EVERYTHING)
    assert (found.error, found.application_error) == (207, 906)


def test_an_acknowledgement_says_so() -> None:
    found = refusal(edited("ORU^R01^ORU_R01", "ACK^R01^ACK"))
    assert found.header.is_acknowledgement


def test_the_refusal_knows_what_could_be_read() -> None:
    assert refusal(field(ORU, "MSH", 12, "2.3")).header.control_id == "RIS-000901"
    assert refusal(b"nothing").header.control_id == ""
    assert peek_header(b"nothing").control_id == ""
    assert refusal(ORU + b"NTE|1\r" * 6000).header.control_id == "RIS-000901"


@pytest.mark.parametrize("ending", [b"\r", b"\n", b"\r\n"])
def test_the_header_is_read_alone(ending: bytes) -> None:
    assert peek_header(b"\r\n" + ORU.replace(b"\r", ending)) == read(ORU).header
    assert peek_header(segments(ORU)[0]) == read(ORU).header


def test_an_acknowledgement_without_end_is_still_one() -> None:
    """Too many segments to be read, and yet not to be answered."""
    found = refusal(edited("ORU^R01^ORU_R01", "ACK^R01^ACK") + b"ERR|1\r" * 6000)
    assert found.header.is_acknowledgement


def test_reasons_quote_no_identity() -> None:
    said = refusal(field(field(ORU, "ORC", 1, "PAT-TROIS"), "OBX", 11, "DOMINIQUE")).reason
    assert "PAT-TROIS" not in said
    assert "DOMINIQUE" not in said


@pytest.mark.parametrize("ending", [b"\r", b"\n", b"\r\n", b"\r\n\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_terminators(ending: bytes, last: bool) -> None:
    message = ending.join(segments(ORU)) + (ending if last else b"")
    assert read(message).cda == CDA


@pytest.mark.parametrize("prefix", [b"\n", b"\r\n ", b"\xef\xbb\xbf"])
def test_what_may_stand_before(prefix: bytes) -> None:
    assert read(prefix + ORU).cda == CDA


@pytest.mark.parametrize("separator", [b"\r\n", b"\n", b" ", b"\\X0D0A\\", b"\\.br\\", b"\\X0D\\\\X0A\\"])
def test_base64_that_was_wrapped(separator: bytes) -> None:
    wrapped = separator.join(PAYLOAD[i : i + 76] for i in range(0, len(PAYLOAD), 76))
    assert read(edited(PAYLOAD, wrapped)).cda == CDA


@pytest.mark.parametrize("blanks", ["", " ", "  "])
def test_base64_without_padding(blanks: str) -> None:
    cda = CDA.rstrip() + blanks.encode()
    bare = base64.b64encode(cda).rstrip(b"=")
    assert read(edited(PAYLOAD, bare)).cda == cda


def test_other_delimiters() -> None:
    table = bytes.maketrans(b"|^~\\&", b"#@*!%")
    assert read(ORU.translate(table)).ins == read(ORU).ins


def test_utf8_wins_over_the_declaration() -> None:
    message = field(ORU, "MSH", 18, "8859/1")
    assert warned(message) == {"character-set"}
    sender = read(message).sender
    assert sender is not None
    assert sender.organization_name.endswith("démonstration")


def test_the_declared_set_is_used_when_it_is_not_utf8() -> None:
    message = field(ORU, "MSH", 18, "8859/15").decode("utf-8").encode("iso8859-15")
    sender = read(message).sender
    assert sender is not None
    assert sender.organization_name.endswith("démonstration")
    assert read(message).cda == CDA


@pytest.mark.parametrize("declared", ["", "UTF-8", "unicode utf-8"])
def test_spellings_of_utf8(declared: str) -> None:
    assert warned(field(ORU, "MSH", 18, declared)) == set()


def test_placeholders_are_text() -> None:
    message = field(
        field(field(ORU, "MSH", 3, "{{applicationSupplier}}"), "MSH", 7, "{{idMessage}}"),
        "MSH",
        10,
        "{{idMessage}}",
    )
    assert read(message).header.control_id == "{{idMessage}}"


def test_a_small_tilde_in_an_address() -> None:
    assert read(field(ORU, "PID", 11, "^^^^^^BDL^^51215\u02dc28 rue^^PARIS")).cda == CDA


def test_escapes_are_resolved() -> None:
    sender = read(edited("Centre d'imagerie de démonstration", "A \\T\\ B\\F\\\\X43\\")).sender
    assert sender is not None
    assert sender.organization_name == "A & B|C"


def test_segments_that_do_not_matter() -> None:
    parts = segments(ORU)
    parts[1:1] = [b"SFT|DEMO|1"]
    parts[3:3] = [b"PD1|||", b"ZFA|DEMO"]
    assert read(joined(parts)).cda == CDA


def test_no_visit() -> None:
    message = read(joined([s for s in segments(ORU) if not s.startswith(b"PV1")]))
    assert (message.patient_class, message.visit.extension) == ("", "")


def test_no_visit_number() -> None:
    assert read(field(ORU, "PV1", 19, "")).visit == Identifier("")
    assert read(field(ORU, "PV1", 19, "000897406^^^AUT&120456789&M^VN")).visit == Identifier(
        "120456789", "000897406"
    )


@pytest.mark.parametrize(
    ("alias", "code"),
    [
        ("INVISIBLE_REPRESENTANTS_LEGAUX", "INVISIBLE_REP_LEGAUX"),
        ("INVISIBLE_REPRENSANTS_LEGAUX", "INVISIBLE_REP_LEGAUX"),
        ("MODIF_CONFIDENTIALITYCODE", "MODIF_CONF_CODE"),
        ("ACK_LECTURE", "ACK_LECTURE_MSS"),
    ],
)
def test_aliases_of_flags(alias: str, code: str) -> None:
    message = make_oru(CDA, flags={code: True})
    assert read(edited(f"|{code}^", f"|{alias}^", message)).flags[code] is True


def test_flags_without_table_and_bare() -> None:
    message = read(edited("^MetaDMPMSS||Y^^expandedYes-NoIndicator", "||Y"))
    assert message.flags["DESTDMP"] is True


def test_flags_are_read_one_by_one() -> None:
    for code in FLAGS:
        assert read(make_oru(CDA, flags={code: True})).flags[code] is True


def test_a_required_flag_that_is_missing_is_noted() -> None:
    parts = [s for s in segments(ORU) if b"MASQUE_PS" not in s]
    message = read(joined(parts))
    assert "MASQUE_PS" not in message.flags
    assert [w.rule for w in message.warnings] == ["flag-missing"]


def test_an_unknown_flag_is_noted() -> None:
    assert warned(ORU + b"OBX|12|CE|NEW_FLAG^^MetaDMPMSS||Y||||||F\r") == {"flag-unknown"}


def test_no_sender_is_noted() -> None:
    assert warned(joined([s for s in segments(ORU) if not s.startswith(b"PRT")])) == {"sender"}


def test_no_profile_is_noted() -> None:
    assert warned(edited("2.1^CISIS_CDA_HL7_V2", "")) == {"profile"}


def test_no_structure_is_noted() -> None:
    assert warned(edited("ORU^R01^ORU_R01", "ORU^R01")) == {"structure"}


@pytest.mark.parametrize(
    "authority", ["ASIP-SANTE- PS&1.2.250.1.71.4.2.1&ISO", "1.2.250.1.71.4.2.1", "&1.2.250.1.71.4.2.1&ISO"]
)
def test_authorities_as_practised(authority: str) -> None:
    sender = read(edited("ASIP-SANTE-PS&1.2.250.1.71.4.2.1&ISO", authority)).sender
    assert sender is not None
    assert sender.person == Identifier("1.2.250.1.71.4.2.1", "899900000019")


def test_a_sender_without_label() -> None:
    assert read(edited("SB^Send by^participation", "SB^^HL70912")).sender == read(ORU).sender


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("1.2.250.1.999.7.9.1^Organisation-Y", "1.2.250.1.999.7.9.1"),
        ("42^^1.2.250.1.999.7.9.1^ISO", "1.2.250.1.999.7.9.1^42"),
        (" 1.2.250.1.999.7.9.1 ", "1.2.250.1.999.7.9.1"),
    ],
)
def test_document_ids_as_practised(written: str, expected: str) -> None:
    assert read(field(MDM, "TXA", 12, written)).document_id == expected


def with_documents(*documents: tuple[str, bytes]) -> ReportMessage:
    parts = [s for s in segments(ORU) if not s.startswith(b"OBX|1|")]
    lines = [
        b"OBX|%d|ED|%s^^LN||^TEXT^XML^Base64^%s||||||F" % (n, code.encode(), base64.b64encode(content))
        for n, (code, content) in enumerate(documents, start=1)
    ]
    parts[5:5] = lines
    return read(joined(parts))


def test_the_imaging_report_is_found_among_documents() -> None:
    biology = make_cda(replace(ReportSpec(), code="11502-2"))
    message = with_documents(("11502-2", b"plain text"), ("11502-2", biology), ("18748-4", CDA))
    assert message.cda == CDA
    assert message.document_location == "OBX^3^5"


def test_a_document_that_is_no_imaging_report_is_left_to_its_reader() -> None:
    biology = make_cda(replace(ReportSpec(), code="11502-2"))
    assert with_documents(("18748-4", b"plain text"), ("18748-4", biology)).cda == biology


def test_a_second_report_is_noted() -> None:
    message = with_documents(("18748-4", CDA), ("18748-4", CDA + b"\n"))
    assert message.cda == CDA
    assert [w.rule for w in message.warnings] == ["more-documents"]


def test_a_mail_body_is_no_document() -> None:
    body = base64.b64encode(b"Cher confrere")
    mail = b"OBX|12|ED|CORPSMAIL_PS^Corps du mail^MetaDMPMSS||^TEXT^^Base64^" + body + b"||||||F\r"
    message = read(ORU + mail)
    assert (message.cda, message.warnings) == (CDA, ())


def test_ins_by_authority_without_type() -> None:
    assert read(edited("&ISO^INS^^20240115", "&ISO")).ins == read(ORU).ins


def test_no_ins() -> None:
    message = read(make_oru(CDA, replace(ReportSpec(), ins="")))
    assert message.ins is None
    assert message.local_ids == (Identifier("1.2.250.1.999.7.1", "IPP901"),)
