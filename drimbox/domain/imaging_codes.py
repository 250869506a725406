"""Code systems and the few codes that an imaging report is recognised by (cda-and-xds 2.4); sets: `value_sets`."""

from __future__ import annotations

LOINC = "2.16.840.1.113883.6.1"
DCM = "1.2.840.10008.2.16.4"
SNOMED_CT = "2.16.840.1.113883.6.96"
CCAM_SYSTEMS = frozenset({"1.2.250.1.215.300.1", "1.2.250.1.213.2.5"})  # two OIDs, one nomenclature
FACILITY_SYSTEM = "1.2.250.1.71.4.2.4"  # TRE_R02, sector of activity
PS_ID_NAT = "1.2.250.1.71.4.2.1"  # professionals
STRUCT_ID_NAT = "1.2.250.1.71.4.2.2"  # structures

IMAGING_REPORT = "18748-4"  # LOINC, JDV_J07
MODALITY_QUALIFIER = "121139"  # DCM, "Modality"
REGION_QUALIFIER = "39111-0"  # LOINC, "Body site"
MODALITY_ALIASES = {"RM": "MR"}  # French acronym, met in ANS and RIS samples
CATALOG_STUDY = "113014"  # DCM, the study of an object catalog (level 3)
CATALOG_SERIES = "113015"  # DCM, its series
CONCLUSION = "19005-8"  # LOINC, the section that every level 3 report has

# templateId/@root (cda-and-xds 2.1)
HL7_FRANCE_TEMPLATE = "2.16.840.1.113883.2.8.2.1"
CI_SIS_TEMPLATE = "1.2.250.1.213.1.1.1.1"
XDS_SD_TEMPLATE = "1.3.6.1.4.1.19376.1.2.20"  # level 1 only
STRUCTURED_TEMPLATE = "1.2.250.1.213.1.1.1.45"  # level 3 only
