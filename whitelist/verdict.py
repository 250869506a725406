"""What an external eSignSanté answered, and how far it counts: it can add a refusal to ours, never an acceptance.

A compromised helper must not be able to have a list accepted, nor its absence to stop us (trust-and-identity 4.6).
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from whitelist.proof import read_proof
from whitelist.proof_rules import ESIGNSANTE_STEP
from whitelist.trust import Held, Report, Step
from whitelist.xades_signer import ProofRefused

MAX_ITEMS = 200  # errors and metadata that are kept of one answer
_TITLE = "eSignSanté's verdict"
_UNSAFE = re.compile(r"[^\w .,:'()/=@+-]")


class NoVerdict(Exception):
    """eSignSanté did not judge. `code`: stable slug; `reason`: a sentence without what the peer wrote."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code, self.reason = code, reason


@dataclass(frozen=True, slots=True)
class VerdictError:
    """One of `erreurs` (4.3, 4.4)."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Metadatum:
    """One of `metaData`: DATE_SIGNATURE, DN_CERTIFICAT, RAPPORT_DIAGNOSTIQUE... (4.4)."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of eSignSanté; `proof`: its signed XML, None when it is missing or not usable (`warnings`)."""

    valid: bool
    errors: tuple[VerdictError, ...] = ()
    metadata: tuple[Metadatum, ...] = ()
    proof: bytes | None = None
    warnings: tuple[str, ...] = ()

    @property
    def codes(self) -> tuple[str, ...]:
        """The error codes, cleaned for a log."""
        return tuple(_clean(error.code, 40) for error in self.errors)


def combine(ours: Report, theirs: Verdict | None) -> bool:
    """Whether the list is accepted: by us, and not refused by them; without their verdict ours decides."""
    return ours.accepted and (theirs is None or theirs.valid)


def verdict_step(theirs: Verdict | NoVerdict) -> Step:
    """Step 15 of the report: held, failed with their codes, or a warning that their proof is missing."""
    if isinstance(theirs, NoVerdict):
        why = f"no verdict ({theirs.reason}): ours decides, their proof is missing"
        return Step(ESIGNSANTE_STEP, _TITLE, Held.WARNED, why)
    if not theirs.valid:
        codes = ", ".join(theirs.codes) or "no error code"
        return Step(ESIGNSANTE_STEP, _TITLE, Held.FAILED, f"refused: {codes}")
    if theirs.warnings:
        return Step(ESIGNSANTE_STEP, _TITLE, Held.WARNED, f"valid, but {', '.join(theirs.warnings)}")
    return Step(ESIGNSANTE_STEP, _TITLE, Held.HELD, "valid, with its proof")


def read_verdict(body: bytes, *, document: bytes, request_id: str) -> Verdict:
    """The verdict in a JSON answer (4.4) about `document`. Raises `NoVerdict` when it is not what 4.4 says.

    `valide: true` beside errors is a refusal. A proof about anything else than `document`, `request_id` and this
    verdict is left out, with a warning.
    """
    answer = _object(body)
    if not isinstance(answer.get("valide"), bool):
        raise NoVerdict("malformed-answer", "the answer has no boolean `valide`")
    errors = tuple(VerdictError(*pair) for pair in _pairs(answer, "erreurs", "codeErreur"))
    metadata = tuple(Metadatum(*pair) for pair in _pairs(answer, "metaData", "typeMetadata"))
    valid = answer["valide"] and not errors
    proof, warnings = _proof(answer.get("preuve"), document, request_id, valid)
    return Verdict(valid, errors, metadata, proof, warnings)


def _object(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise NoVerdict("malformed-answer", "the answer is no JSON") from error
    if not isinstance(answer, dict):
        raise NoVerdict("malformed-answer", "the answer is no JSON object")
    return answer


def _pairs(answer: dict[str, Any], member: str, key: str) -> Sequence[tuple[str, str]]:
    items = answer.get(member)
    if not isinstance(items, list):
        raise NoVerdict("malformed-answer", f"`{member}` is no list")
    if not all(isinstance(item, dict) and isinstance(item.get(key), str) for item in items):
        raise NoVerdict("malformed-answer", f"an item of `{member}` has no `{key}`")
    return [(item[key], str(item.get("message") or "")) for item in items[:MAX_ITEMS]]


def _proof(
    text: object, document: bytes, request_id: str, valid: bool
) -> tuple[bytes | None, tuple[str, ...]]:
    if not isinstance(text, str) or not text:
        return None, ("the answer holds no proof",)
    try:
        proof = b64decode("".join(text.split()), validate=True)
        contents = read_proof(proof)
    except ProofRefused as error:
        return None, tuple(error.faults)
    except ValueError:
        return None, ("the proof is not base64",)
    said = (contents.document, contents.request_id, contents.valid)
    named = zip(said, (document, request_id, valid), ("document", "request", "verdict"), strict=True)
    wrong = [f"the proof is about another {name}" for found, expected, name in named if found != expected]
    return (None, tuple(wrong)) if wrong else (proof, ())


def _clean(text: str, length: int) -> str:
    """What a peer wrote, harmless in a log."""
    return _UNSAFE.sub("?", text[:length])
