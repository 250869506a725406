"""What a hostile file may cost: memory, time, and the words of the report that are written and shown."""

from __future__ import annotations

import json
from collections.abc import Callable

from fixtures.list_authorities import Authorities, Holder
from fixtures.whitelists import sign_list, write_list
from whitelist.attempt import refusal
from whitelist.chain import Crls
from whitelist.tree import MAX_TAGS
from whitelist.trust import MAX_WORDS, Report

Judge = Callable[..., Report]


def test_a_long_attribute_is_not_repeated_whole(
    judge: Judge, signer: Holder, authorities: Authorities
) -> None:
    """`state.json` keeps the reason of a failure: megabytes of it made the state unreadable."""
    document = sign_list(write_list(), signer, authorities)
    report = judge(document.replace(b'URI=""', b'URI="' + b"u" * 1_000_000 + b'"', 1))
    assert 4 in {step.number for step in report.failed}
    assert max(len(step.why) for step in report.steps) <= MAX_WORDS + 1
    assert len(refusal(report, Crls(None, None)).reason) < 13 * (MAX_WORDS + 100)
    assert len(json.dumps(report.as_dict())) < 60_000


def test_control_characters_are_not_repeated(judge: Judge) -> None:
    report = judge(b'<ListeBlancheDRIM-M xmlns="https://e.fr/\xc2\x9b31m&#x200E;"/>')
    assert all(character.isprintable() for step in report.steps for character in step.why)


def test_more_tags_than_any_list_has_are_not_parsed(judge: Judge) -> None:
    report = judge(b"<ListeBlancheDRIM-M>" + b"<a/>" * MAX_TAGS + b"</ListeBlancheDRIM-M>")
    assert "tags" in next(step.why for step in report.failed if step.number == 2)
