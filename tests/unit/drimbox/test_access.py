"""Retrieval rules: each row of the contract's table, one thing broken at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from drimbox.domain.access import (
    REFUSALS,
    Standing,
    Wish,
    bearer,
    check_standing,
    check_token,
    manifest_uid,
)
from drimbox.domain.errors import AccessRefused
from drimbox.domain.lifecycle import SubmissionState
from drimbox.domain.token_claims import TokenRules

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
STUDY = "1.2.3"
STANDING = Standing(STUDY, SubmissionState.REGISTERED, NOW - timedelta(days=1), "digest", 3, None, False)
REPLACED = STANDING._replace(
    state=SubmissionState.DEPRECATED, since=NOW - timedelta(seconds=60), succeeded=True
)
NONE, HOUR = timedelta(), timedelta(hours=1)
RULES = TokenRules("https://psc")


def refusal(call: Any, *arguments: Any, **named: Any) -> tuple[int, str]:
    with pytest.raises(AccessRefused) as caught:
        call(*arguments, **named)
    return caught.value.status, caught.value.code


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer OK_Study_token", "OK_Study_token"),
        ("bearer  abc ", "abc"),
        ("BEARER a.b-c_d~e+f/g==", "a.b-c_d~e+f/g=="),
        ("Bearer " + "x" * 16384, "x" * 16384),
    ],
)
def test_bearer_gives_the_token(header: str, token: str) -> None:
    assert bearer(header) == token


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "Bearer", "Bearer ", "Basic abc", "Bearer a b", "Bearer é", "Bearer " + "x" * 16385),
        *("Bearer a, Bearer a", "Bearer a\tb", 'Bearer "a"', "Bearer a=b", "Bearer a\n", "Bearer \x00", "a"),
    ],
)
def test_no_usable_token(header: str | None) -> None:
    assert refusal(bearer, header) == (401, "token-missing")


def test_an_unsound_token_says_to_the_audit_alone_what_it_breaks() -> None:
    with pytest.raises(AccessRefused) as caught:
        check_token({"active": True}, RULES, NOW, certificate=None, certificate_subject=None)
    assert (caught.value.status, caught.value.code) == (401, "token-inactive")
    assert caught.value.why == "exp, scope, subject"
    assert caught.value.reason == REFUSALS["token-inactive"][1]


def test_a_token_bound_to_another_certificate_is_refused() -> None:
    claims = {
        "active": True,
        "exp": NOW.timestamp() + 60,
        "scope": "openid",
        "sub": "s",
        "cnf": {"x5t#S256": "x"},
    }
    answer = refusal(check_token, claims, RULES, NOW, certificate=b"DER", certificate_subject=None)
    assert answer == (401, "token-binding")


def test_a_sound_token_names_its_bearer() -> None:
    claims = {"active": True, "exp": NOW.timestamp() + 60, "scope": "openid", "sub": "s", "azp": "box"}
    identity = check_token(claims, RULES, NOW, certificate=b"DER", certificate_subject="CN=db")
    assert (identity.subject, identity.structure, identity.client_id) == ("s", "CN=db", "box")


@pytest.mark.parametrize("header", [None, "", "not-a-uid", "1.2.03", "1." + "2" * 64, "../etc", "1.2, 1.2"])
def test_kos_header(header: str | None) -> None:
    assert refusal(manifest_uid, header) == (400, "kos-header")


def test_a_published_manifest_serves() -> None:
    assert check_standing(STUDY, STANDING, NOW, NONE) is STANDING


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"state": "PREPARED"}, (404, "kos-unknown")),
        ({"state": "SENDING"}, (503, "kos-in-flight")),
        ({"state": "DOUBTFUL"}, (503, "kos-in-flight")),
        ({"state": "RESENDING"}, (503, "kos-in-flight")),
        ({"state": "PARKED"}, (503, "kos-in-flight")),
        ({"state": "REFUSED"}, (404, "kos-unknown")),
        ({"state": "DROPPED"}, (404, "kos-unknown")),
        ({"state": "DEPRECATED"}, (404, "kos-replaced")),
        ({"state": "WITHDRAWN"}, (410, "kos-unpublished")),
        ({"withdrawn_by": "order"}, (410, "kos-unpublished")),
        ({"withdrawn_by": "operator"}, (410, "kos-unpublished")),
        ({"study_instance_uid": "1.2.4"}, (404, "kos-unknown")),
    ],
)
def test_every_other_standing_refuses(change: dict[str, str], answer: tuple[int, str]) -> None:
    changed: Any = change if "state" not in change else {"state": SubmissionState(change["state"])}
    assert refusal(check_standing, STUDY, STANDING._replace(**changed), NOW, HOUR) == answer


def test_an_unknown_manifest() -> None:
    assert refusal(check_standing, STUDY, None, NOW, NONE) == (404, "kos-unknown")


def test_every_state_has_an_answer() -> None:
    for state in set(SubmissionState) - {SubmissionState.REGISTERED}:
        status, slug = refusal(check_standing, STUDY, STANDING._replace(state=state), NOW, NONE)
        assert REFUSALS[slug][0] == status


def test_a_replaced_manifest_serves_for_its_grace() -> None:
    assert check_standing(STUDY, REPLACED, NOW, timedelta(seconds=61)) is REPLACED


@pytest.mark.parametrize(
    ("standing", "grace"),
    [
        (REPLACED, NONE),
        (REPLACED, timedelta(seconds=60)),
        (REPLACED._replace(succeeded=False), HOUR),  # its successor was unpublished meanwhile
        (REPLACED._replace(withdrawn_by="order"), HOUR),
        (REPLACED._replace(since=NOW + timedelta(days=1)), HOUR),  # the clock was set back
    ],
)
def test_and_no_longer(standing: Standing, grace: timedelta) -> None:
    assert refusal(check_standing, STUDY, standing, NOW, grace) == (404, "kos-replaced")


def test_a_wish_is_of_whole_instances_unless_it_says_frames() -> None:
    assert Wish(STUDY, None, None, None, None).frames is None
