"""Code systems and value sets of imaging reports, as data (cda-and-xds 2.4)."""

from __future__ import annotations

LOINC = "2.16.840.1.113883.6.1"
DCM = "1.2.840.10008.2.16.4"
SNOMED_CT = "2.16.840.1.113883.6.96"
CCAM_SYSTEMS = frozenset({"1.2.250.1.215.300.1", "1.2.250.1.213.2.5"})  # two OIDs, one nomenclature
CONFIDENTIALITY = "2.16.840.1.113883.5.25"
PS_ID_NAT = "1.2.250.1.71.4.2.1"  # professionals
STRUCT_ID_NAT = "1.2.250.1.71.4.2.2"  # structures

IMAGING_REPORT = "18748-4"  # LOINC, JDV_J07
MODALITY_QUALIFIER = "121139"  # DCM, "Modality"
REGION_QUALIFIER = "39111-0"  # LOINC, "Body site"

# JDV_ModaliteAcquisition_CISIS 1.2.250.1.213.1.1.5.618
MODALITIES = frozenset(
    """
    AR BDUS BI BMD CR CT DG DMS DX ECG EEG EMG EOG EPS ES GM HD IO IVOCT IVUS KER LEN LS MG MR NM OAM OCT OP
    OPM OPT OPTBSV OPTENF OPV OSS POS PT PX RESP RF RG RTIMAGE SM SRF TG US VA XA XC
    """.split()  # noqa: SIM905 a table
)
MODALITY_ALIASES = {"RM": "MR"}  # French acronym, met in ANS and RIS samples

# JDV_RegionAnatomique_CISIS 1.2.250.1.213.1.1.5.695
REGIONS = {
    "63337009": "abdomen et pelvis",
    "38266002": "corps entier",
    "53120007": "membre supérieur",
    "61685007": "membre inférieur",
    "67734004": "segment thoracique du tronc",
    "774007": "structure de la tête et/ou du cou",
    "113257007": "système cardiovasculaire",
    "80891009": "coeur",
    "76752008": "sein",
    "737561001": "colonne vertébrale et/ou moelle épinière",
}

# 2.16.840.1.113883.1.11.10228: what a CDA may say of its own confidentiality
CONFIDENTIALITY_CODES = frozenset("LMNRUV")
# XDS-only codes: they travel in HL7v2 OBX and are refused inside a CDA (cda-and-xds section 0, row 13)
VISIBILITY_CODES = frozenset({"MASQUE_PS", "INVISIBLE_PATIENT", "INVISIBLE_REPRESENTANTS_LEGAUX"})
