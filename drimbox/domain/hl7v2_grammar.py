"""What an HL7v2 report must be: tables to lay beside hl7-mss 1.2 to 1.8. A new message type is a new row."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Operation = Literal["NW", "RO", "CA"]

# hl7-mss 1.2. Names are followed by a blank; segments outside GRAMMAR_SEGMENTS may stand anywhere.
_BEFORE_OBX = r"(?:(?:NTE|TQ1|TQ2|PRT) )*+"
_RESULTS = r"(?:OBX (?:(?:PRT|NTE) )*+)++"
_ORU_R01 = rf"MSH PID (?:NTE )*+(?:PV1 )?(?:ORC (?:TQ[12] )*+OBR {_BEFORE_OBX}{_RESULTS})++"
_MDM_T02 = rf"MSH EVN PID PV1 ORC (?:TQ[12] )*+OBR {_BEFORE_OBX}TXA {_RESULTS}"
GRAMMAR_SEGMENTS = frozenset("MSH EVN PID PV1 ORC OBR TXA OBX PRT NTE TQ1 TQ2".split())  # noqa: SIM905 a table
# drim-m-data 9 and HL7 2.5.1 OMI_O23: one ORDER group per exam, IPC repeats with the steps of its procedure
_OMI_O23 = (
    r"MSH (?:NTE )*+PID (?:NTE )*+(?:PV1 )?"
    rf"(?:ORC (?:TQ[12] )*+OBR {_BEFORE_OBX}(?:OBX (?:(?:PRT|NTE) )*+)*+(?:IPC )++)++"
)
ORDER_SEGMENTS = GRAMMAR_SEGMENTS | {"IPC"}
# hl7-mss 1.12: of PAM-FR only what says who, which visit and the consent; its other segments may stand anywhere
_ADT = r"MSH EVN PID PV1 (?:ZFA )?"
VISIT_SEGMENTS = frozenset({"MSH", "EVN", "PID", "PV1", "ZFA"})
PROFILE, PROFILE_VERSION = "CISIS_CDA_HL7_V2", "2.1"
PAM_PROFILE, PAM_VERSION = "IHE_FRANCE-2.11-PAM", "2.11"


@dataclass(frozen=True, slots=True)
class MessageType:
    """One row of hl7-mss 1.1: MSH-9, the version that goes with it, its segments and its required fields.

    `required`: fields of the first segment of that name; `required_in_each`: of all of them. `known`: the segments
    whose order matters. `profile`, `profile_version`: what MSH-21 says, empty where the sender says nothing. `gives`:
    what a message of this row is read as.
    """

    code: str
    event: str
    structure: str
    version: str
    segments: re.Pattern[str]
    present: tuple[str, ...]
    required: tuple[tuple[str, int], ...]
    required_in_each: tuple[tuple[str, int], ...] = ()
    known: frozenset[str] = GRAMMAR_SEGMENTS
    profile: str = PROFILE
    profile_version: str = PROFILE_VERSION
    gives: Literal["report", "order", "visit"] = "report"

    @property
    def carries_document(self) -> bool:
        """True for a message with a CDA inside."""
        return self.gives == "report"


_ORU_FIELDS = (("MSH", 10), ("PID", 3), ("PV1", 2), ("ORC", 1), ("OBR", 4))
_MDM_FIELDS = (*_ORU_FIELDS, ("TXA", 12))
_ORU_SEGMENTS = ("MSH", "PID", "ORC", "OBR", "OBX")
_MDM_SEGMENTS = ("MSH", "EVN", "PID", "PV1", "ORC", "OBR", "TXA", "OBX")
_ORU = re.compile(_ORU_R01)
_MDM = re.compile(_MDM_T02)
_OMI = re.compile(_OMI_O23)
_OMI_SEGMENTS = ("MSH", "PID", "ORC", "OBR", "IPC")
_OMI_FIELDS = (("MSH", 10), ("PID", 3))
_OMI_FIELDS_OF_EACH = (("ORC", 1), ("IPC", 1), ("IPC", 3))
_VISIT = re.compile(_ADT)
_VISIT_SEGMENTS = ("MSH", "EVN", "PID", "PV1")
_VISIT_FIELDS = (("MSH", 10), ("PID", 3))


def _visit(event: str, structure: str) -> MessageType:
    return MessageType(
        "ADT", event, structure, "2.5", _VISIT, _VISIT_SEGMENTS, _VISIT_FIELDS,
        known=VISIT_SEGMENTS, profile=PAM_PROFILE, profile_version=PAM_VERSION, gives="visit",
    )  # fmt: skip


MESSAGE_TYPES: tuple[MessageType, ...] = (
    MessageType("ORU", "R01", "ORU_R01", "2.5", _ORU, _ORU_SEGMENTS, _ORU_FIELDS),
    MessageType("MDM", "T02", "MDM_T02", "2.6", _MDM, _MDM_SEGMENTS, _MDM_FIELDS),
    MessageType("MDM", "T10", "MDM_T02", "2.6", _MDM, _MDM_SEGMENTS, (*_MDM_FIELDS, ("TXA", 13))),
    MessageType("MDM", "T04", "MDM_T02", "2.6", _MDM, _MDM_SEGMENTS, _MDM_FIELDS),
    MessageType(
        "OMI", "O23", "OMI_O23", "2.5.1", _OMI, _OMI_SEGMENTS, _OMI_FIELDS,
        required_in_each=_OMI_FIELDS_OF_EACH, known=ORDER_SEGMENTS, profile="", profile_version="", gives="order",
    ),
    _visit("A01", "ADT_A01"),  # admission
    _visit("A03", "ADT_A03"),  # discharge
    _visit("A04", "ADT_A01"),  # outpatient
    _visit("A05", "ADT_A05"),  # pre-admission
    _visit("A08", "ADT_A01"),  # update
)  # fmt: skip

# hl7-mss 1.6, drim-m-data 7.2: MSH-9.1, MSH-9.2, ORC-1, OBX-11 of the document. The rest is incoherent.
OPERATIONS: dict[tuple[str, str, str, str], Operation] = {
    ("ORU", "R01", "NW", "F"): "NW",
    ("ORU", "R01", "RO", "C"): "RO",
    ("ORU", "R01", "CA", "D"): "CA",
    ("MDM", "T02", "NW", "F"): "NW",
    ("MDM", "T10", "RO", "C"): "RO",
    ("MDM", "T04", "CA", "D"): "CA",
}
SUPPORTED_OPERATIONS: frozenset[Operation] = frozenset({"NW", "RO", "CA"})
OPERATION_NAMES: dict[Operation, str] = {"NW": "creation", "RO": "replacement", "CA": "deletion"}

# table 0119 of HL7 2.5.1: what ORC-1 of an exam order may say
ORDER_CONTROLS = frozenset(
    """AF CA CH CN CR DC DE DF DR FU HD HR LI NA NW OC OD OE OF OH OK OP OR PA PR RE RF RL RO RP RQ RR RU SC SN SR SS
    UA UC UD UF UH UM UN UR UX XO XR XX""".split()  # noqa: SIM905 a table
)
CANCELLATION = "CA"  # drim-m-data 9: the only one that deletes an exam

PROCESSING_IDS = frozenset("PTD")  # table 0103
# ZFA-9: informed without opposition, opposition, not collected (hl7-mss 1.12)
Feeding = Literal["INO", "IO", "NA", ""]
OPPOSITION: Feeding = "IO"
FEEDINGS: dict[str, Feeding] = {"": "", "INO": "INO", "IO": "IO", "NA": "NA"}

# MSH-18 to a codec (table 0211 and its spellings). UTF-8 is tried first, whatever is declared (hl7-mss 1.10).
CHARACTER_SETS = {
    "": "utf-8",
    "ASCII": "utf-8",
    "UTF-8": "utf-8",
    "UTF8": "utf-8",
    "UNICODE UTF-8": "utf-8",
    "8859/1": "iso8859-1",
    "8859/15": "iso8859-15",
}

# hl7-mss 1.5: flags of MetaDMPMSS that are yes or no, and whether the profile requires them
FLAGS: dict[str, bool] = {
    "MASQUE_PS": True,
    "INVISIBLE_PATIENT": True,
    "INVISIBLE_REP_LEGAUX": True,
    "CONNEXION_SECRETE": True,
    "MODIF_CONF_CODE": True,
    "DESTDMP": True,
    "DESTMSSANTEPS": True,
    "DESTMSSANTEPAT": True,
    "ACK_RECEPTION": False,
    "ACK_LECTURE_MSS": False,
}
FLAG_ALIASES = {
    "INVISIBLE_REPRESENTANTS_LEGAUX": "INVISIBLE_REP_LEGAUX",
    "INVISIBLE_REPRENSANTS_LEGAUX": "INVISIBLE_REP_LEGAUX",
    "MODIF_CONFIDENTIALITYCODE": "MODIF_CONF_CODE",
    "ACK_LECTURE": "ACK_LECTURE_MSS",
}
FLAG_SYSTEM = "MetaDMPMSS"
OBSOLETE_FLAG = "COMP_LOT"  # of version 1.2
NOT_FLAGS = frozenset({"CORPSMAIL_PS", "CORPSMAIL_PATIENT", OBSOLETE_FLAG})  # the others: mail bodies
YES_NO = {"Y": True, "N": False}  # table 0136
PARTICIPATION = "participation"  # PRT-4.3
YES_NO_SYSTEMS = frozenset({"expandedYes-NoIndicator", "HL70136"})  # drim-m-data 7.3
# hl7-mss 1.5, the combinations that the guide knows for a message that asks for mail; N, Y or any (None)
MAIL_FLAGS = (
    "MASQUE_PS", "INVISIBLE_PATIENT", "INVISIBLE_REP_LEGAUX", "CONNEXION_SECRETE", "DESTDMP",
    "DESTMSSANTEPS", "DESTMSSANTEPAT",
)  # fmt: skip
MAIL_MATRIX: tuple[tuple[bool | None, ...], ...] = (
    (False, False, False, None, None, True, True),  # mail to professional and patient
    (False, True, False, None, None, True, False),  # mail to professional
    (None, False, None, False, False, False, True),  # mail to patient
)

# table 0357, messageErrorCondition
ERROR_CONDITIONS = {
    100: "Segment sequence error",
    101: "Required field missing",
    102: "Data type error",
    103: "Table value not found",
    198: "Cardinality error",
    199: "Other HL7 error",
    200: "Unsupported message type",
    201: "Unsupported event code",
    202: "Unsupported processing id",
    203: "Unsupported version id",
    207: "Application error",
}
# table 0533, applicationErrorCondition
APPLICATION_CONDITIONS = {
    900: "Version du document incorrecte lors d'une demande de remplacement/suppression",
    901: "Auteur non autorisé à remplacer/supprimer le document",
    902: "Patient inconnu",
    903: "Absence d'INS dans le document",
    904: "INS du document différent de celui du message ou du document connu",
    905: "INS incomplet",
    906: "Autre",
}
# Refusals of the CDA that are syntax (1.8: OBX-5 decodes, is XML, root ClinicalDocument); the others are 207.
SYNTAX_RULES = frozenset(
    {"cda-too-large", "cda-doctype", "cda-not-xml", "cda-encoding", "cda-root", "cda-too-complex"}
)
# Rules of the CDA with an application code of their own; the others are 906.
APPLICATION_CODES = {"ins-missing": 903, "ins-traits-incomplete": 905}
# ERR-2 of a refusal that is not about OBX-5: by event and code, by code, by event (hl7-mss 1.8, 1.11 B).
LOCATIONS = {
    "904": "PID^1^3",
    "document-id-mismatch": "TXA^1^12",
    "T02 906": "TXA^1^12",
    "T10 900": "TXA^1^13",
    "T10 906": "TXA^1^12",
    "T04 900": "TXA^1^12",
    "T04 906": "TXA^1^12",
    "O23": "IPC^1^3",
}

# hl7-mss 1.8, "check, in this order": slug, check, answer, codes of table 0357, codes of table 0533. The frame is the
# door's; the reader answers down to `values`, the reception the rest.
DECISIONS: tuple[tuple[str, str, str, tuple[int, ...], tuple[int, ...]], ...] = (
    ("frame", "frame size and blocks", "", (), ()),
    ("readable", "starts with MSH, delimiters readable", "AE", (100,), ()),
    (
        "header",
        "MSH-9 message / event / MSH-11 / MSH-12, and MSH-21",
        "AE",
        (200, 201, 202, 203, 207),
        (906,),
    ),
    ("characters", "MSH-18 known and bytes decode", "AE", (103, 102), ()),
    ("segments", "segment order and presence", "AE", (100,), ()),
    ("fields", "required fields", "AE", (101,), ()),
    ("coherence", "ORC-1 x OBX-11 x event coherence", "AE", (207,), (906,)),
    ("document", "OBX-5 decodes, is XML, root ClinicalDocument", "AE", (102,), ()),
    (
        "values",
        "1.5 flags, 1.12 consent, 2 orders: table values and cardinality",
        "AE",
        (101, 102, 103, 198),
        (),
    ),
    ("agreement", "TXA-12/13, OBR-4, OBX-3, PID-3 agree with the CDA", "AE", (207,), (906, 900, 904)),
    ("states", "state table 1.6", "AE", (207,), (900, 902, 903, 904, 905, 906)),
    ("room", "disk full, database locked, queue full", "AR", (207,), ()),
    ("kept", "all good and durably stored", "AA", (), ()),
)

# Defects that are read all the same and named as warnings (hl7-mss 6, 1.4, 1.5): slug -> clause.
# `mllp.senders.not_tolerated` names those that one sender is not forgiven.
TOLERANCES: dict[str, str] = {
    # the form
    "terminator": "hl7-mss 1.10",
    "before-msh": "hl7-mss 1.8",
    "line-break": "hl7-mss 1.10",
    "structure": "hl7-mss 1.3",
    "profile": "hl7-mss 1.3",
    "profile-version": "hl7-mss 6",
    "character-set": "hl7-mss 1.10",
    "message-date": "drim-m-data 7.1",
    "placeholder": "drim-m-data 7.1",
    # who and where
    "small-tilde": "drim-m-data 7.1",
    "authority-blank": "hl7-mss 1.4",
    "authority-bare-oid": "hl7-mss 1.4",
    "sender": "hl7-mss 1.4",
    "participation-label": "hl7-mss 1.4",
    "participation-table": "hl7-mss 1.5",
    # the document
    "more-documents": "hl7-mss 1.2",
    "attachment-ignored": "drim-m-data 7.3",
    "base64-encoding": "hl7-mss 1.3",
    "base64-wrapped": "hl7-mss 1.10",
    "base64-padding": "hl7-mss 1.10",
    "document-type": "hl7-mss 1.8",
    "entity-stray-component": "hl7-mss 6",
    "parent-ignored": "hl7-mss 1.6",
    # the flags
    "flag-unknown": "hl7-mss 1.5",
    "flag-missing": "hl7-mss 1.5",
    "flag-alias": "hl7-mss 1.5",
    "flag-obsolete": "hl7-mss 1.5",
    "flag-table": "hl7-mss 1.5",
    "flag-value-table": "hl7-mss 1.5",
    "flag-combination": "hl7-mss 1.5",
    "flag-mail-to-patient": "hl7-mss 1.5",
}
