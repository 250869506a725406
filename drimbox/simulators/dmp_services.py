"""The endpoints of the simulated DMP and their operations, as a table (dmp-kos-xds 2.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from lxml import etree

from drimbox.simulators.dmp_answers import LCM, QUERY, XDSB, RegistryError, query_response, registry_response
from drimbox.simulators.dmp_messages import Request, read_mtom, read_soap
from drimbox.simulators.dmp_security import Vihf
from drimbox.simulators.dmp_transactions import Context, provide, query, update

BASE = "/si-dmp-server/v2/services"
PROVIDE_ACTION = "urn:ihe:iti:2007:ProvideAndRegisterDocumentSet-b"


@dataclass(frozen=True)
class Operation:
    """One operation: wsa:Action asked and answered, how it runs, the answer of a registry failure."""

    action: str
    response_action: str
    run: Callable[[Context, Request, Vihf], etree._Element]
    failure: Callable[[Iterable[RegistryError]], etree._Element]
    label: str


@dataclass(frozen=True)
class Service:
    """One endpoint: reader, operations by payload name, MTOM answers or not, label of the unreadable."""

    read: Callable[[str, bytes], Request]
    operations: Mapping[str, Operation]
    mtom: bool
    label: str


SERVICES: Mapping[str, Service] = {
    f"{BASE}/repository": Service(
        read_mtom,
        {
            f"{{{XDSB}}}ProvideAndRegisterDocumentSetRequest": Operation(
                PROVIDE_ACTION, f"{PROVIDE_ACTION}Response", provide, registry_response, "TD2.1a"
            ),
        },
        True,
        "TD2.1a",
    ),
    f"{BASE}/registry": Service(
        read_soap,
        {
            f"{{{QUERY}}}AdhocQueryRequest": Operation(
                "urn:ihe:iti:2007:RegistryStoredQuery",
                "urn:ihe:iti:2007:RegistryStoredQueryResponse",
                query,
                lambda errors: query_response((), errors),
                "TD3.1b",
            ),
            f"{{{LCM}}}SubmitObjectsRequest": Operation(
                "urn:ihe:iti:2010:UpdateDocumentSet",
                "urn:ihe:iti:2010:UpdateDocumentSet-Response",  # with the hyphen, as CNAM writes it
                update,
                registry_response,
                "TD3.3c",
            ),
        },
        False,
        "TD3.1b",
    ),
}
