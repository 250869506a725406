"""What an operator does about a message: nothing, have it fixed at the sender, or change a setting and replay it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from drimbox.domain.hl7v2_grammar import TOLERANCES
from drimbox.domain.hl7v2_routes import ROUTES
from drimbox.domain.report_states import TABLE

Family = Literal["nothing", "sender", "setting"]


@dataclass(frozen=True, slots=True)
class Remedy:
    """One row. `family`: who acts; `setting`: what to change before a replay, empty for the other families."""

    family: Family
    advice: str
    setting: str = ""


TAKEN = Remedy("nothing", "nothing: the message was taken")
TAKEN_SINCE = Remedy("nothing", "nothing: it was submitted again and taken")
ELSEWHERE = Remedy("nothing", "nothing here: the message belongs elsewhere, the reason says where")
OVERTAKEN = Remedy("nothing", "nothing: what was said later counts; have it sent again if it is to hold")
LATER = Remedy("nothing", "nothing: the sender keeps the message and sends it again")
SENDER = Remedy("sender", "have it fixed at the sender, and sent again")
FORGIVE = Remedy(
    "setting",
    "have the sender corrected; or take this defect out of mllp.senders.not_tolerated, then replay",
    "mllp.senders.not_tolerated",
)
# By the slug of a refusal, or of the row of the state table (`domain/report_states.py`) that it met
REMEDIES: dict[str, Remedy] = {
    "sender-unknown": Remedy(
        "setting", "say in mllp.senders who signs so (MSH-3, MSH-4) from that address, then replay", "mllp.senders"
    ),
    "adt-not-read": Remedy(
        "setting", "set policy.consent_from_adt = true if ADT are to be read, then replay", "policy.consent_from_adt"
    ),
    "901": Remedy(
        "setting",
        "have it sent by the structure that made the document; or set policy.same_author = false "
        "(also of the sender), then replay",
        "policy.same_author",
    ),
    "orphan-refused": Remedy(
        "setting",
        "replay it once the document that it replaces has come; or set policy.orphan_replacement = true "
        "(also of the sender), then replay",
        "policy.orphan_replacement",
    ),
    "deletion-unknown": Remedy(
        "setting",
        "replay it once the document has come; or set policy.idempotent_delete = true (also of the sender), "
        "then replay",
        "policy.idempotent_delete",
    ),
    "unavailable": LATER,
    **dict.fromkeys(("consent-overtaken", "order-overtaken"), OVERTAKEN),
    # of the messages that are routed here by mistake, those that another message should stand for
    **dict.fromkeys(("order-request", "results-withdrawn", "hl7-200", "hl7-201"), SENDER),
}  # fmt: skip
_ORDER_TOO_EARLY = Remedy(
    "sender",
    "replay it once the images or the report of the exam have come; else have it fixed at the sender",
)
_ROUTED_AWAY = frozenset(row.slug for row in ROUTES if row.error)
_STATE_ROWS = {row.reason: row.slug for row in TABLE if row.kind == "refuse"}


def remedy(verdict: str, code: str | None, reason: str | None, kind: str) -> Remedy:
    """What to do about a message of the inbox; `code`: `<0357>[/<0533>] <slug>`, as `records.Message` keeps it."""
    if verdict == "AA" or not code:
        return TAKEN
    error, _, slug = code.partition(" ")
    slug = _STATE_ROWS.get(reason or "", slug)
    if slug in REMEDIES:
        return REMEDIES[slug]
    if slug in _ROUTED_AWAY:
        return ELSEWHERE
    if error == "199" and slug in TOLERANCES:
        return FORGIVE
    return _ORDER_TOO_EARLY if kind.startswith("OMI") and slug == "906" else SENDER
