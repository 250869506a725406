"""Value sets of imaging reports (jeux de valeurs) as data: OID, name, version and codes, nothing that computes.

Source edition where a set has no version of its own: TestContenuCDA-3-0 of 2025-02-19 (cda-and-xds, tag TC3).
A set of which only some codes are known here is shipped as `complete=False` and refuses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from drimbox.domain.xds import vocabulary

_TC3 = "TestContenuCDA-3-0, 2025-02-19"


@dataclass(frozen=True, slots=True)
class ValueSet:
    """One set: `codes` maps a code to its label. `complete`: every code of the published set is there."""

    oid: str
    name: str
    version: str
    codes: Mapping[str, str]
    complete: bool = True

    def __contains__(self, code: object) -> bool:
        return code in self.codes

    def refuses(self, code: str) -> bool:
        """True when the set is known whole and `code` is not in it."""
        return self.complete and code not in self.codes


# cda-and-xds 2.4
MODALITIES = ValueSet("1.2.250.1.213.1.1.5.618", "JDV_ModaliteAcquisition_CISIS", _TC3, vocabulary.MODALITIES)
REGIONS = ValueSet("1.2.250.1.213.1.1.5.695", "JDV_RegionAnatomique_CISIS", _TC3, vocabulary.REGIONS)
# An older list than .695 held them too: read, never written (cda-and-xds 2.4)
OLDER_REGIONS = frozenset({"69536005", "45048000", "786880003"})

# cda-and-xds 2.1: what a CDA may say of its own confidentiality; the DMP takes N, R and V
CONFIDENTIALITY = ValueSet(
    "2.16.840.1.113883.1.11.10228",
    "Confidentiality",
    _TC3,
    {
        "L": "low",
        "M": "moderate",
        "N": "normal",
        "R": "restricted",
        "U": "unrestricted",
        "V": "very restricted",
    },
)
# cda-and-xds section 0, row 13: metadata of the DMP that travel in OBX and are refused inside a CDA
VISIBILITY_CODES = frozenset(vocabulary.CONFIDENTIALITY) - frozenset(vocabulary.BASE_CONFIDENTIALITY)

# cda-and-xds 2.2; OID and version: Terminologies de Santé 1.10.0
ADMINISTRATIVE_GENDERS = ValueSet(
    "1.2.250.1.213.1.1.5.590",
    "JDV_J143_AdministrativeGender_CISIS",
    "20210326120000",
    {"F": "Féminin", "M": "Masculin", "UN": "Inconnu"},
)
# cda-and-xds 2.4; OID and version: Terminologies de Santé 1.10.0
ENCOUNTERS = ValueSet(
    "1.2.250.1.213.1.1.5.589",
    "JDV_J142_TypeRencontre_CISIS",
    "20210326120000",
    {
        "IMP": "Hospitalisation (établissement, y compris HAD)",
        "EMER": "Passage aux urgences (établissement)",
        "AMB": "Ambulatoire (hors établissement)",
        "FLD": "Terrain (voie publique, hélicoptère, ambulance, etc.)",
        "HH": "Soins à domicile (hors établissement)",
        "VR": "Virtuelle (exemple : RCP en l'absence du patient)",
        "EXTERNE": "Acte et consultation externe (établissement)",
        "SEANCE": "Séance (établissement ou libéral)",
    },
)

# cda-and-xds 3.8: the twelve codes, whose labels the facts do not give
PRACTICE_SETTINGS = ValueSet(
    "1.2.250.1.213.1.1.5.467",
    "JDV_J04_XdsPracticeSettingCode_CISIS",
    _TC3,
    dict.fromkeys(
        (
            "AMBULATOIRE",
            "ETABLISSEMENT",
            "DEPISTAGE",
            "HAD",
            "SAMU_SMUR",
            "ESSMS",
            "AMO",
            "MAD",
            "PALLIATIF",
            "SAD",
            "SNR",
            "EXP_PATIENT",
        ),
        "",
    ),
)
# cda-and-xds 3.8: seven of its 69 codes
FACILITY_TYPES = ValueSet(
    "1.2.250.1.213.1.1.5.466",
    "JDV_J02_XdsHealthcareFacilityTypeCode_CISIS",
    _TC3,
    {
        "SA01": "public",
        "SA04": "private",
        "SA05": "health centre",
        "SA07": "single practice",
        "SA08": "group practice",
        "SA09": "company",
        "SA25": "laboratory",
    },
    complete=False,
)

VALUE_SETS: tuple[ValueSet, ...] = (
    MODALITIES,
    REGIONS,
    CONFIDENTIALITY,
    ADMINISTRATIVE_GENDERS,
    ENCOUNTERS,
    PRACTICE_SETTINGS,
    FACILITY_TYPES,
)
