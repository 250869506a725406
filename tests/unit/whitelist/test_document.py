"""The list document: three shapes, two namespaces, tolerance of form, and what is never tolerated."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from whitelist import document
from whitelist.document import MSSANTE_ROOT, NAMESPACES, Domain, TrustedList, read_host, read_list
from whitelist.errors import Unusable

GITHUB, DRAFT = NAMESPACES
MSSANTE = "https://listeblanche.mssante.fr/schema"
DN = "CN=db156.test.mesimagesmedicales.fr,OU=300000001832013,O=MINISTERE DE TEST3201,ST=Côte-d'Or (21),C=FR"
DATE = "2025-08-08T11:27:12Z"
ENTRY = {
    "Identifiant": "156",
    "db": "db156.test.mesimagesmedicales.fr",
    "vi": "vi156.test.mesimagesmedicales.fr",
    "Denomination": "EDL",
    "DNCertificatOperateur": DN,
    "SupportContact": "support@edl.example",
    "DateMAJ": DATE,
}
AS_READ = Domain(
    "156",
    "db156.test.mesimagesmedicales.fr",
    "vi156.test.mesimagesmedicales.fr",
    "EDL",
    DN,
    "support@edl.example",
    datetime(2025, 8, 8, 11, 27, 12, tzinfo=UTC),
)
OTHER = "<Domaine><db>db1.test.fr</db></Domaine>"


def entry(**changes: str | None) -> str:
    """A valid entry; a change replaces an element, None leaves it out."""
    return elements([(name, value) for name, value in {**ENTRY, **changes}.items() if value is not None])


def elements(pairs: Sequence[tuple[str, str]]) -> str:
    return "<Domaine>" + "".join(f"\n\t<{name}>{value}</{name}>" for name, value in pairs) + "\n</Domaine>"


def octets(
    *entries: str,
    root: str = "ListeBlancheDRIM-M",
    namespace: str = GITHUB,
    version: str = ' versionFormat="1.0.0"',
    generated: str = "<DateDeGeneration>2026-06-19T18:06:52Z</DateDeGeneration>",
) -> bytes:
    xmlns = f' xmlns="{namespace}"' if namespace else ""
    held = f"<ListeDomaines>{''.join(entries or [entry()])}</ListeDomaines>"
    return f"<{root}{xmlns}{version}>{generated}{held}</{root}>".encode()


def refused(content: bytes, **options: Any) -> str:
    with pytest.raises(Unusable) as caught:
        read_list(content, **options)
    return caught.value.code


# --- the shapes ---


def test_the_shape_in_force() -> None:
    read = read_list(octets())
    assert read == TrustedList(
        GITHUB, "1.0.0", datetime(2026, 6, 19, 18, 6, 52, tzinfo=UTC), (AS_READ,), warnings=()
    )


def test_the_shape_of_july_2024() -> None:
    """`Identifiant` not unique, `ResponsableContact`, `vi` equal to a `db`."""
    shape = {**ENTRY, "vi": ENTRY["db"], "ResponsableContact": "head@edl.example"}
    second = entry(db="db2.test.fr", vi=None)
    read = read_list(octets(elements(list(shape.items())), second, namespace=DRAFT))
    assert (read.namespace, read.warnings) == (DRAFT, ())
    assert [(d.identifier, d.db, d.vi, d.contact) for d in read.domains] == [
        ("156", ENTRY["db"], ENTRY["db"], "support@edl.example"),
        ("156", "db2.test.fr", "", "support@edl.example"),
    ]


DRAFT_ENTRY = [
    ("Nom", "db1.111.mesimagesmedicales.fr"),
    ("Description", "Éditeur"),
    ("DNCertificatOperateur", DN),
    ("ResponsableContact", "head@edl.example, 01 02 03 04 05"),
    ("DateMAJ", "2024-04-02T10:00:00Z"),
]


@pytest.mark.parametrize(
    ("root", "namespace"),
    [("ListeBlancheDRIM-M", DRAFT), (MSSANTE_ROOT, MSSANTE)],
    ids=["2024-04", "MSSanté"],
)
def test_the_draft_shape_and_its_ancestor(root: str, namespace: str) -> None:
    version = ' versionFormat="1.0.0"' if root != MSSANTE_ROOT else ""
    read = read_list(
        octets(elements(DRAFT_ENTRY), root=root, namespace=namespace, version=version), root=root
    )
    found = datetime(2024, 4, 2, 10, tzinfo=UTC)
    host, contact = "db1.111.mesimagesmedicales.fr", "head@edl.example, 01 02 03 04 05"
    assert read.domains == (Domain("", host, "", "Éditeur", DN, contact, found),)
    assert read.warnings == ()


def test_the_ancestor_is_not_a_drim_m_list() -> None:
    assert refused(octets(root=MSSANTE_ROOT, namespace=MSSANTE)) == "root"
    assert refused(octets(namespace=GITHUB), root=MSSANTE_ROOT) == "root"


# --- tolerance of form ---


def test_order_white_space_and_unknown_elements_say_nothing() -> None:
    unknown = "<Nouveau><a>1</a><?pi?></Nouveau>"
    turned = elements([(name, f"\n  {value}\t\u00a0") for name, value in reversed(ENTRY.items())])
    turned = turned.replace("<db>", f"{unknown}<db>")
    content = octets(turned).replace(b"<ListeDomaines>", b"\xc2\xa0<!-- n -->\n<?x y?><ListeDomaines>")
    assert read_list(content).domains == (AS_READ,)


def test_the_date_may_stand_after_the_entries() -> None:
    content = octets(generated="").replace(
        b"</ListeDomaines>", b"</ListeDomaines><DateDeGeneration>2026-06-19T18:06:52Z</DateDeGeneration>"
    )
    assert read_list(content) == read_list(octets())


def test_optional_elements_may_be_missing_or_empty() -> None:
    read = read_list(octets("<Domaine><db>DB1.Test.FR</db><vi/></Domaine>", version="", generated=""))
    assert read.domains == (Domain("", "db1.test.fr", "", "", "", "", None),)
    assert (read.version, read.generated_at) == ("", None)
    assert read.warnings == ("versionFormat '' was never met",)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2026-06-19T18:06:52Z", datetime(2026, 6, 19, 18, 6, 52, tzinfo=UTC)),
        ("2026-06-19T20:06:52+02:00", datetime(2026, 6, 19, 18, 6, 52, tzinfo=UTC)),
        ("2026-06-19T18:06:52", datetime(2026, 6, 19, 18, 6, 52, tzinfo=UTC)),
        ("2026-06-19 18:06:52.123456789Z", datetime(2026, 6, 19, 18, 6, 52, 123456, tzinfo=UTC)),
        ("2026-06-19", datetime(2026, 6, 19, tzinfo=UTC)),
    ],
)
def test_dates_are_instants_in_utc(written: str, meant: datetime) -> None:
    read = read_list(
        octets(entry(DateMAJ=written), generated=f"<DateDeGeneration>{written}</DateDeGeneration>")
    )
    assert (read.generated_at, read.domains[0].updated_at, read.warnings) == (meant, meant, ())


@pytest.mark.parametrize(
    "written",
    ["19/06/2026", "2026-06-31T00:00:00Z", "20260619", "0001-01-01T00:00:00+02:00", "hier", "2026-W20"],
)
def test_odd_dates_are_none_and_said(written: str) -> None:
    read = read_list(
        octets(entry(DateMAJ=written), generated=f"<DateDeGeneration>{written}</DateDeGeneration>")
    )
    assert (read.generated_at, read.domains[0].updated_at) == (None, None)
    assert read.warnings == (
        f"entry 1: DateMAJ {written!r} is not a date and time",
        f"DateDeGeneration {written!r} is not a date and time",
    )


def test_another_namespace_is_refused_or_said() -> None:
    for namespace in ("https://example.org/schema", ""):
        content = octets(namespace=namespace)
        assert refused(content) == "namespace"
        read = read_list(content, other_namespaces=True)
        assert read.domains == (AS_READ,)
        assert read.warnings == (f"the namespace {namespace!r} was never met for ListeBlancheDRIM-M",)


def test_elements_of_a_foreign_namespace_are_not_read() -> None:
    foreign = entry(db="evil.test.fr").replace("<Domaine>", '<Domaine xmlns="urn:x">')
    content = octets(entry() + foreign + '<Domaine><x:db xmlns:x="urn:x">evil.test.fr</x:db></Domaine>')
    assert [d.db for d in read_list(content).domains] == [ENTRY["db"]]


def test_an_entry_elsewhere_is_not_read() -> None:
    content = octets(
        entry(vi="</vi><Domaine><db>evil.test.fr</db></Domaine><vi>").replace("<vi></vi>", "", 1)
    )
    content = content.replace(b"</ListeDomaines>", b"</ListeDomaines>" + OTHER.encode())
    assert [d.db for d in read_list(content).domains] == [ENTRY["db"]]


# --- hosts ---

NO_HOSTS = [
    "https://db1.test.fr",
    "db1.test.fr:443",
    "db1.test.fr/rs",
    "*.test.fr",
    "192.0.2.1",
    "0x7f.0x1",
    "2130706433",
    "[2001:db8::1]",
    "db1.test.fr.",
    ".test.fr",
    "db1..fr",
    "db1_.test.fr",
    "-db1.test.fr",
    "db1.test.fr db2.test.fr",
    "user@db1.test.fr",
    "db1.tést.fr",
    "db1.test.\u212a",
    "db1%2etest.fr",
    f"{'a' * 64}.fr",
    ".".join(["abcdefg"] * 32),
    "",
]


@pytest.mark.parametrize("written", NO_HOSTS)
def test_what_is_no_host_name_is_left_out_and_said(written: str) -> None:
    read = read_list(octets(entry(), entry(db=written)))
    assert read.domains == (AS_READ,)
    assert len(read.warnings) == 1
    assert read.warnings[0].startswith("entry 2 is left out: ")
    assert refused(octets(entry(db=written))) == "no-entry"
    with pytest.raises(Unusable, match="host"):
        read_host(written)


@pytest.mark.parametrize(
    "written", ["localhost", "a.b", f"{'a' * 63}.fr", "DB1.Test.FR", "1.2.3.fr", "xn--tst-bma.fr"]
)
def test_host_names(written: str) -> None:
    assert read_host(written) == written.lower()


def test_a_viewer_that_is_no_host_name_does_not_cost_the_membership() -> None:
    read = read_list(octets(entry(vi="https://vi156.test.mesimagesmedicales.fr")))
    assert (read.domains[0].db, read.domains[0].vi) == (ENTRY["db"], "")
    assert read.warnings[0].startswith("entry 1: vi is left out: ")


@pytest.mark.parametrize("name", ["db", "vi", "DNCertificatOperateur"])
def test_an_entry_that_says_twice_who_it_is_is_left_out(name: str) -> None:
    twice = elements([*ENTRY.items(), (name, "db9.test.fr")])
    read = read_list(octets(OTHER, twice))
    assert [d.db for d in read.domains] == ["db1.test.fr"]
    assert read.warnings == (f"entry 2 is left out: it has 2 elements {name}",)
    assert read.mentions(ENTRY["db"])


def test_mentions_are_whole_names_of_entries_left_out() -> None:
    read = read_list(
        octets(entry(), entry(db="HTTPS://DB7.test.fr:443/rs"), entry(db="*.wild.fr"), entry(db=None))
    )
    assert read.mentions("db7.test.fr")
    assert read.mentions("db156.test.mesimagesmedicales.fr")  # the subject of the entry without db
    for host in ("test.fr", "b7.test.fr", "wild.fr", "", "db156"):
        assert not read.mentions(host), host


def test_entries_of_a_host_are_all_and_exactly_its_own() -> None:
    old, new = entry(DNCertificatOperateur="CN=old"), entry(DNCertificatOperateur="CN=new")
    read = read_list(octets(old, OTHER, new))
    assert [d.operator for d in read.entries_of("DB156.TEST.mesimagesmedicales.fr")] == ["CN=old", "CN=new"]
    for host in (
        "test.mesimagesmedicales.fr",
        "x.db156.test.mesimagesmedicales.fr",
        "db156.test",
        "",
        f"{ENTRY['db']}.",
    ):
        assert read.entries_of(host) == ()
    assert read_list(octets(entry(db="k.fr"))).entries_of("\u212a.fr") == ()


# --- what is never tolerated ---


@pytest.mark.parametrize("inside", ["<!-- x -->", "<?x y?>", "<b>1</b>"])
@pytest.mark.parametrize("name", ["Identifiant", "db", "vi", "DNCertificatOperateur", "DateMAJ"])
def test_a_value_is_nothing_but_text(name: str, inside: str) -> None:
    split = ENTRY[name][:2] + inside + ENTRY[name][2:]
    assert refused(octets(entry(**{name: split}))) == "markup-in-value"


def test_the_date_of_generation_is_nothing_but_text() -> None:
    content = octets(generated="<DateDeGeneration>2026<?x?>-06-19</DateDeGeneration>")
    assert refused(content) == "markup-in-value"


BOMB = b'<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "not-xml"),
        (b"<html><body>Sign in</body></html>", "root"),
        (octets()[:-10], "not-xml"),
        (octets(entry(Denomination="&nbsp;")), "not-xml"),
        (BOMB + octets(entry(Denomination="&b;")), "doctype"),
        (octets().decode().encode("utf-16"), "not-xml"),
        (octets(entry(Denomination="\ud83d").replace("\ud83d", "\x01")), "not-xml"),
        (octets(entry(Denomination="<a>" * 300 + "</a>" * 300)), "not-xml"),
        (b" " * (10 * 1024 * 1024 + 1), "too-large"),
        (octets(root="ListeBlanche"), "root"),
        (b"<x>" + octets() + b"</x>", "root"),
        (octets(entry(db=None)), "no-entry"),
        (octets("<Domaine/>"), "no-entry"),
        (octets("<Autre><db>db1.test.fr</db></Autre>"), "no-entry"),
        (octets(entry().replace("db>", "hote>")), "no-entry"),
        (octets(entry() + '<Signature xmlns="http://www.w3.org/2000/09/xmldsig#"/>'), "signature-inside"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused(content: bytes, code: str) -> None:
    assert refused(content) == code


def test_a_list_of_a_whole_country_is_read() -> None:
    many = [f"<Domaine><db>db{number}.test.fr</db></Domaine>" for number in range(7000)]
    read = read_list(octets(*many))
    assert len(read.domains) == 7000
    assert read.entries_of("db6999.test.fr")


def test_too_many_entries_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "MAX_ENTRIES", 2)
    assert len(read_list(octets(entry(), OTHER)).domains) == 2
    assert refused(octets(entry(), OTHER, OTHER)) == "too-many-entries"


def test_warnings_are_bounded() -> None:
    read = read_list(octets(entry(), *[entry(db="*" * 500)] * 150))
    assert len(read.warnings) == 101
    assert read.warnings[-1] == "and 50 more"
    assert max(map(len, read.warnings)) < 200


def test_a_refusal_has_a_code_and_a_sentence() -> None:
    with pytest.raises(Unusable) as caught:
        read_list(octets(namespace="urn:x"))
    assert (caught.value.code, caught.value.reason) == (
        "namespace",
        "the namespace 'urn:x' was never met for ListeBlancheDRIM-M",
    )
    assert str(caught.value) == f"namespace: {caught.value.reason}"
