"""Every defect that the reader forgives names itself once, with its clause; nothing else does (hl7-mss 6)."""

from __future__ import annotations

import ast
import base64
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import drimbox.domain as domain
from drimbox.domain.cda import read_cda
from drimbox.domain.hl7v2 import ExamOrder, MessageRefused, ReportMessage, VisitConsent, read_message
from drimbox.domain.hl7v2_grammar import TOLERANCES
from drimbox.domain.violations import Severity
from fixtures.reports import (
    DEFAULT_FLAGS,
    ReportSpec,
    make_adt,
    make_cda,
    make_mdm,
    make_omi,
    make_oru,
    replacement_of,
)

CDA = make_cda()
PAYLOAD = base64.b64encode(CDA)
ORU, MDM = make_oru(CDA), make_mdm(CDA)
RPLC = replacement_of(ReportSpec(), "1.2.250.1.999.7.9.2")
REPLACEMENT = make_mdm(make_cda(RPLC), RPLC, order_control="RO")


def read(message: bytes) -> ReportMessage | ExamOrder | VisitConsent:
    return read_message(message, adt=True)


def edited(old: str | bytes, new: str | bytes, message: bytes = ORU, count: int = -1) -> bytes:
    old, new = (x.encode("utf-8") if isinstance(x, str) else x for x in (old, new))
    assert old in message
    return message.replace(old, new, count)


def flags(**changes: bool) -> bytes:
    return make_oru(CDA, flags=DEFAULT_FLAGS | changes)


def attached(code: str, content: bytes) -> bytes:
    """The ORU with one more OBX of type ED behind its document."""
    data = base64.b64encode(content).decode()
    return edited("OBX|2|CE|", f"OBX|2|ED|{code}^^LN||^TEXT^XML^Base64^{data}||||||F\rOBX|2|CE|")


@dataclass(frozen=True)
class Defect:
    """`where`: the first place; `also`: words that its message says."""

    slug: str
    data: bytes
    where: str
    also: str = ""


