"""Which deployments the ANS accepts: the study of architectures (API PSConnectées, 22/09/2023) as tables.

Rows and names are those of the study; what it says of certificates is trust-and-identity 2.7, the nuance for several
DRIMBoxes behind one proxy 2.8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from drimbox.domain.certificate_roles import Severity


class Proxy(StrEnum):
    """Who has the proxy PSC & API."""

    INTEGRATED = "integrated"
    MUTUALISED = "mutualised"
    EXTERNALISED = "externalised"


class Hosting(StrEnum):
    """Where the application server stands: the use case of the study."""

    DATA_CENTRE = "data-centre"
    ESTABLISHMENT = "establishment"
    OFFICE = "office"
    WORKSTATION = "workstation"


CASES: Mapping[Hosting, str] = {
    Hosting.DATA_CENTRE: "#1 Applications mutualisées (mode SaaS)",
    Hosting.ESTABLISHMENT: "#2 Applications dédiées (sur SI)",
    Hosting.WORKSTATION: "#3 Applications locales",
    Hosting.OFFICE: "#4 Applications dédiées (hors SI)",
}
EXAMPLE_1 = (
    "« Exemple 1 d'architecture non acceptée »: proxy mutualisé et proposé en tant que service à d'autres éditeurs,"
    " « non compatible avec la règle nécessitant de disposer d'1 certificat pour 1 application »"
)
EXAMPLE_2 = (
    "« Exemple 2 d'architecture non acceptée »: proxys PSC et API intégrés à l'application sur un serveur installé dans"
    " l'officine ou le cabinet, hors d'un centre de données"
)


@dataclass(frozen=True, slots=True)
class Solution:
    """One cell of the study: its name; what is said of it; whether it is accepted."""

    name: str
    severity: Severity | None = None
    words: str = ""


_OWN_CONTRACT = (
    "each establishment has a contract of its own, carries every security requirement and must be able to answer an"
    " audit of the ANS; a proxy mutualisé is recommended"
)
_NO_BOX = (
    "the study accepts it, but a workstation is no place for a DRIMBox: it serves partners day and night"
)
_TAKE_MUTUALISED = 'set deployment.proxy to "mutualised" or "externalised"'
_ACCEPTED_2, _ACCEPTED_4 = Solution("Solution 1: Proxy mutualisé"), Solution("Solution: Proxy mutualisé")
_LOCAL = Solution("Solution: Proxy mutualisé", Severity.WARNING, _NO_BOX)
SOLUTIONS: Mapping[tuple[Hosting, Proxy], Solution] = {
    (Hosting.DATA_CENTRE, Proxy.INTEGRATED): Solution("Solution 1: Proxys intégrés"),
    (Hosting.DATA_CENTRE, Proxy.MUTUALISED): Solution("Solution 2: Proxy mutualisé"),
    (Hosting.DATA_CENTRE, Proxy.EXTERNALISED): Solution("Solution 3: Proxy externalisé"),
    (Hosting.ESTABLISHMENT, Proxy.INTEGRATED): Solution(
        "Solution 2: Proxys intégrés", Severity.WARNING, _OWN_CONTRACT
    ),
    (Hosting.ESTABLISHMENT, Proxy.MUTUALISED): _ACCEPTED_2,
    (Hosting.ESTABLISHMENT, Proxy.EXTERNALISED): _ACCEPTED_2,  # "hébergé par le même ou un autre éditeur"
    (Hosting.WORKSTATION, Proxy.INTEGRATED): Solution(
        "Proxys intégrés", Severity.FAULT, f"only « Proxy mutualisé » is accepted there: {_TAKE_MUTUALISED}"
    ),
    (Hosting.WORKSTATION, Proxy.MUTUALISED): _LOCAL,
    (Hosting.WORKSTATION, Proxy.EXTERNALISED): _LOCAL,
    (Hosting.OFFICE, Proxy.INTEGRATED): Solution(
        "Proxys intégrés", Severity.FAULT, f"{EXAMPLE_2}: {_TAKE_MUTUALISED}"
    ),
    (Hosting.OFFICE, Proxy.MUTUALISED): _ACCEPTED_4,
    (Hosting.OFFICE, Proxy.EXTERNALISED): _ACCEPTED_4,
}


@dataclass(frozen=True, slots=True)
class Application:
    """One that the proxy serves. `certificate`: SHA-256 of what the proxy shows for it; empty = not known."""

    name: str
    client_id: str
    certificate: str = ""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What was declared, and what was read of the certificates.

    `own`: this DRIMBox behind the proxy (certificate A of 2.8); `others`: what shares it; `operator`: id of the proxy's
    operator; `introspection`, `introspection_units`: SHA-256 and OU of our certificate for introspection (B of 2.8).
    """

    proxy: Proxy
    hosting: Hosting | None
    own: Application
    others: tuple[Application, ...] = ()
    operator: str = ""
    introspection: str = ""
    introspection_units: tuple[str, ...] = ()

    @property
    def case(self) -> str:
        """The row of the study that was declared."""
        if self.hosting is None:
            return f'proxy = "{self.proxy}"'
        return f"cas d'usage {CASES[self.hosting]}, {SOLUTIONS[self.hosting, self.proxy].name}"


