"""The coded parts of our metadata: constants of the KOS and of its signature, lists made from facts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from drimbox.domain.identifiers import Identifier
from drimbox.domain.report import Code
from drimbox.domain.xds import vocabulary as v
from drimbox.domain.xds.hl7_types import cxi
from drimbox.domain.xds.metadata import Coded

# The manifest (drim-m-data 5.3)
KOS_TITLE = "Reference d'Objets d'un Examen d'Imagerie"
KOS_CLASS = Coded("31", v.TRE_A03, "Imagerie médicale")
KOS_TYPE = Coded(v.IMG_KOS, v.TRE_A05, "Reference d'objets d'un examen d'imagerie")
KOS_FORMAT = Coded(
    v.KOS_FORMAT, v.DICOM_UID, "Document de Références d'objets d'imagerie selon profil IHE RAD XDS-I"
)
# The signature document (drim-m-data 5.5)
SIGNATURE_TITLE = "Source"
SIGNATURE_CLASS = Coded(v.SIGNATURE_CLASS, "URN", "Digital Signature")
SIGNATURE_TYPE = Coded(v.LOT_SIGNATURE, "ASTM", "Full Document")
SIGNATURE_FORMAT = Coded(v.SIGNATURE_FORMAT, "URN", "Default Signature Style")
SIGNATURE_EVENT = Coded(v.PURPOSE_SOURCE, v.PURPOSES, "Source")
SIGNATURE_FLAGS = ("MASQUE_PS", "INVISIBLE_PATIENT")  # always, even for a visible KOS


def confidentiality_codes(base: str, flags: Iterable[str]) -> tuple[Coded, ...]:
    """The report's own code first, then the flags (cda-and-xds 3.7); an unknown code gets no label."""
    found = ((code, v.CONFIDENTIALITY.get(code, ("", ""))) for code in dict.fromkeys((base, *flags)))
    return tuple(Coded(code, scheme or v.TRE_A07, display) for code, (scheme, display) in found)


def event_codes(regions: Sequence[Code], modalities: Sequence[str], schemes: str) -> tuple[Coded, ...]:
    """Regions, then modalities, each once, those outside JDV .695 and .618 left out (cda-and-xds 3.6)."""
    modality_scheme, region_scheme = v.EVENT_CODE_SCHEMES[schemes]
    region_codes = dict.fromkeys(region.code for region in regions if region.code in v.REGIONS)
    modality_codes = dict.fromkeys(code for code in modalities if code in v.MODALITIES)
    return (
        *(Coded(code, region_scheme, v.REGIONS[code]) for code in region_codes),
        *(Coded(code, modality_scheme, v.MODALITIES[code]) for code in modality_codes),
    )


def reference_id_list(
    accessions: Iterable[Identifier], study_instance_uid: str, authority: str, placers: Iterable[Identifier]
) -> tuple[str, ...]:
    """Accessions, the study (`authority`: its CX.4 or empty), placer orders, each once (cda-and-xds 3.6)."""
    values = (
        *(cxi(accession.extension, accession.root, v.ACCESSION) for accession in accessions),
        cxi(study_instance_uid, authority, v.STUDY_INSTANCE_UID),
        *(cxi(placer.extension, placer.root, v.ORDER) for placer in placers),
    )
    return tuple(dict.fromkeys(values))


def content_type_code(patient_class: str | None) -> Coded:
    """contentTypeCode of PV1-2 (hl7-mss 1.9); none or unknown: 07, outpatient radiology (cda-and-xds 7)."""
    code = v.CONTENT_TYPE_OF_PATIENT_CLASS.get(patient_class or "", v.DEFAULT_CONTENT_TYPE)
    return Coded(code, v.TRE_R209, v.CONTENT_TYPES[code])


def as_coded(code: Code | None) -> Coded | None:
    """A code of the report as it is."""
    return None if code is None else Coded(code.code, code.system, code.display)