MAIL = {"DESTMSSANTEPS": True, "DESTMSSANTEPAT": True}
UNPADDED = CDA.rstrip() + b" " * ((1 - len(CDA.rstrip())) % 3)  # its base64 ends with ==
STRAY = "1.2.250.1.999.7.9.1^Organisation-Y"
MISSING = re.compile(rb"MASQUE_PS|DESTDMP")
LEGAL = "INVISIBLE_REPRESENTANTS_LEGAUX"
OBSOLETE = b"OBX|12|CE|COMP_LOT^^MetaDMPMSS||Y^^expandedYes-NoIndicator||||||F\r"
DEFECTS = {
    "LF": Defect("terminator", ORU.replace(b"\r", b"\n"), ""),
    "CRLF": Defect("terminator", ORU.replace(b"\r", b"\r\n"), ""),
    "empty lines": Defect("terminator", ORU.replace(b"\r", b"\r\r"), ""),
    "LF at the end": Defect("terminator", ORU + b"\n", ""),
    "one LF among CR": Defect("terminator", ORU.replace(b"\rPV1", b"\nPV1"), ""),
    "blanks before": Defect("before-msh", b"\r\n" + ORU, ""),
    "byte order mark": Defect("before-msh", b"\xef\xbb\xbf" + ORU, ""),
    "a broken line": Defect("line-break", edited("Send by", "Send\rby"), "PRT^1^4"),
    "no structure": Defect("structure", edited("ORU^R01^ORU_R01", "ORU^R01"), "MSH^1^9"),
    "no profile": Defect("profile", edited("2.1^CISIS_CDA_HL7_V2", ""), "MSH^1^21"),
    "profile 2.0": Defect("profile-version", edited("2.1^CISIS", "2.0^CISIS"), "MSH^1^21", "2.1"),
    "profile 1.2": Defect("profile-version", edited("2.1^CISIS", "1.2^CISIS"), "MSH^1^21", "2.1"),
    "wrong character set": Defect("character-set", edited("UNICODE UTF-8", "8859/15"), "MSH^1^18"),
    "MSH-7 is a counter": Defect("message-date", edited("|20260914101500||ORU", "|20260914101500123||ORU"), "MSH^1^7"),
    "MSH-7 is empty": Defect("message-date", edited("|20260914101500||ORU", "|||ORU"), "MSH^1^7"),
    "MSH-7 is no day": Defect("message-date", edited("|20260914101500||ORU", "|20260231||ORU"), "MSH^1^7"),
    "a placeholder as MSH-7": Defect(
        "placeholder", edited("|20260914101500||ORU", "|{{idMessage}}||ORU"), "MSH^1^7"
    ),
    "placeholders": Defect(
        "placeholder", edited("|RIS-DEMO|CENTRE-DEMO|", "|{{applicationSupplier}}|{{facilitySupplier}}|"),
        "MSH^1^3", "MSH^1^4",
    ),
    "small tilde": Defect(
        "small-tilde", edited("^^^^^^BDL^^51215", "^^^^^^BDL^^51215\u02dc28 rue^^PARIS"), "PID^1^11", "birth place"
    ),
    "authority with a blank": Defect("authority-blank", edited("ASIP-SANTE-PS", "ASIP-SANTE- PS"), "PRT^1^5"),
    "authority of the patient with a blank": Defect(
        "authority-blank", edited("ASIP-SANTE-INS-NIR", "ASIP-SANTE- INS-NIR"), "PID^1^3"
    ),
    "bare OID": Defect(
        "authority-bare-oid", edited("ASIP-SANTE-ST&1.2.250.1.71.4.2.2&ISO", "1.2.250.1.71.4.2.2"), "PRT^1^8"
    ),
    "no PRT": Defect("sender", edited("PRT||UC||SB^", "PRT||UC||RCT^"), "PRT"),
    "empty PRT-4.2": Defect("participation-label", edited("SB^Send by^", "SB^^"), "PRT^1^4"),
    "older table of participations": Defect(
        "participation-table", edited("Send by^participation", "Send by^HL70912"), "PRT^1^4"
    ),
    "two reports": Defect("more-documents", attached("18748-4", CDA + b"\n"), "OBX^2^5", "another report"),
    "an attachment": Defect("attachment-ignored", attached("11502-2", b"plain text"), "OBX^2^5", "no CDA"),
    "a biology report": Defect(
        "attachment-ignored", attached("11502-2", make_cda(ReportSpec(code="11502-2"))), "OBX^2^5", "another"
    ),
    "no encoding": Defect("base64-encoding", edited("^XML^Base64^", "^XML^^"), "OBX^1^5"),
    "wrapped base64": Defect(
        "base64-wrapped", edited(PAYLOAD, PAYLOAD[:76] + b"\r\n" + PAYLOAD[76:]), "OBX^1^5"
    ),
    "escaped line ends": Defect(
        "base64-wrapped", edited(PAYLOAD, PAYLOAD[:76] + b"\\X0D0A\\" + PAYLOAD[76:]), "OBX^1^5"
    ),
    "no padding": Defect(
        "base64-padding", edited(PAYLOAD, base64.b64encode(UNPADDED).rstrip(b"=")), "OBX^1^5"
    ),
    "type of OBR-4": Defect("document-type", edited("|18748-4^CR d'imagerie médicale^LN\rOBX", "|34555-3^^LN\rOBX"),
                            "OBR^1^4"),
    "type of OBX-3": Defect("document-type", edited("|ED|18748-4^", "|ED|11502-2^"), "OBX^1^3"),
    "stray component in TXA-12": Defect(
        "entity-stray-component", edited("|1.2.250.1.999.7.9.1|", f"|{STRAY}|", MDM), "TXA^1^12"
    ),
    "stray component in TXA-13": Defect(
        "entity-stray-component", edited("|1.2.250.1.999.7.9.1||", f"|{STRAY}||", REPLACEMENT),
        "TXA^1^13",
    ),
    "a parent of a new document": Defect(
        "parent-ignored", edited("|1.2.250.1.999.7.9.1||", "|1.2.250.1.999.7.9.1|1.2.3|", MDM), "TXA^1^13", "creation"
    ),
    "a parent in a deletion": Defect(
        "parent-ignored", make_mdm(CDA, ReportSpec(replaces=("1.2.3",)), order_control="CA"), "TXA^1^13", "deletion"
    ),
    "unknown flag": Defect(
        "flag-unknown", ORU + b"OBX|12|CE|NEW^^MetaDMPMSS||Y^^expandedYes-NoIndicator||||||F\r", "OBX^12^3"
    ),
    "flags not stated": Defect(
        "flag-missing", b"".join(s for s in ORU.splitlines(keepends=True) if not MISSING.search(s)),
        "OBX", "MASQUE_PS, DESTDMP",
    ),
    "older name of a flag": Defect(
        "flag-alias", edited("|INVISIBLE_REP_LEGAUX^", f"|{LEGAL}^"), "OBX^4^3", "INVISIBLE_REP"
    ),
    "older names of two flags": Defect(
        "flag-alias",
        edited("|ACK_LECTURE_MSS^", "|ACK_LECTURE^", edited("|MODIF_CONF_CODE^", "|MODIF_CONFIDENTIALITYCODE^")),
        "OBX^6^3", "OBX^11^3",
    ),
    "flag of version 1.2": Defect(
        "flag-obsolete", ORU + OBSOLETE, "OBX^12^3"
    ),
    "flag without its table": Defect("flag-table", edited(" DMP^MetaDMPMSS", " DMP"), "OBX^7^3"),
    "bare Y": Defect("flag-value-table", edited("||Y^^expandedYes-NoIndicator|", "||Y|"), "OBX^7^5"),
    "a combination that the guide has not": Defect(
        "flag-combination", flags(MASQUE_PS=True, DESTMSSANTEPS=True), "OBX"
    ),
    "legal representatives": Defect("flag-combination", flags(INVISIBLE_REP_LEGAUX=True, **MAIL), "OBX"),
    "mail to a patient who may not see it": Defect(
        "flag-mail-to-patient", flags(INVISIBLE_PATIENT=True, **MAIL), "OBX", "DESTMSSANTEPAT"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DEFECTS)
def test_named_once_and_alone(case: str) -> None:
    defect = DEFECTS[case]
    (found,) = read(defect.data).warnings
    assert (found.rule, found.where) == (defect.slug, defect.where)
    assert (found.clause, found.severity) == (TOLERANCES[defect.slug], Severity.WARNING)
    assert defect.also in found.message


def test_every_tolerance_has_its_test() -> None:
    assert {defect.slug for defect in DEFECTS.values()} == set(TOLERANCES)


def test_every_slug_that_the_reader_writes_is_in_the_table() -> None:
    """Read in its sources: what is given to `warn`, or yielded as a finding."""
    written = set()
    for path in Path(domain.__file__).parent.glob("hl7v2*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            called = isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "warn"
            first = node.args[0] if called else None
            if isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple):
                first = node.value.elts[0]
            if isinstance(first, ast.Constant):
                written.add(first.value)
    assert written <= set(TOLERANCES)
    assert len(written) > 20


def test_a_message_without_defect_names_nothing() -> None:
    for message in (ORU, MDM, REPLACEMENT, make_omi(), make_adt()):
        assert read(message).warnings == ()


def test_all_that_is_tolerated_is_named_together() -> None:
    message = edited(
        "ASIP-SANTE-PS", "ASIP-SANTE- PS", edited("SB^Send by^", "SB^^", edited("2.1^CISIS", "2.0^CISIS"))
    )
    rules = [w.rule for w in read(message.replace(b"\r", b"\n")).warnings]
    assert sorted(rules) == ["authority-blank", "participation-label", "profile-version", "terminator"]


@pytest.mark.parametrize(
    "changes",
    [
        MAIL,
        {"INVISIBLE_PATIENT": True, "DESTMSSANTEPS": True, "CONNEXION_SECRETE": True},
        {"MASQUE_PS": True, "INVISIBLE_REP_LEGAUX": True, "DESTMSSANTEPAT": True, "DESTDMP": False},
        {
            "MASQUE_PS": True,
            "INVISIBLE_PATIENT": True,
            "INVISIBLE_REP_LEGAUX": True,
            "CONNEXION_SECRETE": True,
        },
    ],
    ids=["to both", "to the professional", "to the patient", "no mail: any visibility"],
)
def test_combinations_of_the_guide(changes: dict[str, bool]) -> None:
    assert read(flags(**changes)).warnings == ()


@pytest.mark.parametrize("system", ["expandedYes-NoIndicator", "HL70136"])
def test_tables_of_yes_and_no(system: str) -> None:
    assert read(edited("expandedYes-NoIndicator", system)).warnings == ()


def test_local_authorities_may_hold_blanks() -> None:
    assert read(edited("^^^RIS-DEMO&", "^^^CH DE DEMO&")).warnings == ()


def test_places_are_bounded() -> None:
    message = ORU + b"".join(b"OBX|%d|CE|N%d^^MetaDMPMSS||Y||||||F\r" % (n, n) for n in range(12, 100))
    (found,) = (w for w in read(message).warnings if w.rule == "flag-unknown")
    assert len(found.message) < 500


def test_a_doubly_encoded_payload_is_named_by_the_reader_of_the_document_alone() -> None:
    """Its accents were UTF-8 read as Latin-1 (drim-m-data section 1): well-formed, so it changes nothing here."""
    twice = CDA.decode("utf-8").encode("utf-8").decode("latin-1").encode("utf-8")
    found = read(make_oru(twice))
    assert isinstance(found, ReportMessage)
    assert (found.cda, found.warnings) == (twice, ())
    assert "double-encoding" in {v.rule for v in read_cda(twice, time_zone="Europe/Paris").violations}


def test_a_profile_without_orders_is_told_which_one_to_send() -> None:
    parts = [s for s in edited("2.1^CISIS", "1.2^CISIS").split(b"\r") if not s.startswith((b"ORC", b"OBR"))]
    with pytest.raises(MessageRefused) as refused:
        read(b"\r".join(parts))
    assert (refused.value.error, refused.value.location) == (100, "ORC")
    assert "2.1" in refused.value.reason


def test_the_dry_run_message_is_incoherent() -> None:
    """ORC-1 SC is no operation on a document (drim-m-data 7.3): refused, whatever else is tolerated."""
    with pytest.raises(MessageRefused) as refused:
        read(edited("2.1^CISIS", "2.0^CISIS", make_oru(CDA, order_control="SC", status="F")))
    assert (refused.value.error, refused.value.application_error) == (207, 906)
    assert "SC" in refused.value.reason


def test_warnings_quote_nobody() -> None:
    for defect in DEFECTS.values():
        text = "".join(w.message for w in read(defect.data).warnings)
        for secret in ("279035121518989", "PAT-TROIS", "DOMINIQUE", "IPP901", "V260901"):
            assert secret not in text