@dataclass(frozen=True, slots=True)
class Objection:
    """What is wrong with a deployment. `where`: the setting to look at."""

    where: str
    severity: Severity
    words: str


Rule = Callable[[Deployment], Iterator[Objection]]
_FAULT, _WARNING = Severity.FAULT, Severity.WARNING


def _accepted(one: Deployment) -> Iterator[Objection]:
    """2.7: the cell that was declared."""
    if one.hosting is None:
        words = 'not set: say where this DRIMBox stands ("data-centre", "establishment"...), or nothing is checked'
        yield Objection("deployment.hosting", _WARNING, words)
        return
    solution = SOLUTIONS[one.hosting, one.proxy]
    if solution.severity is not None:
        yield Objection("deployment.proxy", solution.severity, f"{one.case}: {solution.words}")


def _shared(one: Deployment) -> Iterator[Objection]:
    """2.7: 1 certificat = 1 client id = 1 application; example 1 where the proxy is another editor's."""
    refused = (
        EXAMPLE_1
        if one.proxy is Proxy.EXTERNALISED
        else f"{one.case}: « 1 certificat = 1 client id = 1 application »"
    )
    ours = filter(None, (one.own.certificate, one.introspection))
    seen = {f"certificate {ours_too}": one.own.name for ours_too in ours}
    seen[f"Client_ID {one.own.client_id}"] = one.own.name
    for application in one.others:
        parts = {"certificate": application.certificate, "Client_ID": application.client_id}
        alike = {what: seen[f"{what} {value}"] for what, value in parts.items() if f"{what} {value}" in seen}
        for what, first in alike.items():
            words = (
                f"{application.name} and {first} have one {what}: {refused}: order one for each by Datapass"
            )
            yield Objection("deployment.applications", _FAULT, words)
        seen |= {
            f"{what} {value}": application.name
            for what, value in parts.items()
            if value and what not in alike
        }


def _nothing_else_inside(one: Deployment) -> Iterator[Objection]:
    """2.7: an integrated proxy serves the application that it is in."""
    if one.proxy is not Proxy.INTEGRATED:
        return
    given = {
        "deployment.applications": bool(one.others),
        "deployment.proxy_operator": bool(one.operator),
        "deployment.proxy_client_certificate": bool(one.own.certificate),
    }
    for where in (name for name, is_given in given.items() if is_given):
        words = 'nothing shares an integrated proxy: remove this, or set deployment.proxy to "mutualised"'
        yield Objection(where, _FAULT, words)


def _operated(one: Deployment) -> Iterator[Objection]:
    """2.7: the contract is the operator's, and OU is its identifier."""
    if one.proxy is not Proxy.INTEGRATED and not one.operator:
        words = f"{one.case}: the identifier of the proxy's operator is required (OU of its certificates)"
        yield Objection("deployment.proxy_operator", _FAULT, words)


def _one_entity(one: Deployment) -> Iterator[Objection]:
    """2.8: A (proxy) and B (introspection) may be one certificate only where one legal entity operates both."""
    same = bool(one.own.certificate) and one.own.certificate == one.introspection
    if same and one.operator and one.operator not in one.introspection_units:
        words = (
            "it is psc.client_certificate too, and the proxy is operated by another legal entity"
            f" ({one.operator}): introspection needs an ORG AUTH_CLI certificate of this DRIMBox"
        )
        yield Objection("deployment.proxy_client_certificate", _FAULT, words)


RULES: tuple[Rule, ...] = (_accepted, _shared, _nothing_else_inside, _operated, _one_entity)


def judge_deployment(deployment: Deployment) -> tuple[Objection, ...]:
    """Everything that is to be said of it, in the order of the rules."""
    return tuple(objection for rule in RULES for objection in rule(deployment))
