"""The declared deployment before the rules, with what its certificates say, for `drimbox config check`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from drimbox.adapters.certificate_files import read_facts
from drimbox.adapters.credential_check import Judgement, judge_credential
from drimbox.adapters.key_files import UnusableCredential
from drimbox.domain.certificate_facts import CertificateFacts
from drimbox.domain.certificate_roles import Expected, Role, Severity
from drimbox.domain.deployment_rules import Application, Deployment, Hosting, Proxy, judge_deployment
from drimbox.entrypoints.credentials_in_use import absences
from drimbox.settings.whole import Settings

US = "this DRIMBox"


def judge_declared(settings: Settings, now: datetime) -> Judgement:
    """What is to be said of the deployment, each sentence after its setting. Reads certificates, changes nothing.

    What is wrong with our own certificates is said by their own rows (`credentials_in_use.py`).
    """
    objections = judge_deployment(_declared(settings))
    faults = [f"{one.where}: {one.words}" for one in objections if one.severity is Severity.FAULT]
    warnings = [f"{one.where}: {one.words}" for one in objections if one.severity is Severity.WARNING]
    for where, judged in _applications(settings, now):
        faults += [f"{where}: {words}" for words in judged.faults]
        warnings += [f"{where}: {words}" for words in judged.warnings]
    return Judgement(tuple(faults), tuple(warnings))


def _declared(settings: Settings) -> Deployment:
    room, psc = settings.deployment, settings.psc
    introspection = _facts(psc.client_certificate)
    others = tuple(
        Application(one.name, one.client_id, _digest(one.certificate)) for one in room.applications
    )
    return Deployment(
        proxy=Proxy(room.proxy),
        hosting=None if room.hosting is None else Hosting(room.hosting),
        own=Application(US, psc.client_id, _digest(room.proxy_client_certificate)),
        others=others,
        operator=room.proxy_operator,
        introspection=introspection.sha256 if introspection else "",
        introspection_units=introspection.values("OU") if introspection else (),
    )


def _applications(settings: Settings, now: datetime) -> Iterator[tuple[str, Judgement]]:
    """The certificates that the proxy shows for the others: as those of ours, each with its own Client_ID."""
    room = settings.deployment
    for number, one in enumerate(room.applications):
        where = f"deployment.applications.{number} ({one.name})"
        if one.certificate is None:
            continue
        if absent := tuple(absences(one.certificate)):
            yield where, Judgement(absent)
            continue
        expected = Expected(
            client_id=one.client_id,
            operator=room.proxy_operator,
            environment=settings.whitelist.environment,
        )
        yield where, judge_credential(one.certificate, None, Role.PROXY_CLIENT, now, expected)


def _facts(path: Path) -> CertificateFacts | None:
    """None when it cannot be read: its own row says why."""
    try:
        return read_facts(path)[0]
    except UnusableCredential:
        return None


def _digest(path: Path | None) -> str:
    facts = _facts(path) if path is not None else None
    return facts.sha256 if facts else ""
