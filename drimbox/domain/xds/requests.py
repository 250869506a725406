"""The bodies of the three transactions (dmp-kos-xds 2.1): ITI-41 around a frozen lot, ITI-18 GetDocuments.

ITI-57 (TD3.3c) carries a SubmitObjectsRequest as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from lxml import etree

from drimbox.domain.xds import vocabulary as v
from drimbox.domain.xds.ebxml import add_slot, rim


def provide_and_register_request(
    submit_objects_request: bytes, documents: Sequence[tuple[str, str]]
) -> bytes:
    """ITI-41 body around the frozen request, byte for byte; `documents`: (entry id, Content-ID) pairs."""
    parts = []
    for document_id, content_id in documents:
        document = etree.Element(f"{{{v.XDS_B}}}Document", id=document_id, nsmap={"xds": v.XDS_B})
        include = etree.SubElement(document, f"{{{v.XOP}}}Include", nsmap={"xop": v.XOP})
        include.set("href", f"cid:{quote(content_id, safe='@')}")
        parts.append(etree.tostring(document, encoding="UTF-8", xml_declaration=False))
    return b"".join(
        [
            f'<xds:ProvideAndRegisterDocumentSetRequest xmlns:xds="{v.XDS_B}">'.encode("ascii"),
            submit_objects_request,
            *parts,
            b"</xds:ProvideAndRegisterDocumentSetRequest>",
        ]
    )


def get_documents_request(unique_id: str) -> bytes:
    """ITI-18 GetDocuments by uniqueId (TD3.1b); LeafClass, so that the status comes with the entryUUID."""
    root = etree.Element(f"{{{v.QUERY}}}AdhocQueryRequest", nsmap=v.NSMAP_QUERY)
    etree.SubElement(
        root, f"{{{v.QUERY}}}ResponseOption", returnComposedObjects="true", returnType="LeafClass"
    )
    query = etree.SubElement(root, rim("AdhocQuery"), id=v.GET_DOCUMENTS)
    escaped = unique_id.replace("'", "''")
    add_slot(query, "$XDSDocumentEntryUniqueId", [f"('{escaped}')"])
    return etree.tostring(root, encoding="UTF-8", xml_declaration=False)
