"""Reading XML from outside: entities, DTD and network off, a byte limit before the parser sees anything."""

from __future__ import annotations

from lxml import etree

# Control characters that XML 1.0 cannot carry: they would make our own messages unreadable.
_FORBIDDEN = dict.fromkeys([*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0xFFFE, 0xFFFF])


class UnreadableXml(ValueError):
    """The bytes are too many, not well-formed, or carry a document type; the message never quotes them."""


def parse_xml(data: bytes, *, max_bytes: int) -> etree._Element:
    """Return the root element of `data` (UTF-8, or as its declaration says).

    Raises `UnreadableXml` when it is longer than `max_bytes`, not well-formed, or has a DOCTYPE.
    """
    if len(data) > max_bytes:
        raise UnreadableXml(f"the document is longer than {max_bytes} bytes")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, huge_tree=False
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise UnreadableXml("the document is not well-formed XML") from error
    if root.getroottree().docinfo.doctype:  # type: ignore[union-attr]  # stubs: docinfo may be Any
        raise UnreadableXml("the document has a DOCTYPE")
    return root


def xml_text(value: str) -> str:
    """The text without the control characters that XML 1.0 forbids."""
    return value.translate(_FORBIDDEN)
