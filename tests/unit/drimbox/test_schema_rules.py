"""Settings of PostgreSQL that endanger what was acknowledged."""

from __future__ import annotations

import pytest

from drimbox.adapters.schema import SETTINGS, judge_settings

SAFE = dict.fromkeys(SETTINGS, "on")


@pytest.mark.parametrize("setting", SETTINGS)
def test_each_setting_that_endangers_is_named(setting: str) -> None:
    broken = list(judge_settings(SAFE | {setting: "off"}))
    assert [(rule.setting, rule.fault) for rule, _ in broken] == [(setting, setting != "synchronous_commit")]
    assert f"{setting} = off" in broken[0][1]


def test_safe_and_stricter_settings_are_not() -> None:
    assert list(judge_settings(SAFE | {"synchronous_commit": "remote_apply"})) == []
