"""XML octets to a tree without surprises, and back to canonical octets.

Comments are dropped by the parser, as every accepted canonicalization drops them: the tree holds what is digested.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from typing import cast

from lxml import etree

MAX_OCTETS = 10 * 1024 * 1024
MAX_NAMESPACE_DECLARATIONS = 16  # inclusive canonicalization walks them all, squared, for every element
MAX_ATTRIBUTES = 64  # per element; canonicalization sorts them by insertion
MAX_TAGS = 400_000  # a list of 10 MiB has 300 000; a tree costs a hundred times the octets of `<a/>`
MAX_DEPTH = 24  # a signed list has 10 levels
ENCODINGS = frozenset({"UTF-8", "US-ASCII", "ASCII", "ISO-8859-1"})  # ASCII stays ASCII: markup cannot hide
ID_ATTRIBUTES = ("Id", "ID", "id", "{http://www.w3.org/XML/1998/namespace}id")
_BOM = b"\xef\xbb\xbf"
_ENCODING = re.compile(rb"""\bencoding\s*=\s*(["'])([A-Za-z0-9._-]+)\1""")
_WITH_ATTRIBUTES = etree.XPath("//*[@*]")
_TOO_DEEP = etree.XPath(f"boolean({'/*' * (MAX_DEPTH + 1)})")


class NotXml(Exception):
    """The octets are no XML document that is read here; the message says why."""


def parse(octets: bytes) -> etree._Element:
    """The document element. Raises `NotXml`: DTD, other encodings, bombs, malformed (3.5 step 2)."""
    _check_octets(octets)
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
    )
    try:
        root = etree.fromstring(octets, parser)
    except etree.XMLSyntaxError as error:
        raise NotXml(f"not well-formed XML: {error.msg}") from error
    if root.getroottree().docinfo.internalDTD is not None:
        raise NotXml("a document type declaration is refused")
    return root


def bomb_fault(root: etree._Element) -> str | None:
    """What makes the document costly to canonicalize (depth, attributes of one element), None when nothing does."""
    if _TOO_DEEP(root):
        return f"elements nested deeper than {MAX_DEPTH}"
    full = any(len(element.attrib) > MAX_ATTRIBUTES for element in with_attributes(root))
    return f"an element with more than {MAX_ATTRIBUTES} attributes" if full else None


def with_attributes(root: etree._Element) -> list[etree._Element]:
    """Every element of the document that has an attribute."""
    found = cast("list[object]", _WITH_ATTRIBUTES(root))
    return [element for element in found if isinstance(element, etree._Element)]


def identifiers(root: etree._Element) -> Iterator[tuple[str, etree._Element]]:
    """Each value of an attribute that some software takes for an XML ID, with its element."""
    for element in with_attributes(root):
        for name in ID_ATTRIBUTES:
            value = element.get(name)
            if value is not None:
                yield value, element


def canonical(element: etree._Element, *, exclusive: bool) -> bytes | None:
    """Canonical octets of an element in its namespace context, without comments; None when they cannot be made."""
    # As a document of its own, with the declarations in scope: libxml2 by lxml invents `xmlns=""` in the inclusive
    # canonicalization of an inner element.
    try:
        alone = etree.fromstring(etree.tostring(element, with_tail=False), _parser())
    except etree.XMLSyntaxError:
        return None
    return _canonical_tree(alone.getroottree(), exclusive=exclusive)


def canonical_without(signature: etree._Element, *, exclusive: bool) -> bytes | None:
    """Canonical octets of the whole document (URI="") without its signature, whose tail text stays.

    `signature` is a child of the document element. None when they cannot be made.
    """
    tree = signature.getroottree()
    position = tree.getroot().index(signature)
    copy = deepcopy(tree)
    root = copy.getroot()
    extracted, before = root[position], root[position - 1] if position else None
    tail = extracted.tail or ""
    if before is None:
        root.text = (root.text or "") + tail
    else:
        before.tail = (before.tail or "") + tail
    extracted.tail = None
    root.remove(extracted)
    return _canonical_tree(copy, exclusive=exclusive)


def text_of(element: etree._Element | None) -> str:
    """The text of an element that holds text only; empty when it is absent or holds anything else."""
    if element is None or len(element):
        return ""
    return (element.text or "").strip(" \t\r\n")


def _canonical_tree(tree: etree._ElementTree, *, exclusive: bool) -> bytes | None:
    try:
        return bytes(etree.tostring(tree, method="c14n", exclusive=exclusive, with_comments=False))
    except etree.C14NError:
        return None


def _parser() -> etree.XMLParser:
    return etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True
    )


def _check_octets(octets: bytes) -> None:
    if b"\0" in octets or not octets.removeprefix(_BOM).lstrip(b" \t\r\n").startswith(b"<"):
        raise NotXml("not an XML document in UTF-8")
    if b"<!DOCTYPE" in octets:
        raise NotXml("a document type declaration is refused")
    declarations = octets.count(b"xmlns")
    if declarations > MAX_NAMESPACE_DECLARATIONS:
        raise NotXml(f"{declarations} namespace declarations, at most {MAX_NAMESPACE_DECLARATIONS} are read")
    tags = octets.count(b"<")
    if tags > MAX_TAGS:
        raise NotXml(f"{tags} tags, at most {MAX_TAGS} are read")
    encoding = _declared_encoding(octets)
    if encoding not in ENCODINGS:
        raise NotXml(f"the encoding {encoding!r} is refused")


def _declared_encoding(octets: bytes) -> str:
    head = octets.removeprefix(_BOM)
    if not head.startswith(b"<?xml"):
        return "UTF-8"
    declaration = head.partition(b"?>")[0][:1000]
    if b"encoding" not in declaration:
        return "UTF-8"
    match = _ENCODING.search(declaration)
    return match[2].decode("ascii").upper() if match else "?"
