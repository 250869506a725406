"""The official lists, read from their canonical octets (trust-and-identity 3.2, drim-m-data 2.1)."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from lxml import etree

from whitelist.document import NAMESPACES, read_list
from whitelist.errors import Unusable
from whitelist.names import Match, compare, subject_text, values

DS = "{http://www.w3.org/2000/09/xmldsig#}"
CURRENT = "LISTEBLANCHE_DRIM-M_SIGNEE_TEST.xml"
OLD = "LISTEBLANCHE_DRIM-M_SIGNEE_TEST.2025.08.08.xml"
UNSIGNED = "LISTEBLANCHE_DRIM-M_NONSIGNEE_TEST.xml"
SIGNER = "CN=Liste Blanche DRIM-M,OU=318751275100020,O=AGENCE DU NUMERIQUE EN SANTE,ST=Paris (75),C=FR"


def parsed(path: Path) -> etree._Element:
    return etree.fromstring(path.read_bytes(), etree.XMLParser(resolve_entities=False, no_network=True))


def canonical(path: Path) -> bytes:
    """What the signature covers: the document without it, its tail kept."""
    root = parsed(path)
    for signature in root.findall(f"{DS}Signature"):
        previous = signature.getprevious()
        assert previous is not None
        previous.tail = (previous.tail or "") + (signature.tail or "")
        root.remove(signature)
    return etree.tostring(root, method="c14n", exclusive=True, with_comments=False)


@pytest.mark.parametrize(
    ("name", "generated", "entries"),
    [
        (CURRENT, datetime(2026, 6, 19, 18, 6, 52, tzinfo=UTC), 17),
        (OLD, datetime(2025, 7, 23, 11, 8, 12, tzinfo=UTC), 6),
        (UNSIGNED, datetime(2025, 9, 10, 11, 8, 12, tzinfo=UTC), None),
    ],
)
def test_every_entry_is_read_without_a_warning(
    official: Path, name: str, generated: datetime, entries: int | None
) -> None:
    octets = canonical(official / "whitelist" / name)
    read = read_list(octets)
    assert (read.namespace, read.version, read.generated_at) == (NAMESPACES[0], "1.0.0", generated)
    assert (read.warnings, read.unreadable) == ((), ())
    assert len(read.domains) == octets.count(b"<Domaine>")
    assert entries is None or len(read.domains) == entries
    for domain in read.domains:
        assert domain.label
        assert domain.updated_at
        assert values(domain.operator, "CN") == (domain.db,)
        assert read.entries_of(domain.db.upper()) == (domain,)


def test_the_entries_of_the_list_in_force(official: Path) -> None:
    read = read_list(canonical(official / "whitelist" / CURRENT))
    identifiers = "3 4 5 7 154 1541 1542 1543 155 156 157 161 167 169 172 175 178"
    assert {domain.identifier for domain in read.domains} == set(identifiers.split())
    (edl,) = read.entries_of("db156.test.mesimagesmedicales.fr")
    assert edl.vi == "vi156.test.mesimagesmedicales.fr"
    assert {domain.vi.partition(".")[2] for domain in read.domains} == {"test.mesimagesmedicales.fr"}


def test_its_names_mean_what_an_rfc_4514_parser_reads(official: Path) -> None:
    domains = read_list(canonical(official / "whitelist" / CURRENT)).domains
    for domain in domains:
        strict = x509.Name.from_rfc4514_string(domain.operator)
        assert compare(domain.operator, strict.rfc4514_string()) is Match.SAME
        assert compare(domain.operator, x509.Name(reversed(list(strict))).rfc4514_string()) is Match.SAME
    assert [compare(a.operator, b.operator) for a in domains for b in domains].count(Match.SAME) == len(
        domains
    )


@pytest.mark.parametrize("name", [CURRENT, OLD])
def test_the_signer_is_named_as_configured(official: Path, name: str) -> None:
    leaf = next(parsed(official / "whitelist" / name).iter(f"{DS}X509Certificate"))
    certificate = x509.load_der_x509_certificate(base64.b64decode(leaf.text or ""))
    assert compare(subject_text(certificate), SIGNER) is Match.SAME


def test_the_name_in_the_signature_of_the_old_list(official: Path) -> None:
    written = next(parsed(official / "whitelist" / OLD).iter(f"{DS}X509SubjectName")).text or ""
    assert compare(written, SIGNER) is Match.SAME


def test_a_signed_file_is_not_what_is_read(official: Path) -> None:
    with pytest.raises(Unusable, match="signature-inside"):
        read_list((official / "whitelist" / CURRENT).read_bytes())
