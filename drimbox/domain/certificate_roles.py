"""What each certificate of the appliance is for, and every rule that it must meet: tables, each row with its clause.

Clauses are sections of trust-and-identity: 2.7 and 2.8 (who has which certificate), 3.3 (who the whitelist names), 5.1
to 5.3 (offers, profiles, names of IGC Santé). What is inferred there, or asked of the ANS, warns and refuses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from ipaddress import ip_address

from drimbox.domain.certificate_facts import IN_WORDS, MIN_RSA_BITS, CertificateFacts, Kind, kind_of

_SIRET = re.compile(r"3\d{14}")  # 5.3: type digit, then the identifier


class Role(StrEnum):
    """What the appliance uses a certificate for."""

    WEB_PUBLIC = "public web server"
    WEB_INTERNAL = "internal web server"
    MLLP_SERVER = "MLLP server"
    DICOM_SERVER = "DICOM server"
    DMP_CLIENT = "DMP client"
    DMP_SIGNATURE = "DMP signature"
    PSC_CLIENT = "PSC client"
    PROXY_CLIENT = "PSC proxy client"
    PROOF = "proof signature"
    AUDIT_CLIENT = "audit client"
    AUTHORITY = "authority"
    LIST_ROOT = "whitelist root"
    LIST_INTERMEDIATE = "whitelist intermediate"


@dataclass(frozen=True, slots=True)
class Need:
    """Profile of a role (5.2): the offer, and what its usages must allow. `words`: the offer in a sentence."""

    kind: Kind
    words: str
    key_usages: tuple[str, ...]
    extended_usage: str = ""


_SERVER = Need(Kind.SERV_SSL, "a server", ("digitalSignature",), "serverAuth")
_CLIENT = Need(Kind.ORG_AUTH_CLI, "a client", ("digitalSignature",), "clientAuth")
_AUTH_CLI = Need(Kind.ORG_AUTH_CLI, "an ORG AUTH_CLI", ("digitalSignature",), "clientAuth")
_SIGN = Need(Kind.ORG_SIGN, "an ORG SIGN", ("digitalSignature", "nonRepudiation"))
_AUTHORITY = Need(Kind.AUTHORITY, "an authority's", ("keyCertSign",))
NEEDS: Mapping[Role, Need] = {
    Role.WEB_PUBLIC: Need(Kind.SERV_SSL, "a SERV SSL", ("digitalSignature",), "serverAuth"),
    Role.WEB_INTERNAL: _SERVER,
    Role.MLLP_SERVER: _SERVER,
    Role.DICOM_SERVER: _SERVER,
    Role.DMP_CLIENT: _AUTH_CLI,
    Role.DMP_SIGNATURE: _SIGN,
    Role.PSC_CLIENT: _AUTH_CLI,
    Role.PROXY_CLIENT: _AUTH_CLI,
    Role.PROOF: _SIGN,
    Role.AUDIT_CLIENT: _CLIENT,
    Role.AUTHORITY: _AUTHORITY,
    Role.LIST_ROOT: _AUTHORITY,
    Role.LIST_INTERMEDIATE: _AUTHORITY,
}


@dataclass(frozen=True, slots=True)
class Expected:
    """What the settings say that a certificate must bear; empty = nothing is expected.

    `host`: of web.public_url. `list_host`: `db` host in the whitelist. `client_id`: PSC Client_ID. `structures`: OU,
    one of them. `operator`: OU, of the proxy's operator. `environment`: `test` or `production`.
    """

    host: str = ""
    list_host: str = ""
    client_id: str = ""
    structures: tuple[str, ...] = ()
    operator: str = ""
    environment: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One certificate before the rules."""

    facts: CertificateFacts
    role: Role
    expected: Expected
    now: datetime


class Severity(StrEnum):
    """Whether the appliance starts with it."""

    FAULT = "fault"  # it does not
    WARNING = "warning"  # it does, and says so


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: `judge` says in a sentence what is wrong, or nothing."""

    what: str
    roles: frozenset[Role]
    severity: Severity
    clause: str
    judge: Callable[[Case], str]


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that a certificate does not meet."""

    rule: Rule
    words: str


