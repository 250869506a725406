"""The name of a node: its setting, the host name without one, always safe in a file name."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from drimbox.bootstrap import node_name
from drimbox.settings.room import ConfigurationError
from drimbox.settings.whole import Settings, parse_settings
from fixtures.configuration import configuration


def settings(**node: str) -> Settings:
    return parse_settings(configuration(Path("/nowhere"), node=node))


@pytest.mark.parametrize("name", ["box-1", "A.b_c", "x" * 63])
def test_a_name_is_taken_as_it_is(name: str) -> None:
    assert node_name(settings(name=name)) == name


@pytest.mark.parametrize("name", ["../up", ".hidden", "two words", "é", "x" * 64, "a/b", "-o"])
def test_a_name_that_is_not_safe_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"node\.name"):
        settings(name=name)


def test_without_a_name_it_is_the_host_made_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "box/1 (new)")
    assert node_name(settings()) == "box-1--new-"
