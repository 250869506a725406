"""What an exchange with the DMP can end in: a closed set, so that no ending is forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from drimbox.domain.xds.metadata import DocumentEntry
from drimbox.domain.xds.response import ErrorKind, RegistryError
from drimbox.domain.xds.vocabulary import APPROVED


@dataclass(frozen=True, slots=True)
class Exchange:
    """The trace of one attempt, for the archive. `answer`: raw bytes received, as many as were accepted."""

    message_id: str
    http_status: int | None = None
    content_type: str = ""
    answer: bytes = b""


@dataclass(frozen=True, slots=True)
class Registered:
    """The DMP says Success to our own message."""

    exchange: Exchange
    warnings: tuple[RegistryError, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """The DMP understood and refused; `kind` is the gravest of `errors`."""

    exchange: Exchange
    errors: tuple[RegistryError, ...]
    kind: ErrorKind

    @property
    def reason(self) -> str:
        """The errors in one line, for an operator."""
        said = (f"{error.code}: {error.context}" if error.context else error.code for error in self.errors)
        return "; ".join(said) or "no error code given"


@dataclass(frozen=True, slots=True)
class NotSent:
    """Nothing of the request reached them: name, connection, TLS handshake, our own credentials."""

    exchange: Exchange
    reason: str


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Something may have reached them, and nothing usable came back. Success is never guessed."""

    exchange: Exchange
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """The registry holds the document; `documents` are its metadata versions, ids = entryUUIDs."""

    exchange: Exchange
    documents: tuple[DocumentEntry, ...]

    @property
    def head(self) -> DocumentEntry:
        """The Approved version, else the last one listed."""
        approved = [document for document in self.documents if document.status == APPROVED]
        return (approved or list(self.documents))[-1]


@dataclass(frozen=True, slots=True)
class NotFound:
    """The registry answered, and holds no such document."""

    exchange: Exchange


Answer = Registered | Refused | NotSent | NoAnswer
Lookup = Found | NotFound | Refused | NotSent | NoAnswer

_WORDS: Mapping[type[object], str] = {
    Registered: "registered",
    Refused: "refused",
    NotSent: "not-sent",
    NoAnswer: "no-answer",
    Found: "found",
    NotFound: "not-found",
}


def outcome_word(outcome: Answer | Lookup) -> str:
    """How logs and metrics name it."""
    return _WORDS[type(outcome)]
