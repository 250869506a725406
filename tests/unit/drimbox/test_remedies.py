"""What an operator is told to do about a message, family by family."""

from __future__ import annotations

import pytest

from drimbox.domain.hl7v2_grammar import TOLERANCES
from drimbox.domain.hl7v2_routes import ROUTES
from drimbox.domain.remedies import remedy
from drimbox.domain.report_states import TABLE
from drimbox.settings.mllp import MllpSettings, SenderSettings
from drimbox.settings.organisation import PolicySettings

REASONS = {row.slug: row.reason for row in TABLE}


def test_what_was_taken_asks_for_nothing() -> None:
    found = remedy("AA", None, None, "ORU^R01")
    assert (found.family, found.setting) == ("nothing", "")


@pytest.mark.parametrize(
    ("code", "reason", "setting"),
    [
        ("207/906 sender-unknown", "", "mllp.senders"),
        ("200 adt-not-read", "", "policy.consent_from_adt"),
        ("207/901 901", "", "policy.same_author"),
        ("207/900 900", REASONS["orphan-refused"], "policy.orphan_replacement"),
        ("207/906 906", REASONS["deletion-unknown"], "policy.idempotent_delete"),
        *((f"199 {slug}", "", "mllp.senders.not_tolerated") for slug in TOLERANCES),
    ],
)
def test_a_setting_that_would_take_it_is_named_and_exists(code: str, reason: str, setting: str) -> None:
    found = remedy("AE", code, reason, "MDM^T10")
    assert (found.family, found.setting) == ("setting", setting)
    assert setting.rpartition(".")[2] in found.advice
    room, *rest = setting.split(".")
    fields = (MllpSettings if room == "mllp" else PolicySettings).model_fields
    assert rest[0] in fields
    assert set(rest[1:]) <= set(SenderSettings.model_fields)


@pytest.mark.parametrize(
    "slug", ["acknowledgement", "lps-mail", "teleradiology", "zam-dmp-receipt", "adt-event"]
)
def test_what_belongs_elsewhere_asks_for_nothing_here(slug: str) -> None:
    row = next(row for row in ROUTES if row.slug == slug)
    assert remedy("AE", f"{row.error} {slug}", row.reason, "X").family == "nothing"


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        ("101 hl7-101", "required fields missing: PID-3", "ORU^R01"),
        ("200 hl7-200", "", "BAR^P01"),
        ("207/900 900", REASONS["parent-superseded"], "MDM^T10"),
        ("207/906 906", REASONS["other-content"], "MDM^T02"),
        ("207/903 903", "no INS in the document", "CDA"),
        ("102 cda-not-xml", "", "ORU^R01"),
        ("102 terminator", "a slug of a tolerance, but not refused for it", "ORU^R01"),
    ],
)
def test_the_rest_is_fixed_at_the_sender(code: str, reason: str, kind: str) -> None:
    assert remedy("AE", code, reason, kind).family == "sender"


def test_an_order_may_only_have_come_too_early() -> None:
    found = remedy("AE", "207/906 906", "no exam of this study is known here", "OMI^O23")
    assert "once the images" in found.advice


def test_what_could_not_be_kept_comes_again_by_itself() -> None:
    assert remedy("AR", "207 unavailable", "", "ORU^R01").family == "nothing"


@pytest.mark.parametrize("row", [row for row in TABLE if row.kind == "refuse"], ids=lambda row: row.slug)
def test_each_refusal_of_the_state_table_is_told_by_its_reason(row: object) -> None:
    reason = row.reason  # type: ignore[attr-defined]
    assert sum(other.reason == reason for other in TABLE) == 1
