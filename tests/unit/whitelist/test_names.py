"""Certificate names as text: the quotings, orders and identifiers met (trust-and-identity 3.7, 5.3)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from whitelist.errors import Unusable
from whitelist.names import Match, attributes, compare, subject_text, values

SAME, WEAK, DIFFERENT = Match.SAME, Match.WEAK, Match.DIFFERENT
NAME = "CN=db156.test.fr,OU=318751275100020,O=AGENCE DU NUMERIQUE,ST=Côte-d'Or (21),C=FR"


@pytest.mark.parametrize(
    "written",
    [
        NAME,
        "C=FR,ST=Côte-d'Or (21),O=AGENCE DU NUMERIQUE,OU=318751275100020,CN=db156.test.fr",
        "C = FR, ST = Côte-d'Or (21), O = AGENCE DU NUMERIQUE, OU = 318751275100020, CN = db156.test.fr",
        'CN="db156.test.fr", OU="318751275100020", O="AGENCE DU  NUMERIQUE", ST="Côte-d\'Or (21)", C=FR',
        "cn=DB156.Test.FR,ou=318751275100020,o=Agence du numérique,st=CÔTE-D'OR (21),c=fr".replace("é", "e"),
        "CN=db156.test.fr,OU=318751275100020,O=AGENCE\u00a0DU NUMERIQUE,ST=Côte-d'Or(21),C=FR",
        "CN=db156.test.fr,OU=318751275100020,O=AGENCE DU NUMERIQUE,ST=Co\u0302te-d'Or (21),C=FR",
        "CN=db156.test.fr,OU=318751275100020,O=AGENCE DU NUMERIQUE,ST=C\\C3\\B4te-d'Or (21),C=FR",
        "2.5.4.3=db156.test.fr,OID.2.5.4.11=318751275100020,O=AGENCE DU NUMERIQUE,S=Côte-d'Or (21),C=FR",
        "CN=db156.test.fr+OU=318751275100020;O=AGENCE DU NUMERIQUE;ST=Côte-d'Or (21);C=FR",
        "CN=db156.test.fr,OU=3 187512751 00020,O=AGENCE DU NUMERIQUE,ST=Côte-d'Or (21),C=FR",
    ],
    ids=[
        "itself",
        "reversed",
        "openssl",
        "java",
        "case",
        "nbsp",
        "nfd",
        "hex",
        "types",
        "separators",
        "digits",
    ],
)
def test_the_same_name_otherwise_written(written: str) -> None:
    assert compare(NAME, written) is SAME
    assert compare(written, NAME) is SAME


@pytest.mark.parametrize(
    ("of_the_list", "of_the_certificate"),
    [
        ('O="C.H. DE  CADILLAC"', "O=C.H. DE CADILLAC"),
        ('O=CENTRE HOSPITALIER "FRANCK-JOLY"', 'O=CENTRE HOSPITALIER \\"FRANCK-JOLY\\"'),
        ('O="CABINET DUPONT, DURAND"', "O=CABINET DUPONT\\, DURAND"),
        ("O=CABINET DUPONT, DURAND", "O=CABINET DUPONT\\, DURAND"),
        ("O=A+B SANTE", "O=A\\+B SANTE"),
        ("O=A+B=C", "O=A\\+B\\=C"),
        ('O=ECRAN 24" SARL', 'O=ECRAN 24\\" SARL'),
        ("O=CLINIQUE\u00a0\u00a0DU LAC ", "O=CLINIQUE DU LAC"),
        ("ST=Lyon(69)", "ST=Lyon (69)"),
        ("O=\\#1", "O=#1"),
        ("O=a\\", "O=a\\\\"),
    ],
)
def test_quirks_of_the_mssante_list(of_the_list: str, of_the_certificate: str) -> None:
    left, right = f"CN=a.fr, {of_the_list}, L=Lyon, C=FR", f"CN=a.fr,{of_the_certificate},L=Lyon,C=FR"
    assert compare(left.replace("\\, L", ", L"), right.replace("\\\\,L", ",L")) is SAME


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (NAME, NAME.replace("db156", "db157")),
        (NAME, NAME.replace("db156.test.fr", "x.db156.test.fr")),
        (NAME, NAME.replace("C=FR", "C=BE")),
        (NAME, NAME.replace(",C=FR", "")),
        (NAME, NAME + ",C=FR"),
        (NAME, NAME.replace("Côte", "Cote")),
        (NAME, NAME.replace("ST=", "L=")),
        (NAME, NAME.replace("OU=318751275100020", "OU=318751275100021")),
        (NAME, NAME.replace("OU=318751275100020,", "")),
        (NAME, NAME.replace("OU=", "OU=318751275100020,OU=")),
        ("CN=a.fr,O=X", "CN=a.fr\\,O=X"),
        ("CN=a.fr,O=X", 'CN="a.fr,O=X"'),
        ("CN=a.fr", "CN=b.fr+CN=a.fr"),
        ("O=A\\FF", "O=A\\FE"),
        ("", ""),
        ("db156.test.fr", "db156.test.fr"),
        ("CN=a", ""),
        (f"CN={'a' * 5000}", f"CN={'a' * 5000}"),
    ],
)
def test_other_names(left: str, right: str) -> None:
    assert compare(left, right) is DIFFERENT
    assert compare(right, left) is DIFFERENT


@pytest.mark.parametrize(
    ("ours", "theirs", "match"),
    [
        ("OU=318751275100020", "OU=18751275100020", WEAK),  # SIRET without its type digit (old samples)
        ("OU=1690781810", "OU=690781810", WEAK),  # FINESS
        ("OU=2187512751", "OU=187512751", WEAK),  # SIREN
        ("OU=12A0000012", "OU=2A0000012", WEAK),  # FINESS of Corsica
        ("OU=12A0000012", "OU=12B0000012", WEAK),  # only the digits agree
        ("OU=SIRET 318751275100020", "OU=318751275100020", WEAK),
        ("OU=0002 187512751", "OU=0002187512751", SAME),
        ("OU=IGC-SANTE,OU=318751275100020", "OU=318751275100020,OU=igc-sante", SAME),
        ("OU=IGC-SANTE,OU=318751275100020", "OU=18751275100020,OU=IGC-SANTE", WEAK),
        ("OU=IGC-SANTE,OU=318751275100020", "OU=18751275100020,OU=AUTRE", DIFFERENT),
        ("OU=318751275100020", "OU=118751275100020", DIFFERENT),  # another register
        ("OU=918751275100020", "OU=18751275100020", DIFFERENT),  # 9 is no type digit
        ("OU=Radiologie 3", "OU=Cardiologie 3", DIFFERENT),
        ("OU=31", "OU=1", DIFFERENT),
        ("OU=...", "OU=---", DIFFERENT),
    ],
)
def test_organisational_units(ours: str, theirs: str, match: Match) -> None:
    assert compare(f"CN=a.fr,{ours},C=FR", f"C=FR, {theirs}, CN=A.fr") is match
    assert compare(f"CN=a.fr,{theirs},C=FR", f"C=FR, {ours}, CN=A.fr") is match
    assert compare(f"CN=a.fr,{ours},C=FR", f"C=FR, {theirs}, CN=B.fr") is DIFFERENT


def test_attributes_are_typed_and_normalised() -> None:
    assert attributes('E=A@b.fr, 2.5.4.97=NTRFR-1, CN="Straße"') == (
        ("EMAILADDRESS", "a@b.fr"),
        ("ORGANIZATIONIDENTIFIER", "ntrfr-1"),
        ("CN", "strasse"),
    )
    with pytest.raises(Unusable, match="name"):
        attributes("no name")
    assert values(NAME, "CN") == ("db156.test.fr",)
    assert values(NAME, "L") == values("no name", "CN") == ()


def test_the_subject_of_a_certificate_compares_with_the_list() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    parts = [(NameOID.COUNTRY_NAME, "FR"), (NameOID.STATE_OR_PROVINCE_NAME, "Côte-d'Or (21)")]
    parts += [
        (NameOID.ORGANIZATION_NAME, 'C.H. "X", Y'),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "318751275100020"),
    ]
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + timedelta(days=1))
    ).sign(key, hashes.SHA256())
    assert subject_text(certificate) == 'OU=318751275100020,O=C.H. \\"X\\"\\, Y,ST=Côte-d\'Or (21),C=FR'
    assert (
        compare(subject_text(certificate), 'OU=318751275100020, O=C.H. "X"\\, Y, ST=Côte-d\'Or(21), C=FR')
        is SAME
    )
