"""Deployments before the study of architectures: what is accepted, what is refused by its name, what is incomplete."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from drimbox.domain.certificate_roles import Severity
from drimbox.domain.deployment_rules import (
    EXAMPLE_1,
    EXAMPLE_2,
    SOLUTIONS,
    Application,
    Deployment,
    Hosting,
    Proxy,
    judge_deployment,
)

OURS = Application("this DRIMBox", "client-1", "a1")
FAULT, WARNING = Severity.FAULT, Severity.WARNING


def shared(**changes: Any) -> Deployment:
    """An accepted one: several installations behind one proxy, in a data centre."""
    fields: dict[str, Any] = {
        "proxy": Proxy.MUTUALISED,
        "hosting": Hosting.DATA_CENTRE,
        "own": OURS,
        "others": (Application("RIS", "client-2", "b2"), Application("PACS", "client-3")),
        "operator": "2180035024",
        "introspection": "c3",
        "introspection_units": ("332600000500012",),
    }
    return Deployment(**(fields | changes))


def own_proxy(hosting: Hosting | None) -> Deployment:
    return Deployment(Proxy.INTEGRATED, hosting, replace(OURS, certificate=""), introspection="c3")


def said(deployment: Deployment) -> list[tuple[str, Severity, str]]:
    return [(one.where, one.severity, one.words) for one in judge_deployment(deployment)]


def test_every_cell_of_the_study_is_there() -> None:
    assert set(SOLUTIONS) == {(hosting, proxy) for hosting in Hosting for proxy in Proxy}


@pytest.mark.parametrize("hosting", [Hosting.DATA_CENTRE, Hosting.ESTABLISHMENT, Hosting.OFFICE])
@pytest.mark.parametrize("proxy", [Proxy.MUTUALISED, Proxy.EXTERNALISED])
def test_a_proxy_for_several_is_accepted(hosting: Hosting, proxy: Proxy) -> None:
    assert said(shared(hosting=hosting, proxy=proxy)) == []


def test_an_integrated_proxy_is_accepted_where_an_audit_can_be_answered() -> None:
    assert said(own_proxy(Hosting.DATA_CENTRE)) == []
    ((where, severity, words),) = said(own_proxy(Hosting.ESTABLISHMENT))
    assert (where, severity) == ("deployment.proxy", WARNING)
    assert words.startswith("cas d'usage #2 Applications dédiées (sur SI), Solution 2: Proxys intégrés:")


def test_example_2_an_integrated_proxy_in_an_office_is_refused_by_its_name() -> None:
    ((where, severity, words),) = said(own_proxy(Hosting.OFFICE))
    assert (where, severity) == ("deployment.proxy", FAULT)
    assert EXAMPLE_2 in words
    assert 'set deployment.proxy to "mutualised" or "externalised"' in words


def test_an_integrated_proxy_on_a_workstation_is_refused_and_any_other_is_doubted() -> None:
    ((_, severity, words),) = said(own_proxy(Hosting.WORKSTATION))
    assert severity is FAULT
    assert words.startswith("cas d'usage #3 Applications locales, Proxys intégrés: only « Proxy mutualisé »")
    assert [one[1] for one in said(shared(hosting=Hosting.WORKSTATION))] == [WARNING]


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (Application("RIS", "client-2", "a1"), "certificate"),
        (Application("RIS", "client-2", "c3"), "certificate"),
        (Application("RIS", "client-1", "b2"), "Client_ID"),
    ],
)
def test_example_1_one_certificate_for_several_applications_is_refused_by_its_name(
    other: Application, what: str
) -> None:
    ((where, severity, words),) = said(shared(proxy=Proxy.EXTERNALISED, others=(other,)))
    assert (where, severity) == ("deployment.applications", FAULT)
    assert words.startswith(f"RIS and this DRIMBox have one {what}: {EXAMPLE_1}")
    ((_, severity, words),) = said(shared(others=(other,)))
    assert severity is FAULT
    assert "Solution 2: Proxy mutualisé: « 1 certificat = 1 client id = 1 application »" in words


def test_applications_are_compared_with_each_other_and_every_pair_is_said() -> None:
    others = (
        Application("A", "x", "s"),
        Application("B", "y", "s"),
        Application("C", "x", ""),
        Application("D", "z"),
    )
    words = [one[2].partition(": ")[0] for one in said(shared(others=others))]
    assert words == ["B and A have one certificate", "C and A have one Client_ID"]


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"others": (Application("RIS", "client-2"),)}, "deployment.applications"),
        ({"operator": "2180035024"}, "deployment.proxy_operator"),
        ({"own": OURS}, "deployment.proxy_client_certificate"),
    ],
)
def test_an_integrated_proxy_has_nothing_beside_it(changes: dict[str, Any], where: str) -> None:
    found = said(replace(own_proxy(Hosting.DATA_CENTRE), **changes))
    assert [(one[0], one[1]) for one in found] == [(where, FAULT)]


def test_the_operator_of_a_shared_proxy_is_named() -> None:
    ((where, severity, _),) = said(shared(operator=""))
    assert (where, severity) == ("deployment.proxy_operator", FAULT)


def test_one_certificate_for_proxy_and_introspection_only_within_one_legal_entity() -> None:
    assert said(shared(introspection="a1", introspection_units=("2180035024",))) == []
    ((where, severity, words),) = said(shared(introspection="a1"))
    assert (where, severity) == ("deployment.proxy_client_certificate", FAULT)
    assert "introspection needs an ORG AUTH_CLI certificate of this DRIMBox" in words


def test_what_was_not_declared_is_said() -> None:
    ((where, severity, _),) = said(own_proxy(None))
    assert (where, severity) == ("deployment.hosting", WARNING)