AUTHORITIES = frozenset({Role.AUTHORITY, Role.LIST_ROOT, Role.LIST_INTERMEDIATE})
ALL = frozenset(Role)
OWN = ALL - AUTHORITIES  # certificates whose private key is ours
_WEB, _DMP = frozenset({Role.WEB_PUBLIC}), frozenset({Role.DMP_CLIENT, Role.DMP_SIGNATURE})
_PSC = frozenset({Role.PSC_CLIENT, Role.PROXY_CLIENT})
IGC_SANTE = _WEB | _DMP | _PSC  # peers know them as certificates of IGC Santé; our own doors take any


def _too_early(case: Case) -> str:
    begin = case.facts.not_before
    return f"the certificate is not valid before {begin:%Y-%m-%d}" if case.now < begin else ""


def _too_late(case: Case) -> str:
    end = case.facts.not_after
    return f"the certificate expired on {end:%Y-%m-%d}" if case.now > end else ""


def _lacking(case: Case) -> str:
    need, facts = NEEDS[case.role], case.facts
    bits = [bit for bit in need.key_usages if bit not in facts.key_usages]
    lacks = [f"keyUsage lacks {' and '.join(bits)}"] if bits else []
    if need.extended_usage and need.extended_usage not in facts.extended_usages:
        lacks.append(f"extKeyUsage lacks {need.extended_usage}")
    if need.kind is Kind.AUTHORITY and not facts.is_authority:
        lacks.append("basicConstraints lacks CA")
    return ", ".join(lacks)


def _wrong_kind(case: Case) -> str:
    lacks, kind, need = _lacking(case), kind_of(case.facts), NEEDS[case.role]
    if not lacks:
        return ""
    if kind in (need.kind, Kind.OTHER):
        return f"{lacks}: {need.words} certificate is needed"
    return f"this is {IN_WORDS[kind]}, {need.words} one is needed ({lacks})"


def _looks_like_another(case: Case) -> str:
    kind, need = kind_of(case.facts), NEEDS[case.role]
    if kind is need.kind or _lacking(case):
        return ""
    return f"its usages are those of {IN_WORDS[kind]}, {need.words} one is expected"


def _weak_key(case: Case) -> str:
    facts = case.facts
    if facts.key_type != "RSA":
        return f"it holds a key of type {facts.key_type}, an RSA key is needed"
    bits = f"its RSA key has {facts.key_bits} bits, at least {MIN_RSA_BITS} are required"
    return bits if facts.key_bits < MIN_RSA_BITS else ""


def _is_named(host: str, names: Iterable[str]) -> bool:
    try:
        address = str(ip_address(host))
    except ValueError:
        wanted = host.casefold().rstrip(".")
        wildcard = "*." + wanted.partition(".")[2]
        return any(name.casefold() in (wanted, wildcard) for name in names)
    return address in names


def _other_host(case: Case) -> str:
    facts, host = case.facts, case.expected.host
    if not host or _is_named(host, facts.hosts) or _is_named(host, facts.values("CN")):
        return ""
    named = ", ".join(dict.fromkeys((*facts.hosts, *facts.values("CN")))) or "nobody"
    return f"it names {named}, and the host of web.public_url is {host}: partners refuse it"


def _host_without_san(case: Case) -> str:
    facts, host = case.facts, case.expected.host
    if not host or _is_named(host, facts.hosts) or not _is_named(host, facts.values("CN")):
        return ""
    return (
        f"only its CN names {host}, its subjectAltName does not: today's TLS clients look at the latter alone"
    )


def _other_list_host(case: Case) -> str:
    facts, host = case.facts, case.expected.list_host
    if host in ("", case.expected.host) or _is_named(host, (*facts.values("CN"), *facts.hosts)):
        return ""
    return f"it does not name {host}, our host in the whitelist: partners may take us for another"


def _other_client(case: Case) -> str:
    wanted, found = case.expected.client_id, case.facts.values("CN")
    if not wanted or found == (wanted,):
        return ""
    return f"its CN is {' and '.join(found) or 'absent'}, it must be the Client_ID {wanted}"


