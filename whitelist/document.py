"""The whitelist document: canonical octets whose signature was verified → `TrustedList` (trust-and-identity 3.3).

Only the octets that were digested are read, never the file: a comment or a second signature in the file changes
nothing here (3.4, "attacks tried"). The form is read with tolerance, because `versionFormat="1.0.0"` has covered
three shapes; what cannot be read is left out and said, and a list without any readable host is unusable, which
never means that somebody is absent (3.5, step 13).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType

from lxml import etree

from whitelist.errors import Unusable

ROOT = "ListeBlancheDRIM-M"
MSSANTE_ROOT = "ListeBlancheMSSante"
NAMESPACES: tuple[str, ...] = (
    "https://github.com/ansforge/DRIM-M_DATA",
    "https://listeblanche.mesimagesmedicales.fr/schema",
)
MSSANTE_NAMESPACES: tuple[str, ...] = ("https://listeblanche.mssante.fr/schema",)
#: root element → namespaces that it was met in (3.3, 3.7)
FORMS: Mapping[str, tuple[str, ...]] = MappingProxyType({ROOT: NAMESPACES, MSSANTE_ROOT: MSSANTE_NAMESPACES})
#: what is read → elements that held it, the newest shape first (3.3: 2025 and later, 2024-07, 2024-04 and MSSanté)
FIELDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "identifier": ("Identifiant",),
        "db": ("db", "Nom"),
        "vi": ("vi",),
        "label": ("Denomination", "Description"),
        "operator": ("DNCertificatOperateur",),
        "contact": ("SupportContact", "ResponsableContact"),
        "updated_at": ("DateMAJ",),
    }
)
#: elements of an entry that say who it is: twice in one entry, nobody can tell which one was meant
IDENTITY = ("db", "Nom", "vi", "DNCertificatOperateur")
#: elements that mention a DRIMBox, even in an entry that cannot be read
NAMING = ("db", "Nom", "DNCertificatOperateur")
READ = frozenset(element for elements in FIELDS.values() for element in elements)
VERSIONS = ("1.0.0",)
SIGNATURE = "{http://www.w3.org/2000/09/xmldsig#}Signature"
MAX_OCTETS = 10 * 1024 * 1024
MAX_ENTRIES = 100_000
MAX_WARNINGS = 100

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# The last label is no number (decimal or 0x…): an address in disguise, for those who resolve it (WHATWG URL 3.5).
_HOST = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*(?!(?:[0-9]+|0x[0-9a-f]*)\Z){_LABEL}")
# Three separate items of a date are needed: fromisoformat alone also reads week dates and bare digits.
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}.*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Domain:
    """One entry. `db`: host of the DRIMBox; `vi`: host of its viewer; both lower case, `vi` "" when absent.

    `identifier` is text and not unique; `operator`: certificate subject as written (`names.compare` reads it);
    `updated_at`: aware, UTC.
    """

    identifier: str
    db: str
    vi: str
    label: str
    operator: str
    contact: str
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class TrustedList:
    """A list that was read. Several entries may have one host (3.7).

    `generated_at`: aware, UTC; it is not renewed when a list is signed again (3.3), so its age says nothing.
    `warnings`: what was left out or not understood. `unreadable`: hosts and subjects, as written, of entries left out.
    """

    namespace: str
    version: str
    generated_at: datetime | None
    domains: tuple[Domain, ...]
    warnings: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    _by_host: Mapping[str, tuple[Domain, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_host: dict[str, list[Domain]] = {}
        for domain in self.domains:
            by_host.setdefault(domain.db.lower(), []).append(domain)
        object.__setattr__(self, "_by_host", {host: tuple(found) for host, found in by_host.items()})

    def entries_of(self, host: str) -> tuple[Domain, ...]:
        """Entries whose `db` is that host: whole name, case-insensitive, in the order of the list."""
        # Some letters beyond ASCII fold into ASCII ones (the Kelvin sign): they name no host of the list.
        return self._by_host.get(host.lower(), ()) if host and host.isascii() else ()

    def mentions(self, host: str) -> bool:
        """Whether an entry that was left out contains that host name, whatever stands around it."""
        words = (word for text in self.unreadable for word in re.split(r"[^a-z0-9.-]+", text.lower()))
        return bool(host) and host.lower() in (word.removesuffix(".") for word in words)


class _LeftOut(Exception):
    """An entry that cannot be read, and why."""


def read_list(octets: bytes, *, root: str = ROOT, other_namespaces: bool = False) -> TrustedList:
    """Read a list from the canonical octets (UTF-8) that its signature was verified for.

    `root`: the form expected, a key of `FORMS`. `other_namespaces`: a namespace never met is a warning instead of
    a refusal (3.5, step 2). Raises `Unusable`: too-large, doctype, not-xml, root, namespace, signature-inside,
    markup-in-value, too-many-entries, no-entry.
    """
    element = _parse(octets)
    warnings: list[str] = []
    namespace = _namespace(element, root, other_namespaces, warnings)
    prefix = f"{{{namespace}}}" if namespace else ""
    domains, unreadable = _entries(element, prefix, warnings)
    generated = [_text(found) for found in element.iterfind(f"{prefix}DateDeGeneration")]
    return TrustedList(
        namespace,
        _version(element, warnings),
        _date("DateDeGeneration", next(filter(None, generated), ""), warnings),
        domains,
        _bounded(warnings),
        unreadable,
    )


def read_host(text: str) -> str:
    """A host name in lower case (RFC 1123). Raises `Unusable` (host) for anything else.

    Refused: scheme, port, path, wildcard, address literal, letters beyond ASCII, white space, final dot.
    """
    if not text.isascii() or not _HOST.fullmatch(text.lower()):
        raise Unusable("host", f"{_quoted(text)} is not a host name")
    return text.lower()


def _parse(octets: bytes) -> etree._Element:
    if len(octets) > MAX_OCTETS:
        raise Unusable("too-large", f"the list has {len(octets)} octets, {MAX_OCTETS} at most")
    # Forced UTF-8, as canonical XML is: no other encoding can hide the word from this look.
    if b"<!DOCTYPE" in octets:
        raise Unusable("doctype", "the list has a document type declaration")
    parser = etree.XMLParser(
        encoding="utf-8", resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
    )
    try:
        element = etree.fromstring(octets, parser)
    except etree.XMLSyntaxError as error:
        raise Unusable("not-xml", f"the list is not XML: {str(error)[:200]}") from error
    if next(element.iter(SIGNATURE), None) is not None:
        raise Unusable("signature-inside", "these are not the signed octets: a signature is among them")
    return element


def _namespace(element: etree._Element, root: str, others: bool, warnings: list[str]) -> str:
    name = etree.QName(element)
    namespace = name.namespace or ""
    if name.localname != root:
        raise Unusable("root", f"the root element is {_quoted(name.localname)}, not {root}")
    if namespace not in FORMS[root]:
        said = f"the namespace {_quoted(namespace)} was never met for {root}"
        if not others:
            raise Unusable("namespace", said)
        warnings.append(said)
    return namespace


def _version(element: etree._Element, warnings: list[str]) -> str:
    version = (element.get("versionFormat") or "").strip()
    if version not in VERSIONS and etree.QName(element).localname == ROOT:
        warnings.append(f"versionFormat {_quoted(version)} was never met")
    return version


def _entries(
    element: etree._Element, prefix: str, warnings: list[str]
) -> tuple[tuple[Domain, ...], tuple[str, ...]]:
    domains: list[Domain] = []
    unreadable: list[str] = []
    found = element.iterfind(f"{prefix}ListeDomaines/{prefix}Domaine")
    for number, entry in enumerate(found, 1):
        if number > MAX_ENTRIES:
            raise Unusable("too-many-entries", f"the list has more than {MAX_ENTRIES} entries")
        held = _elements(entry, prefix)
        try:
            domains.append(_domain(f"entry {number}", held, warnings))
        except _LeftOut as left_out:
            warnings.append(f"entry {number} is left out: {left_out}")
            unreadable.append(" ".join(value for name in NAMING for value in held.get(name, ())))
    if not domains:
        raise Unusable("no-entry", "the list has no entry with a host name")
    return tuple(domains), tuple(filter(None, unreadable))


def _elements(entry: etree._Element, prefix: str) -> dict[str, list[str]]:
    """Local name → values, of the elements that are read; others may hold whatever they like."""
    held: dict[str, list[str]] = {}
    for child in entry.iterchildren(tag=etree.Element):
        name = str(child.tag).removeprefix(prefix)
        if name in READ:
            held.setdefault(name, []).append(_text(child))
    return held


def _domain(where: str, held: Mapping[str, list[str]], warnings: list[str]) -> Domain:
    for name in IDENTITY:
        if len(held.get(name, ())) > 1:
            raise _LeftOut(f"it has {len(held[name])} elements {name}")
    values = {name: next(_held(held, elements), "") for name, elements in FIELDS.items()}
    return Domain(
        identifier=values["identifier"],
        db=_db(values["db"]),
        vi=_vi(where, values["vi"], warnings),
        label=values["label"],
        operator=values["operator"],
        contact=values["contact"],
        updated_at=_date(f"{where}: DateMAJ", values["updated_at"], warnings),
    )


def _held(held: Mapping[str, list[str]], elements: tuple[str, ...]) -> Iterator[str]:
    return (value for element in elements for value in held.get(element, ()) if value)


def _db(text: str) -> str:
    if not text:
        raise _LeftOut("it has no host")
    try:
        return read_host(text)
    except Unusable as error:
        raise _LeftOut(error.reason) from error


def _vi(where: str, text: str, warnings: list[str]) -> str:
    """A viewer's host only opens an origin: without it, the DRIMBox itself is still a member."""
    try:
        return read_host(text) if text else ""
    except Unusable as error:
        warnings.append(f"{where}: vi is left out: {error.reason}")
        return ""


def _text(element: etree._Element) -> str:
    """The value, white space collapsed. Anything but text inside would split what people read as one value."""
    if len(element):
        raise Unusable("markup-in-value", f"{etree.QName(element).localname} holds something else than text")
    return " ".join((element.text or "").split())


def _date(where: str, text: str, warnings: list[str]) -> datetime | None:
    """An xs:dateTime, without a zone taken as UTC; an odd one is None and a warning."""
    if not text:
        return None
    try:
        if not _DATE.fullmatch(text):
            raise ValueError(text)
        read = datetime.fromisoformat(text)
        return read.astimezone(UTC) if read.tzinfo else read.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        warnings.append(f"{where} {_quoted(text)} is not a date and time")
        return None


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}…")


def _bounded(warnings: list[str]) -> tuple[str, ...]:
    kept = warnings[:MAX_WARNINGS]
    more = len(warnings) - len(kept)
    return (*kept, f"and {more} more") if more else tuple(kept)
