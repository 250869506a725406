"""What the DMP answers, typed; what each error means."""

from __future__ import annotations

import pytest
from lxml import etree

from drimbox.domain.soap import Fault
from drimbox.domain.xds import vocabulary as v
from drimbox.domain.xds.metadata import DocumentEntry
from drimbox.domain.xds.outcome import Exchange, Found, Refused
from drimbox.domain.xds.response import (
    ERROR_KINDS,
    GRAVITY,
    ErrorKind,
    RegistryError,
    UnreadableResponse,
    fault_error,
    kind_of,
    read_registry_answer,
)


def a_response(status: str, *errors: tuple[str, str, str]) -> etree._Element:
    listed = "".join(
        f'<RegistryError errorCode="{code}" codeContext="{context}" severity="{severity}" location=""/>'
        for code, context, severity in errors
    )
    errors_xml = f"<RegistryErrorList>{listed}</RegistryErrorList>" if errors else ""
    return etree.fromstring(
        f'<RegistryResponse xmlns="{v.RS}" status="{status}">{errors_xml}</RegistryResponse>'
    )


ERROR = "urn:oasis:names:tc:ebxml-regrep:ErrorSeverityType:Error"


def test_success() -> None:
    answer = read_registry_answer(a_response(v.RESPONSE_SUCCESS))
    assert answer.success
    assert (answer.errors, answer.warnings) == ((), ())


def test_success_with_warnings() -> None:
    body = a_response(v.RESPONSE_SUCCESS, ("XDSExtraMetadataNotSaved", "slot x", v.SEVERITY_WARNING))
    answer = read_registry_answer(body)
    assert answer.success
    assert [warning.code for warning in answer.warnings] == ["XDSExtraMetadataNotSaved"]


def test_failure_keeps_code_and_context_of_every_error() -> None:
    body = a_response(
        v.RESPONSE_FAILURE,
        ("XDSRegistryBusy", "later", ERROR),
        ("XDSUnknownPatientId", "no such\n patient", ERROR),
        ("XDSExtraMetadataNotSaved", "w", v.SEVERITY_WARNING),
    )
    answer = read_registry_answer(body)
    assert not answer.success
    assert [(e.code, e.context) for e in answer.errors] == [
        ("XDSRegistryBusy", "later"),
        ("XDSUnknownPatientId", "no such patient"),
    ]
    assert kind_of(answer.errors) is ErrorKind.PERMANENT_PATIENT


@pytest.mark.parametrize(
    "body",
    [
        a_response("urn:ihe:iti:2007:ResponseStatusType:PartialSuccess"),
        a_response(""),
        a_response("Success"),
        a_response(v.RESPONSE_SUCCESS, ("XDSRegistryError", "", ERROR)),
        etree.fromstring("<Other/>"),
    ],
)
def test_success_is_never_guessed(body: etree._Element) -> None:
    with pytest.raises(UnreadableResponse):
        read_registry_answer(body)


def test_query_answer_lists_entries_and_references() -> None:
    xml = (
        f'<q:AdhocQueryResponse xmlns:q="{v.QUERY}" xmlns="{v.RIM}" status="{v.RESPONSE_SUCCESS}">'
        f'<RegistryObjectList><ExtrinsicObject id="urn:uuid:1" status="{v.DEPRECATED}" mimeType="m"/>'
        '<ObjectRef id="urn:uuid:2"/></RegistryObjectList></q:AdhocQueryResponse>'
    )
    answer = read_registry_answer(etree.fromstring(xml))
    assert [(d.id, d.status) for d in answer.documents] == [("urn:uuid:1", v.DEPRECATED)]
    assert answer.references == ("urn:uuid:2",)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("XDSRegistryBusy", ErrorKind.TRANSIENT),
        ("XDSRepositoryError", ErrorKind.TRANSIENT_ONCE),
        ("SomethingNew", ErrorKind.TRANSIENT_ONCE),
        ("XDSDuplicateUniqueIdInRegistry", ErrorKind.DUPLICATE),
        ("UnresolvedReferenceException", ErrorKind.STALE_REFERENCE),
        ("XDSReplaceFailed", ErrorKind.STALE_REFERENCE),
        ("XDSPatientIdDoesNotMatch", ErrorKind.PERMANENT_DATA),
        ("urn:oasis:names:tc:ebxml-regrep:ErrorCode:XDSUnknownPatientId", ErrorKind.PERMANENT_PATIENT),
        ("DMPInvalidCertificate", ErrorKind.SECURITY),
    ],
)
def test_code_to_kind(code: str, kind: ErrorKind) -> None:
    assert kind_of([RegistryError(code, "")]) is kind


def test_the_gravest_error_decides_and_none_is_transient_once() -> None:
    assert kind_of([]) is ErrorKind.TRANSIENT_ONCE
    every = [RegistryError(code, "") for code in ERROR_KINDS]
    assert kind_of(every) is ErrorKind.SECURITY
    assert set(ERROR_KINDS.values()) == set(ErrorKind)
    assert GRAVITY[ErrorKind.TRANSIENT] < GRAVITY[ErrorKind.PERMANENT_DATA] < GRAVITY[ErrorKind.SECURITY]


SECURITY, ONCE = ErrorKind.SECURITY, ErrorKind.TRANSIENT_ONCE
WSA_SUBCODE = "MessageAddressingHeaderRequired"
FAULTS: list[tuple[Fault, str, ErrorKind]] = [
    (Fault("Sender", ("DMPInvalidCertificate",), "Not a valid", ""), "DMPInvalidCertificate", SECURITY),
    (Fault("Sender", ("XDSUnknownPatientId",), "", ""), "XDSUnknownPatientId", ErrorKind.PERMANENT_PATIENT),
    (Fault("Sender", (), "XDSRegistryBusy: later", ""), "XDSRegistryBusy", ErrorKind.TRANSIENT),
    (Fault("Receiver", (), "Erreur d'authentification de la personne morale", ""), "Receiver", SECURITY),
    (Fault("Sender", (), "", "Aucun AuthorInstitution ne correspond"), "Sender", SECURITY),
    (Fault("Sender", (WSA_SUBCODE,), "", ""), f"Sender.{WSA_SUBCODE}", SECURITY),
    (Fault("Sender", (), "bad", ""), "Sender", ONCE),
    (Fault("Receiver", (), "boom", "trace"), "Receiver", ONCE),
]


@pytest.mark.parametrize(("fault", "code", "kind"), FAULTS)
def test_faults(fault: Fault, code: str, kind: ErrorKind) -> None:
    error, found = fault_error(fault)
    assert (error.code, found) == (code, kind)


def test_the_head_is_the_approved_version() -> None:
    versions = [
        DocumentEntry(f"urn:uuid:{n}", "m", "2.25.1", "p", status=status)
        for n, status in enumerate((v.APPROVED, v.DEPRECATED))
    ]
    assert Found(Exchange("m"), tuple(versions)).head.id == "urn:uuid:0"
    assert Found(Exchange("m"), tuple(versions[1:])).head.id == "urn:uuid:1"


def test_a_refusal_says_why_in_one_line() -> None:
    errors = (RegistryError("A", "because"), RegistryError("B", ""))
    assert Refused(Exchange("m"), errors, ErrorKind.TRANSIENT).reason == "A: because; B"
    assert Refused(Exchange("m"), (), ErrorKind.TRANSIENT).reason == "no error code given"
