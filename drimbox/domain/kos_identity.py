"""Who and where in a manifest: patient, institution, issuers, as DICOM writes them (drim-m-data 6.1, 6.2)."""

from __future__ import annotations

import re

from pydicom import Dataset

from drimbox.domain.identifiers import Identifier, Ins, is_oid
from drimbox.domain.kos_content import LO_MAX_LENGTH, item, line, long_string
from drimbox.domain.kos_iod import fits
from drimbox.domain.report import Organization, Patient

PN_MAX_LENGTH = 64
_PN_DELIMITERS = re.compile(r"[\\^=]")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_SEX = {"M": "M", "F": "F", "UN": "O"}  # JDV_J143 to PS3.3 C.7.1.1; any other: empty


def identity(patient: Patient) -> dict[str, object]:
    """The Patient module, from the report; a birth date that is no whole date is left empty (type 2).

    Raises ValueError when the patient has no INS.
    """
    ins = patient.ins
    if ins is None:
        raise ValueError("a manifest needs an INS")
    return {
        "PatientName": patient_name(patient),
        "PatientID": ins.value,
        "IssuerOfPatientID": ins.issuer,
        "IssuerOfPatientIDQualifiersSequence": issuer(ins.oid),
        "PatientBirthDate": patient.birth_date if fits("DA", patient.birth_date) else "",
        "PatientSex": _SEX.get(patient.sex, ""),
        "OtherPatientNames": other_patient_names(patient),
        "OtherPatientIDsSequence": [_other_patient_id(ins)],
        "PatientComments": line(patient.birth_place),
    }


def _other_patient_id(ins: Ins) -> Dataset:
    return item(
        PatientID=ins.value,
        IssuerOfPatientID=ins.issuer,
        TypeOfPatientID="TEXT",
        IssuerOfPatientIDQualifiersSequence=issuer(ins.oid),
    )


def patient_name(patient: Patient) -> str:
    """PatientName: birth family name ^ first birth given name (drim-m-data 6.1)."""
    return _name(patient.birth_family, patient.birth_given)


def other_patient_names(patient: Patient) -> list[str]:
    """OtherPatientNames: `^` + the birth given names; then, if one is used, used family [^ used given].

    drim-m-data 6.2. Each value is cut to 64 characters (VR PN).
    """
    names = [_name("", patient.birth_given_list or patient.birth_given)]
    if patient.used_family or patient.used_given:
        names.append(_name(patient.used_family, patient.used_given))
    return names


def institution_name(institution: Organization | None) -> str | None:
    """`name^^^^^^^^^id` (component 10, as in an XON); a long name is cut, never the identifier."""
    if institution is None:
        return None
    name = long_string(institution.name.replace("^", " "))
    identifier = long_string(number(institution.id))
    tail = f"^^^^^^^^^{identifier}" if identifier else ""
    return name[: max(0, LO_MAX_LENGTH - len(tail))].strip() + tail[-LO_MAX_LENGTH:]


def number(identifier: Identifier | None) -> str:
    """The number of an identifier, without padding; "" for none."""
    return "" if identifier is None else identifier.extension.strip()


def issuer(root: str) -> list[Dataset] | None:
    """An issuer sequence of one item (UniversalEntityID, ISO or UUID); None for a root that is neither."""
    kinds = {"ISO": is_oid(root), "UUID": bool(_UUID.fullmatch(root))}
    return next(
        ([item(UniversalEntityID=root, UniversalEntityIDType=kind)] for kind, fits in kinds.items() if fits),
        None,
    )


def _name(family: str, given: str) -> str:
    """A PN value `family^given` without delimiters in its components; no caret after the last component."""
    parts = [_PN_DELIMITERS.sub(" ", line(part)).strip() for part in (family, given)]
    return "^".join(parts)[:PN_MAX_LENGTH].rstrip("^ ")
