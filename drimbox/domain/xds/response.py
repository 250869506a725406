"""What a registry or repository answers, typed, and what each error means: one table (dmp-kos-xds 2.7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lxml import etree

from drimbox.domain.soap import Fault
from drimbox.domain.xds import vocabulary as v
from drimbox.domain.xds.ebxml import rim
from drimbox.domain.xds.ebxml_reader import read_entry
from drimbox.domain.xds.metadata import DocumentEntry


class UnreadableResponse(ValueError):
    """SOAP, but neither a RegistryResponse nor an AdhocQueryResponse whose status means one thing."""


class ErrorKind(StrEnum):
    """What to do about a refusal, least grave first: a mixture is as grave as its gravest."""

    TRANSIENT = "transient"  # try again, for days
    TRANSIENT_ONCE = "transient_once"  # a few tries, then an operator
    STALE_REFERENCE = "stale_reference"  # read the head again, rebuild once
    DUPLICATE = "duplicate"  # probably done: confirm by TD3.1b
    PERMANENT_DATA = "permanent_data"  # park; a corrected lot has new UIDs
    PERMANENT_PATIENT = "permanent_patient"  # no DMP, closed, opposition
    SECURITY = "security"  # every message would fail: stop the queue


GRAVITY = {kind: rank for rank, kind in enumerate(ErrorKind)}
_ONCE, _DATA = ErrorKind.TRANSIENT_ONCE, ErrorKind.PERMANENT_DATA
_STALE, _DUPLICATE = ErrorKind.STALE_REFERENCE, ErrorKind.DUPLICATE

ERROR_KINDS: Mapping[str, ErrorKind] = {
    "XDSRegistryBusy": ErrorKind.TRANSIENT,
    "XDSRepositoryBusy": ErrorKind.TRANSIENT,
    "XDSRegistryOutOfResources": ErrorKind.TRANSIENT,
    "XDSRepositoryOutOfResources": ErrorKind.TRANSIENT,
    "XDSRegistryNotAvailable": ErrorKind.TRANSIENT,
    "XDSRegistryError": _ONCE,
    "XDSRepositoryError": _ONCE,
    "XDSDuplicateUniqueIdInRegistry": _DUPLICATE,
    "XDSNonIdenticalHash": _DUPLICATE,
    "XDSRegistryDeprecatedDocumentError": _STALE,
    "UnresolvedReferenceException": _STALE,
    "XDSMetadataVersionError": _STALE,
    "XDSMetadataUpdateError": _STALE,
    "XDSMetadataUpdateOperationError": _STALE,
    "XDSDocumentUniqueIdError": _STALE,
    "XDSReplaceFailed": _STALE,
    "XDSRegistryMetadataError": _DATA,
    "XDSRepositoryMetadataError": _DATA,
    "XDSMissingDocument": _DATA,
    "XDSMissingDocumentMetadata": _DATA,
    "XDSRegistryDuplicateUniqueIdInMessage": _DATA,
    "XDSRepositoryDuplicateUniqueIdInMessage": _DATA,
    "XDSPatientIdDoesNotMatch": _DATA,
    "XDSPatientIDReconciliationError": _DATA,
    "InvalidDocumentContent": _DATA,
    "XDSUnknownRepositoryId": _DATA,
    "XDSStoredQueryMissingParam": _DATA,
    "XDSStoredQueryParamNumber": _DATA,
    "XDSUnknownStoredQuery": _DATA,
    "XDSExtraMetadataNotSaved": _DATA,
    "XDSTooManyResults": _DATA,
    "XDSUnknownPatientId": ErrorKind.PERMANENT_PATIENT,
    "DMPInvalidCertificate": ErrorKind.SECURITY,
}
# HTTP statuses that refuse by themselves, without SOAP; every other answer without SOAP is no answer.
HTTP_KINDS: Mapping[int, ErrorKind] = {
    400: _ONCE,
    401: ErrorKind.SECURITY,
    403: ErrorKind.SECURITY,
    404: ErrorKind.SECURITY,
    405: ErrorKind.SECURITY,
    413: _DATA,
    415: _ONCE,
    429: ErrorKind.TRANSIENT,
}
# Words of a fault that tell the kind when its code does not (dmp-kos-xds 2.7, security).
_FAULT_WORDS: Mapping[str, ErrorKind] = {
    "Erreur d'authentification": ErrorKind.SECURITY,
    "Aucun AuthorInstitution": ErrorKind.SECURITY,
    "Not a valid signature certificate": ErrorKind.SECURITY,
}


@dataclass(frozen=True, slots=True)
class RegistryError:
    """One error of an answer. `context` is the registry's own text, kept for the operator."""

    code: str
    context: str
    severity: str = ""
    location: str = ""


