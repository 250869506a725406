"""Bytes to an XML tree that can be trusted to be a CDA: bounded, without DTD, entity or network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import Any, NoReturn

from lxml import etree

HL7_V3 = "urn:hl7-org:v3"
PS3_20 = "urn:dicom-org:ps3-20"
NS = {"c": HL7_V3, "ps": PS3_20}
ROOT = f"{{{HL7_V3}}}ClinicalDocument"
# An auto-presentable document is a stylesheet that carries the CDA; it is never executed (cda-and-xds 6)
STYLESHEETS = frozenset(f"{{http://www.w3.org/1999/XSL/Transform}}{n}" for n in ("stylesheet", "transform"))
MAX_BYTES = 64 * 1024 * 1024  # hl7-mss 1.10: plan 64 MiB
MAX_MARKUP = 100_000  # tags, and as many attributes: ten times the largest level 3 report seen
_CHUNK = 65_536  # also the window in which ClinicalDocument/code is looked for
# Only encodings whose '<' and '=' are those bytes, so that markup can be counted before parsing.
_DECLARATION = re.compile(rb"""<\?xml\s([^>]{0,200}?)\?>""")
_ENCODING = re.compile(rb"""encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_ENCODINGS = frozenset({"utf-8", "utf-16", "us-ascii", "ascii", "iso-8859-1", "iso-8859-15", "windows-1252"})


class NotADocument(ValueError):
    """The bytes are refused before any field is read. `rule`: stable slug; the message repeats no content."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


@dataclass(frozen=True, slots=True)
class DocumentKind:
    """What the first lines of an XML document say it is: its root element and, for a CDA, code and id."""

    is_cda: bool
    code: str = ""
    code_system: str = ""


class _Seen(Exception):
    """Stops the parser at the first element (`tag`) or at a DOCTYPE (`tag` empty)."""

    def __init__(self, tag: str) -> None:
        super().__init__(tag)
        self.tag = tag


class _Prolog:
    """Parser target that never builds a tree: it stops at a DOCTYPE before its entities are declared."""

    def doctype(self, name: str | None, pubid: str | None, system: str | None) -> NoReturn:
        raise _Seen("")

    def start(self, tag: str, attributes: object) -> NoReturn:
        raise _Seen(tag)

    def close(self) -> None:
        """Reached only by a document without any element, which the parser refuses."""


def open_document(data: bytes, max_bytes: int = MAX_BYTES) -> etree._Element:
    """Return the ClinicalDocument element of `data` (bytes as received, never decoded first).

    Raises `NotADocument`: too large, DOCTYPE, not XML, unknown encoding, another root (cda-and-xds 6).
    """
    _check_head(data, max_bytes)
    _check_markup(data)
    tag = _root_tag(data)
    if tag != ROOT and tag not in STYLESHEETS:
        raise NotADocument("cda-root", "the root element is not ClinicalDocument of urn:hl7-org:v3")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=True)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise NotADocument("cda-not-xml", f"not well-formed XML: {_where(error)}") from None
    return root if tag == ROOT else _carried(root)


def _carried(stylesheet: etree._Element) -> etree._Element:
    found = list(islice(stylesheet.iter(ROOT), 2))
    if len(found) != 1:
        raise NotADocument("cda-root", "a stylesheet that does not carry one ClinicalDocument")
    return found[0]


def identify(data: bytes, max_bytes: int = MAX_BYTES) -> DocumentKind:
    """Say what `data` is without reading past ClinicalDocument/code: of a CDA, the first 64 KiB at most.

    Cheap, so that it can be asked of every candidate; what is wrong further on is for `open_document` to say.
    Raises `NotADocument` for what is too large or no XML.
    """
    _check_head(data, max_bytes)
    tag = _early_tag(data)
    if tag == ROOT:
        return _kind(data[:_CHUNK]) or DocumentKind(is_cda=True)
    if tag in STYLESHEETS:
        _check_markup(data)  # the CDA may stand behind all its templates
        return _kind(data) or DocumentKind(is_cda=False)
    return DocumentKind(is_cda=False)


def _kind(data: bytes) -> DocumentKind | None:
    """The kind that ClinicalDocument/code states; None when `data` ends before it."""
    parser = etree.XMLPullParser(
        events=("end",),
        tag=f"{{{HL7_V3}}}code",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=True,
    )
    for start in range(0, len(data), _CHUNK):
        try:
            parser.feed(data[start : start + _CHUNK])
        except etree.XMLSyntaxError as error:
            raise NotADocument("cda-not-xml", f"not well-formed XML: {_where(error)}") from None
        for _event, element in parser.read_events():
            assert isinstance(element, etree._Element)  # "end" events only
            parent = element.getparent()
            if parent is not None and parent.tag == ROOT:
                return DocumentKind(True, element.get("code") or "", element.get("codeSystem") or "")
    return None


def _check_head(data: bytes, max_bytes: int) -> None:
    if len(data) > max_bytes:
        raise NotADocument("cda-too-large", f"{len(data)} bytes, at most {max_bytes} are read")
    head = data[:300].removeprefix(b"\xef\xbb\xbf")
    if b"<" not in head:
        raise NotADocument("cda-not-xml", "not XML: it does not begin with markup")
    if re.match(rb"<\?xml\s", head) and _declared_encoding(head) not in _ENCODINGS:
        raise NotADocument("cda-encoding", "the XML encoding is not one that a CDA uses")


def _check_markup(data: bytes) -> None:
    if data.count(b"<") > MAX_MARKUP or data.count(b"=") > MAX_MARKUP:
        raise NotADocument("cda-too-complex", f"over {MAX_MARKUP} elements or attributes")


def _declared_encoding(head: bytes) -> str:
    """Lower-case name; `utf-8` when the declaration names none; empty when the declaration is unreadable."""
    declaration = _DECLARATION.match(head)
    if declaration is None:
        return ""
    encoding = _ENCODING.search(declaration[1])
    return encoding[1].decode("ascii").lower() if encoding else "utf-8"


def _early_tag(data: bytes) -> str:
    """The tag of the first element, from the first 64 KiB if it is there; markup is bounded before more is read."""
    if len(data) > _CHUNK:
        try:
            return _root_tag(data[:_CHUNK])
        except NotADocument as early:
            if early.rule == "cda-doctype":
                raise
    _check_markup(data)
    return _root_tag(data)


def _root_tag(data: bytes) -> str:
    """The tag of the first element. Raises `NotADocument` for a DOCTYPE before it, or when there is none."""
    target: Any = _Prolog()  # the stubs ask for methods that a target may leave out
    parser = etree.XMLParser(
        target=target, resolve_entities=False, no_network=True, load_dtd=False, huge_tree=True
    )
    try:
        for start in range(0, len(data), _CHUNK):
            parser.feed(data[start : start + _CHUNK])
        parser.close()
    except _Seen as seen:
        if not seen.tag:
            raise NotADocument(
                "cda-doctype", "a DOCTYPE is refused: a CDA has neither DTD nor entities"
            ) from None
        return seen.tag
    except etree.XMLSyntaxError as error:
        raise NotADocument("cda-not-xml", f"not XML: {_where(error)}") from None
    raise NotADocument("cda-not-xml", "not XML: no element")


def _where(error: etree.XMLSyntaxError) -> str:
    line, column = error.position
    return f"line {line}, column {column}"
