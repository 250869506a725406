"""Optional second opinion: the XDS and ebRS schemas, when a directory of them is at hand.

The schemas belong to OASIS and IHE and are not shipped; our own structural rules work without them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lxml import etree

from drimbox.simulators.dmp_answers import LCM, QUERY, XDSB

FILES: Mapping[str, str] = {
    f"{{{XDSB}}}ProvideAndRegisterDocumentSetRequest": "XDS.b_DocumentRepository.xsd",
    f"{{{LCM}}}SubmitObjectsRequest": "lcm.xsd",
    f"{{{QUERY}}}AdhocQueryRequest": "query.xsd",
}


class Schemas:
    """Compiled schemas of the three payloads. Raises OSError or LxmlError when they cannot be read."""

    def __init__(self, directory: Path) -> None:
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
        trees = {root: etree.parse(str(directory / name), parser) for root, name in FILES.items()}
        self._schemas = {root: etree.XMLSchema(tree) for root, tree in trees.items()}

    def faults(self, payload: etree._Element, documents: Mapping[str, bytes]) -> list[str]:
        """Every violation of the schema of `payload`, XOP resolved to base64 first (dmp-kos-xds 2.2)."""
        schema = self._schemas[payload.tag]
        if schema.validate(_resolved(payload, documents)):
            return []
        log: Iterable[Any] = schema.error_log  # type: ignore[assignment]  # the stubs forget __iter__
        return [f"line {entry.line}: {entry.message}" for entry in log]


def _resolved(payload: etree._Element, documents: Mapping[str, bytes]) -> etree._Element:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    copied = etree.fromstring(etree.tostring(payload, with_tail=False), parser)
    for element in copied.findall(f"{{{XDSB}}}Document"):
        for child in list(element):
            element.remove(child)
        element.text = base64.b64encode(documents.get(element.get("id", ""), b"")).decode("ascii")
    return copied