@dataclass(frozen=True, slots=True)
class RegistryAnswer:
    """A RegistryResponse or AdhocQueryResponse. `documents`: entries found; `references`: ObjectRefs."""

    success: bool
    errors: tuple[RegistryError, ...]
    warnings: tuple[RegistryError, ...]
    documents: tuple[DocumentEntry, ...] = ()
    references: tuple[str, ...] = ()


def read_registry_answer(body: etree._Element) -> RegistryAnswer:
    """Read the content of a SOAP Body.

    Raises `UnreadableResponse` for another element, an unknown status (PartialSuccess included), and a
    Success that carries errors: success is never guessed.
    """
    if body.tag not in (f"{{{v.RS}}}RegistryResponse", f"{{{v.QUERY}}}AdhocQueryResponse"):
        raise UnreadableResponse("the SOAP body is no registry response")
    status = body.get("status", "")
    if status not in (v.RESPONSE_SUCCESS, v.RESPONSE_FAILURE):
        raise UnreadableResponse(f"registry response with status {status[-60:] or '(none)'}")
    listed = [_error(node) for node in body.iter(f"{{{v.RS}}}RegistryError")]
    errors = tuple(error for error in listed if error.severity != v.SEVERITY_WARNING)
    if status == v.RESPONSE_SUCCESS and errors:
        raise UnreadableResponse("registry response with status Success and errors")
    return RegistryAnswer(
        success=status == v.RESPONSE_SUCCESS,
        errors=errors,
        warnings=tuple(error for error in listed if error.severity == v.SEVERITY_WARNING),
        documents=tuple(read_entry(node) for node in body.iter(rim("ExtrinsicObject"))),
        references=tuple(node.get("id", "") for node in body.iter(rim("ObjectRef"))),
    )


def kind_of(errors: Sequence[RegistryError]) -> ErrorKind:
    """The kind of a refusal: the gravest of its errors; unknown codes, or none: transient once."""
    kinds = [ERROR_KINDS.get(_bare(error.code), _ONCE) for error in errors]
    return max(kinds, key=GRAVITY.__getitem__, default=_ONCE)


def fault_error(fault: Fault) -> tuple[RegistryError, ErrorKind]:
    """A fault as an error, with its kind.

    Known codes and words in it tell the kind (XDS errors came as faults, dmp-kos-xds 2.7); else a Sender
    fault with a subcode is one of security, anything else transient once.
    """
    texts = (*fault.subcodes, fault.reason, fault.detail)
    named = [code for code in ERROR_KINDS if any(code in text for text in texts)]
    worded = [kind for words, kind in _FAULT_WORDS.items() if any(words in text for text in texts)]
    kinds = [ERROR_KINDS[code] for code in named] + worded
    if not kinds:
        kinds = [ErrorKind.SECURITY if fault.code == "Sender" and fault.subcodes else _ONCE]
    code = named[0] if named else ".".join((fault.code, *fault.subcodes))
    context = " ".join(text for text in (fault.reason, fault.detail) if text)
    return RegistryError(code, context, "fault"), max(kinds, key=GRAVITY.__getitem__)


def _error(node: etree._Element) -> RegistryError:
    return RegistryError(
        code=node.get("errorCode", ""),
        context=" ".join((node.get("codeContext") or str(node.text or "")).split()),
        severity=node.get("severity", ""),
        location=node.get("location", ""),
    )


def _bare(code: str) -> str:
    return code.rpartition(":")[2].strip()
