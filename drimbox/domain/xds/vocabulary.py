"""Constants of XDS.b and of the CI-SIS/DMP value sets that our lots use. Tables only.

Sources: cda-and-xds 3.1, 3.6-3.10; drim-m-data 5.2-5.5; dmp-kos-xds 2.1-2.6. Labels are those of the ANS
value sets JDV_J08, JDV_J59, JDV .618 and JDV .695.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

# -- namespaces
RIM: Final = "urn:oasis:names:tc:ebxml-regrep:xsd:rim:3.0"
LCM: Final = "urn:oasis:names:tc:ebxml-regrep:xsd:lcm:3.0"
RS: Final = "urn:oasis:names:tc:ebxml-regrep:xsd:rs:3.0"
QUERY: Final = "urn:oasis:names:tc:ebxml-regrep:xsd:query:3.0"
XDS_B: Final = "urn:ihe:iti:xds-b:2007"
XOP: Final = "http://www.w3.org/2004/08/xop/include"
# rim is the default namespace; the stubs of lxml know no default prefix
NSMAP_LCM: Mapping[Any, str] = {None: RIM, "lcm": LCM}
NSMAP_QUERY: Mapping[Any, str] = {None: RIM, "query": QUERY}

# -- WS-Addressing actions (dmp-kos-xds 2.1)
ITI_41: Final = "urn:ihe:iti:2007:ProvideAndRegisterDocumentSet-b"
ITI_18: Final = "urn:ihe:iti:2007:RegistryStoredQuery"
ITI_57: Final = "urn:ihe:iti:2010:UpdateDocumentSet"
GET_DOCUMENTS: Final = "urn:uuid:5c4f972b-d56b-40ac-a5fc-c8ca9b40b9d4"

# -- object and classification UUIDs (cda-and-xds 3.1)
SUBMISSION_SET_NODE: Final = "urn:uuid:a54d6aa5-d40d-43f9-88c5-b4633d873bdd"
SUBMISSION_SET_AUTHOR: Final = "urn:uuid:a7058bb9-b4e4-4307-ba5b-e3f0ab85e12d"
SUBMISSION_SET_CONTENT_TYPE: Final = "urn:uuid:aa543740-bdda-424e-8c96-df4873be8500"
SUBMISSION_SET_PATIENT_ID: Final = "urn:uuid:6b5aea1a-874d-4603-a4bc-96a0a7b38446"
SUBMISSION_SET_SOURCE_ID: Final = "urn:uuid:554ac39e-e3fe-47fe-b233-965d2a147832"
SUBMISSION_SET_UNIQUE_ID: Final = "urn:uuid:96fdda7c-d067-4183-912e-bf5ee74998a8"
STABLE_DOCUMENT: Final = "urn:uuid:7edca82f-054d-47f2-a032-9b2a5b5186c1"
DOCUMENT_AUTHOR: Final = "urn:uuid:93606bcf-9494-43ec-9b4e-a7748d1a838d"
DOCUMENT_CLASS: Final = "urn:uuid:41a5887f-8865-4c09-adf7-e362475b143a"
DOCUMENT_TYPE: Final = "urn:uuid:f0306f51-975f-434e-a61c-c59651d33983"
DOCUMENT_CONFIDENTIALITY: Final = "urn:uuid:f4f85eac-e6cb-4883-b524-f2705394840f"
DOCUMENT_FORMAT: Final = "urn:uuid:a09d5840-386c-46f2-b5ad-9c3699a4309d"
DOCUMENT_FACILITY_TYPE: Final = "urn:uuid:f33fb8ac-18af-42cc-ae0e-ed0b0bdb91e1"
DOCUMENT_PRACTICE_SETTING: Final = "urn:uuid:cccf5598-8b07-4b77-a05e-ae952c785ead"
DOCUMENT_EVENT_CODE: Final = "urn:uuid:2c6b8cb7-8b2a-4051-b291-b1ae6a575ef4"
DOCUMENT_PATIENT_ID: Final = "urn:uuid:58a6f841-87b3-4a3e-92fd-a8ffeff98427"
DOCUMENT_UNIQUE_ID: Final = "urn:uuid:2e82c1f6-a085-4c72-9da3-8640a32e42ab"

# -- associations and statuses (cda-and-xds 3.1, dmp-kos-xds 2.5)
HAS_MEMBER: Final = "urn:oasis:names:tc:ebxml-regrep:AssociationType:HasMember"
RPLC: Final = "urn:ihe:iti:2007:AssociationType:RPLC"
SIGNS: Final = "urn:ihe:iti:2007:AssociationType:signs"
UPDATE_AVAILABILITY_STATUS: Final = "urn:ihe:iti:2010:AssociationType:UpdateAvailabilityStatus"
APPROVED: Final = "urn:oasis:names:tc:ebxml-regrep:StatusType:Approved"
DEPRECATED: Final = "urn:oasis:names:tc:ebxml-regrep:StatusType:Deprecated"
DELETED: Final = "urn:asip:ci-sis:2010:StatusType:Deleted"
ARCHIVED: Final = "urn:asip:ci-sis:2010:StatusType:Archived"
# The only status change that a plain indirect publisher may ask (TD3.3c, dmp-kos-xds 2.5 and 2.8).
WITHDRAWABLE_STATUSES: Final = (APPROVED, ARCHIVED)
RESPONSE_SUCCESS: Final = "urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Success"
RESPONSE_FAILURE: Final = "urn:oasis:names:tc:ebxml-regrep:ResponseStatusType:Failure"
SEVERITY_WARNING: Final = "urn:oasis:names:tc:ebxml-regrep:ErrorSeverityType:Warning"

# -- code systems
PS_ID_NAT: Final = "1.2.250.1.71.4.2.1"
STRUCT_ID_NAT: Final = "1.2.250.1.71.4.2.2"
TRE_A00: Final = "1.2.250.1.213.1.1.4.6"  # producers that are no health professional: AUTOMATE, DISPOSITIF
TRE_A01: Final = "1.2.250.1.213.1.1.4.9"  # practice setting
TRE_A03: Final = "1.2.250.1.213.1.1.4.1"  # class
TRE_A05: Final = "1.2.250.1.213.1.1.4.12"  # type
TRE_A07: Final = "1.2.250.1.213.1.1.4.13"  # DMP confidentiality
TRE_A08: Final = "2.16.840.1.113883.5.25"  # HL7 confidentiality
TRE_R02: Final = "1.2.250.1.71.4.2.4"  # facility type, sector
TRE_R209: Final = "1.2.250.1.213.2.2"  # content type
DICOM_UID: Final = "1.2.840.10008.2.6.1"
DCM: Final = "1.2.840.10008.2.16.4"
SNOMED_CT: Final = "2.16.840.1.113883.6.96"
JDV_MODALITY: Final = "1.2.250.1.213.1.1.5.618"
JDV_REGION: Final = "1.2.250.1.213.1.1.5.695"
LOINC: Final = "2.16.840.1.113883.6.1"

# codingScheme of (modality, region) in eventCodeList, by setting (cda-and-xds 3.6, schemes A and B).
EVENT_CODE_SCHEMES: Mapping[str, tuple[str, str]] = {
    "code_system": (DCM, SNOMED_CT),
    "value_set": (JDV_MODALITY, JDV_REGION),
}

# -- referenceIdList types that the DMP takes: JDV_J231 (cda-and-xds 3.6)
REFERENCE_ID_LIST: Final = "urn:ihe:iti:xds:2013:referenceIdList"
ACCESSION: Final = "urn:ihe:iti:xds:2013:accession"
ORDER: Final = "urn:ihe:iti:xds:2013:order"
STUDY_INSTANCE_UID: Final = "urn:ihe:iti:xds:2016:studyInstanceUID"
REFERENCE_TYPES: Final = frozenset({ACCESSION, ORDER, STUDY_INSTANCE_UID})

# -- confidentialityCode: JDV_J08 (drim-m-data 5.4, cda-and-xds 3.7)
CONFIDENTIALITY: Mapping[str, tuple[str, str]] = {
    "N": (TRE_A08, "Normal"),
    "R": (TRE_A08, "Restreint"),
    "V": (TRE_A08, "Très restreint"),
    "MASQUE_PS": (TRE_A07, "Masqué aux professionnels de santé"),
    "INVISIBLE_PATIENT": (TRE_A07, "Non visible par le patient"),
    "INVISIBLE_REPRESENTANTS_LEGAUX": (TRE_A07, "Non visible par les représentants légaux"),
}
BASE_CONFIDENTIALITY: Final = ("N", "R", "V")

# -- contentTypeCode: PV1-2 -> TRE_R209 (hl7-mss 1.9, cda-and-xds 3.2); none: 07, outpatient radiology
CONTENT_TYPES: Mapping[str, str] = {
    "03": "Hospitalisation complète (non compris hospitalisation de semaine)",
    "07": "Consultation Soins Externes",
    "19": "Traitement et Cure Ambulatoire",
    "97": "Type d'activité indifférencié",
}
CONTENT_TYPE_OF_PATIENT_CLASS: Mapping[str, str] = {"I": "03", "O": "07", "E": "07", "R": "19", "N": "97"}
DEFAULT_CONTENT_TYPE: Final = "07"

# -- anatomical regions: JDV .695 (ten codes; older ones are read, never written; cda-and-xds 2.4)
REGIONS: Mapping[str, str] = {
    "63337009": "segment abdominopelvien du tronc",
    "38266002": "corps entier",
    "53120007": "membre supérieur",
    "61685007": "membre inférieur",
    "67734004": "segment thoracique du tronc",
    "774007": "tête et cou",
    "113257007": "système cardiovasculaire",
    "80891009": "cœur",
    "76752008": "sein",
    "737561001": "colonne vertébrale et/ou moelle épinière",
}

# -- acquisition modalities: JDV .618 (cda-and-xds 2.4); SR, KO, PR, SEG... are no modality of this set
MODALITIES: Mapping[str, str] = {
    "AR": "Autoréfraction",
    "BDUS": "Échodensitométrie osseuse",
    "BI": "Imagerie biomagnétique",
    "BMD": "Ostéodensitométrie",
    "CR": "Radiographie assistée par ordinateur",
    "CT": "Tomodensitométrie",
    "DG": "Diaphanographie",
    "DMS": "Dermoscopie",
    "DX": "Radiographie numérique",
    "ECG": "Électrocardiographie",
    "EEG": "Électroencéphalographie",
    "EMG": "Électromyographie",
    "EOG": "Électrooculographie",
    "EPS": "Électrophysiologie cardiaque",
    "ES": "Endoscopie",
    "GM": "Microscopie générale",
    "HD": "Onde hémodynamique",
    "IO": "Radiographie intrabuccale",
    "IVOCT": "Tomographie par cohérence optique intravasculaire",
    "IVUS": "Ultrasonore intravasculaire",
    "KER": "Kératométrie",
    "LEN": "Lensométrie",
    "LS": "Scan laser",
    "MG": "Mammographie",
    "MR": "Résonance magnétique",
    "NM": "Médecine nucléaire",
    "OAM": "Mesures axiales ophtalmiques",
    "OCT": "Tomographie à cohérence optique",
    "OP": "Photographique ophtalmique",
    "OPM": "Cartographie ophtalmique",
    "OPT": "Tomographie ophtalmique",
    "OPTBSV": "Tomographie ophtalmique B-scan analyse de volume",
    "OPTENF": "Tomographie ophtalmique en face",
    "OPV": "Champ visuel ophtalmique",
    "OSS": "Scanner optique de surface",
    "POS": "Détecteur de position",
    "PT": "TEP : Tomographie par émission de positons",
    "PX": "Panoramique X-Ray",
    "RESP": "Onde respiratoire",
    "RF": "Radio-fluoroscopie",
    "RG": "Imagerie radiographique",
    "RTIMAGE": "Image RT",
    "SM": "Microscopie à lames",
    "SRF": "Réfraction subjective",
    "TG": "Thermographie",
    "US": "Échographie",
    "VA": "Acuité visuelle",
    "XA": "Angiographie X-Ray",
    "XC": "Caméra de photographie externe",
}

# -- classCode of a typeCode (NOS ASS_X04/ASS_X16, cda-and-xds 3.8): class is derived, never configured
IMG_KOS: Final = "IMG-KOS"
LOT_SIGNATURE: Final = "E1762"
SIGNATURE_CLASS: Final = "urn:oid:1.3.6.1.4.1.19376.1.2.1.1.1"
CLASS_OF_TYPE: Mapping[str, str] = {IMG_KOS: "31", "18748-4": "31", LOT_SIGNATURE: SIGNATURE_CLASS}
KOS_FORMAT: Final = "1.2.840.10008.5.1.4.1.1.88.59"
SIGNATURE_FORMAT: Final = "http://www.w3.org/2000/09/xmldsig#"
PURPOSE_SOURCE: Final = "1.2.840.10065.1.12.1.14"
PURPOSES: Final = "1.2.840.10065.1.12"

# -- professions of the VIHF role: TRE_G15, in force
TRE_G15: Final = "1.2.250.1.71.1.2.7"
TRE_R01: Final = "1.2.250.1.71.4.2.5"
PROFESSIONS: Mapping[str, str] = {
    "10": "Médecin",
    "21": "Pharmacien",
    "26": "Audioprothésiste",
    "28": "Opticien-Lunetier",
    "31": "Assistant dentaire",
    "32": "Physicien médical",
    "40": "Chirurgien-Dentiste",
    "50": "Sage-Femme",
    "60": "Infirmier",
    "69": "Infirmier psychiatrique",
    "70": "Masseur-Kinésithérapeute",
    "80": "Pédicure-Podologue",
    "86": "Technicien de laboratoire médical",
    "91": "Orthophoniste",
    "92": "Orthoptiste",
    "94": "Ergothérapeute",
    "95": "Diététicien",
    "96": "Psychomotricien",
    "98": "Manipulateur ERM",
}