def _other_structure(case: Case) -> str:
    wanted, found = case.expected.structures, case.facts.values("OU")
    if not wanted or set(found) & set(wanted):
        return ""
    return (
        f"its OU is {' and '.join(found) or 'absent'}, it must be organisation.structure_id ({wanted[0]}), or in mode "
        "EJ/EG organisation.legal_entity_id"
    )


def _no_siret(case: Case) -> str:
    found = case.facts.values("OU")
    if any(_SIRET.fullmatch(unit) for unit in found):
        return ""
    return f"its OU is {' and '.join(found) or 'absent'}: 3 and the SIRET (14 digits) of the operator is expected"


def _other_operator(case: Case) -> str:
    wanted, found = case.expected.operator, case.facts.values("OU")
    if not wanted or wanted in found:
        return ""
    return f"its OU is {' and '.join(found) or 'absent'}, it must be deployment.proxy_operator ({wanted})"


def _other_environment(case: Case) -> str:
    wanted, found = case.expected.environment, case.facts.environment
    if not wanted or found in (wanted, None):
        return ""
    return f"it is of IGC Santé's {found} environment, and whitelist.environment is {wanted}"


def _no_environment(case: Case) -> str:
    if case.facts.environment is not None:
        return ""
    return "nothing in it says that it is a certificate of IGC Santé (1.2.250.1.71.1.2.5): one is expected"


def _no_root(case: Case) -> str:
    return "" if case.facts.is_self_issued else "it was issued by another authority: the root (ACR) is needed"


def _no_intermediate(case: Case) -> str:
    return "it is a root: the intermediate (ACI) is needed" if case.facts.is_self_issued else ""


_LISTS = frozenset({Role.LIST_ROOT, Role.LIST_INTERMEDIATE})
_FAULT, _WARNING = Severity.FAULT, Severity.WARNING
RULES: tuple[Rule, ...] = (
    Rule("begins in time", ALL, _FAULT, "5.7", _too_early),
    Rule("has not ended", ALL, _FAULT, "5.7", _too_late),
    Rule("usages allow the role", ALL, _FAULT, "5.2", _wrong_kind),
    Rule("usages are those of the offer", IGC_SANTE | {Role.PROOF}, _WARNING, "5.2 [I]", _looks_like_another),
    Rule("RSA of 2048 bits", OWN, _FAULT, "5.2", _weak_key),
    Rule("names the public host", _WEB, _FAULT, "2.8 C, 5.2 SERV_SSL", _other_host),
    Rule("subjectAltName names it", _WEB, _WARNING, "5.2 SERV_SSL", _host_without_san),
    Rule("names our host of the list", _WEB, _WARNING, "2.8 C, 3.3 [I]", _other_list_host),
    Rule("CN = Client_ID", _PSC, _FAULT, "2.8 A, B", _other_client),
    Rule("OU = structure", _DMP, _FAULT, "2.8 D", _other_structure),
    Rule("OU = SIRET", frozenset({Role.PSC_CLIENT}), _WARNING, "2.8 B", _no_siret),
    Rule("OU = proxy operator", frozenset({Role.PROXY_CLIENT}), _FAULT, "2.7, 2.8 A", _other_operator),
    Rule("environment", IGC_SANTE, _FAULT, "5.2 1.2.250.1.71.1.2.5", _other_environment),
    Rule("environment of the proof", frozenset({Role.PROOF}), _WARNING, "2.8 E [?]", _other_environment),
    Rule("of IGC Santé", IGC_SANTE, _WARNING, "5.2 1.2.250.1.71.1.2.5", _no_environment),
    Rule("environment of the list", _LISTS, _FAULT, "5.1", _other_environment),
    Rule("a root", frozenset({Role.LIST_ROOT}), _FAULT, "5.1", _no_root),
    Rule("an intermediate", frozenset({Role.LIST_INTERMEDIATE}), _FAULT, "5.1", _no_intermediate),
)


def judge(facts: CertificateFacts, role: Role, expected: Expected, now: datetime) -> tuple[Finding, ...]:
    """Every rule of the role that the certificate does not meet at `now` (aware), in the order of the table."""
    case = Case(facts, role, expected, now)
    mine = ((rule, rule.judge(case)) for rule in RULES if role in rule.roles)
    return tuple(Finding(rule, words) for rule, words in mine if words)
