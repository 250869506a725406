"""The rules of certificates: a sound one for each role, and each rule broken once; how near an end is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from drimbox.domain.certificate_facts import IN_WORDS, CertificateFacts, Kind, kind_of
from drimbox.domain.certificate_levels import Level, days_left, level_of
from drimbox.domain.certificate_roles import (
    AUTHORITIES,
    IGC_SANTE,
    NEEDS,
    OWN,
    RULES,
    Expected,
    Role,
    Severity,
    judge,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAY = timedelta(days=1)
TEST, PRODUCTION = b"\x04\x01\x83", b"\x04\x01\x03"
EXPECTED = Expected(
    host="db1.example.fr",
    list_host="db1.example.fr",
    client_id="client-1",
    structures=("1750803447", "1750000001"),
    operator="2180035024",
    environment="test",
)
USAGES: Mapping[Kind, dict[str, Any]] = {
    Kind.SERV_SSL: {
        "key_usages": frozenset({"digitalSignature", "keyEncipherment"}),
        "extended_usages": frozenset({"serverAuth", "clientAuth"}),
    },
    Kind.ORG_AUTH_CLI: {
        "key_usages": frozenset({"digitalSignature"}),
        "extended_usages": frozenset({"clientAuth"}),
    },
    Kind.ORG_SIGN: {
        "key_usages": frozenset({"digitalSignature", "nonRepudiation"}),
        "extended_usages": frozenset({"emailProtection"}),
    },
    Kind.AUTHORITY: {"key_usages": frozenset({"keyCertSign", "cRLSign"}), "is_authority": True},
    Kind.PERSON_SIGN: {"key_usages": frozenset({"nonRepudiation"}), "extended_usages": frozenset()},
    Kind.ORG_CONF: {"key_usages": frozenset({"keyEncipherment"}), "extended_usages": frozenset()},
    Kind.SERV_SMIME: {
        "key_usages": frozenset({"digitalSignature", "nonRepudiation"}),
        "extended_usages": frozenset({"emailProtection"}),
        "mails": ("mss@example.fr",),
    },
    Kind.OTHER: {"key_usages": frozenset(), "extended_usages": frozenset()},
}
UNITS = {
    Role.PSC_CLIENT: "332600000500012",
    Role.PROXY_CLIENT: "2180035024",
    Role.LIST_ROOT: "IGC-SANTE TEST",
    Role.LIST_INTERMEDIATE: "IGC-SANTE TEST",
}
NAMES = {Role.WEB_PUBLIC: "db1.example.fr", Role.PSC_CLIENT: "client-1", Role.PROXY_CLIENT: "client-1"}


def subject(cn: str, ou: str) -> dict[str, Any]:
    pairs = (("C", "FR"), ("O", "CENTRE"), ("OU", ou), ("CN", cn))
    return {"subject": pairs, "subject_name": f"CN={cn}, OU={ou}, O=CENTRE, C=FR"}


def sound(role: Role, **changes: Any) -> CertificateFacts:
    """A certificate that the role takes without a word."""
    authority = role in AUTHORITIES
    fields: dict[str, Any] = {
        **subject(NAMES.get(role, "DRIMbox"), UNITS.get(role, "1750803447")),
        **USAGES[NEEDS[role].kind],
        "issuer": (("C", "FR"), ("CN", "ACI")),
        "issuer_name": "CN=ACI, C=FR",
        "serial": 1,
        "sha256": "ab",
        "not_before": NOW - 365 * DAY,
        "not_after": NOW + 365 * DAY,
        "environment_octets": None if authority else TEST,
        "hosts": ("db1.example.fr",) if role is Role.WEB_PUBLIC else (),
    }
    if role is Role.LIST_ROOT:
        fields["issuer"] = fields["subject"]
    return CertificateFacts(**(fields | changes))


def words(role: Role, facts: CertificateFacts, **expected: Any) -> list[tuple[Severity, str]]:
    found = judge(facts, role, replace(EXPECTED, **expected), NOW)
    return [(one.rule.severity, one.words) for one in found]


@pytest.mark.parametrize("role", list(Role))
def test_a_sound_certificate_is_taken_without_a_word(role: Role) -> None:
    assert words(role, sound(role)) == []
    assert kind_of(sound(role)) is NEEDS[role].kind


FAULT, WARNING = Severity.FAULT, Severity.WARNING
# each: role, what is broken, severity, begin of the sentence
BROKEN: tuple[tuple[Role, dict[str, Any], Severity, str], ...] = (
    (Role.DMP_CLIENT, {"not_before": NOW + DAY}, FAULT, "the certificate is not valid before 2026-11-22"),
    (Role.AUTHORITY, {"not_after": NOW - DAY}, FAULT, "the certificate expired on 2026-11-20"),
    (Role.WEB_INTERNAL, {"key_bits": 1024}, FAULT, "its RSA key has 1024 bits"),
    (Role.AUDIT_CLIENT, {"key_type": "EC", "key_bits": 256}, FAULT, "it holds a key of type EC"),
    (Role.WEB_PUBLIC, {"hosts": ("db2.example.fr",), **subject("db2.example.fr", "1750803447")}, FAULT,
     "it names db2.example.fr, and the host of web.public_url is db1.example.fr"),
    (Role.WEB_PUBLIC, {"hosts": ()}, WARNING, "only its CN names db1.example.fr"),
    (Role.WEB_PUBLIC, {"hosts": ("nobody",)}, WARNING, "only its CN names db1.example.fr"),
    (Role.PSC_CLIENT, subject("client-2", "332600000500012"), FAULT, "its CN is client-2, it must be the Client_ID"),
    (Role.PROXY_CLIENT, subject("client-2", "2180035024"), FAULT, "its CN is client-2, it must be the Client_ID"),
    (Role.DMP_CLIENT, subject("DRIMbox", "1999999999"), FAULT, "its OU is 1999999999, it must be organisation.s"),
    (Role.DMP_SIGNATURE, subject("DRIMbox", "1999999999"), FAULT, "its OU is 1999999999, it must be organisation.s"),
    (Role.PSC_CLIENT, subject("client-1", "1750803447"), WARNING, "its OU is 1750803447: 3 and the SIRET"),
    (Role.PROXY_CLIENT, subject("client-1", "2180035025"), FAULT, "its OU is 2180035025, it must be deployment.p"),
    (Role.PROOF, {"environment_octets": PRODUCTION}, WARNING, "it is of IGC Santé's production environment"),
    (Role.PSC_CLIENT, {"environment_octets": None}, WARNING, "nothing in it says that it is a certificate of IGC"),
    (Role.LIST_ROOT, {**subject("ACR", "IGC-SANTE"), "issuer": subject("ACR", "IGC-SANTE")["subject"]}, FAULT,
     "it is of IGC Santé's production environment"),
    (Role.LIST_ROOT, {"issuer": (("CN", "ACR"),)}, FAULT, "it was issued by another authority"),
    (Role.LIST_INTERMEDIATE, {"issuer": subject("DRIMbox", "IGC-SANTE TEST")["subject"]}, FAULT, "it is a root"),
)  # fmt: skip


@pytest.mark.parametrize(("role", "changes", "severity", "begin"), BROKEN)
def test_each_rule_broken_once(role: Role, changes: dict[str, Any], severity: Severity, begin: str) -> None:
    ((found, said),) = words(role, sound(role, **changes))
    assert (found, said[: len(begin)]) == (severity, begin)


@pytest.mark.parametrize("role", sorted(IGC_SANTE))
@pytest.mark.parametrize("environment", ["test", "production"])
def test_a_certificate_of_the_other_environment_is_refused(role: Role, environment: str) -> None:
    own, other = (TEST, PRODUCTION) if environment == "test" else (PRODUCTION, TEST)
    assert words(role, sound(role, environment_octets=own), environment=environment) == []
    ((severity, said),) = words(role, sound(role, environment_octets=other), environment=environment)
    assert (severity, said.endswith(f"and whitelist.environment is {environment}")) == (FAULT, True)


@pytest.mark.parametrize("role", sorted(OWN - IGC_SANTE))
def test_our_own_doors_take_certificates_of_anybody(role: Role) -> None:
    assert words(role, sound(role, environment_octets=None)) == []


@pytest.mark.parametrize(
    ("role", "kind"),
    [(role, kind) for role in sorted(Role) for kind in Kind if kind is not NEEDS[role].kind],
)
def test_a_certificate_of_another_kind_is_named(role: Role, kind: Kind) -> None:
    """Refused when its usages do not allow the role; else only said, where IGC Santé has an offer for it."""
    wrong = replace(sound(role), **({"is_authority": False} | USAGES[kind]))
    need, found = NEEDS[role], words(role, wrong)
    usable = (kind is Kind.SERV_SSL and need.kind is Kind.ORG_AUTH_CLI) or (
        kind is Kind.SERV_SMIME and need.kind is Kind.ORG_SIGN
    )
    if usable and role is Role.AUDIT_CLIENT:
        assert found == []
        return
    ((severity, said),) = found
    assert severity is (WARNING if usable else FAULT)
    if kind is Kind.OTHER:
        assert said.endswith(f"{need.words} certificate is needed")
    else:
        assert IN_WORDS[kind] in said
        assert need.words in said


def test_our_host_in_the_list_is_looked_for_too() -> None:
    ((severity, said),) = words(Role.WEB_PUBLIC, sound(Role.WEB_PUBLIC), list_host="db9.example.fr")
    assert severity is WARNING
    assert said.startswith("it does not name db9.example.fr, our host in the whitelist")


def test_signature_and_authentication_exchanged_are_said_in_full() -> None:
    client = replace(sound(Role.DMP_SIGNATURE), **USAGES[Kind.ORG_AUTH_CLI])
    signature = replace(sound(Role.DMP_CLIENT), **USAGES[Kind.ORG_SIGN])
    assert words(Role.DMP_SIGNATURE, client) == [
        (
            FAULT,
            "this is an ORG AUTH_CLI certificate, an ORG SIGN one is needed (keyUsage lacks nonRepudiation)",
        )
    ]
    assert words(Role.DMP_CLIENT, signature) == [
        (
            FAULT,
            "this is an ORG SIGN certificate, an ORG AUTH_CLI one is needed (extKeyUsage lacks clientAuth)",
        )
    ]


def test_every_violation_is_said_and_what_is_not_expected_is_not_looked_at() -> None:
    bad = sound(
        Role.DMP_CLIENT,
        not_after=NOW - DAY,
        key_bits=1024,
        environment_octets=PRODUCTION,
        **subject("x", "2"),
        **USAGES[Kind.ORG_SIGN],
    )
    assert [severity for severity, _ in words(Role.DMP_CLIENT, bad)] == [FAULT] * 5
    strange = sound(Role.DMP_CLIENT, environment_octets=PRODUCTION, **subject("x", "2"))
    assert judge(strange, Role.DMP_CLIENT, Expected(), NOW) == ()


@pytest.mark.parametrize(
    ("names", "host", "named"),
    [
        (("DB1.example.FR",), "db1.example.fr", True),
        (("*.example.fr",), "db1.example.fr", True),
        (("*.example.fr",), "db1.sub.example.fr", False),
        (("*.fr",), "db1.example.fr", False),
        (("127.0.0.1",), "127.0.0.1", True),
        (("127.0.0.1",), "127.0.0.2", False),
        (("::1",), "0:0::1", True),
        (("db1.example.fr.evil.fr",), "db1.example.fr", False),
    ],
)
def test_a_host_is_named_as_tls_takes_it(names: tuple[str, ...], host: str, named: bool) -> None:
    facts = sound(Role.WEB_PUBLIC, hosts=names, **subject("other", "1750803447"))
    assert (words(Role.WEB_PUBLIC, facts, host=host, list_host="") == []) is named


def test_the_policy_tells_the_environment_where_the_extension_is_not_there() -> None:
    test = sound(
        Role.DMP_CLIENT, environment_octets=None, policies=frozenset({"1.2.250.1.213.1.7.2.1.1.1.1"})
    )
    assert (test.environment, words(Role.DMP_CLIENT, test)) == ("test", [])
    assert replace(test, environment_octets=PRODUCTION).environment == "production"
    assert replace(test, environment_octets=b"\x04\x01\x00").environment is None


def test_every_rule_has_its_clause_and_every_role_its_rules() -> None:
    assert all(rule.clause and rule.roles for rule in RULES)
    assert set(NEEDS) == set(Role)
    assert {rule.severity for rule in RULES if "[" in rule.clause} == {WARNING}


@pytest.mark.parametrize(
    ("left", "level", "days"),
    [
        (61 * DAY, Level.OK, 61),
        (60 * DAY - timedelta(seconds=1), Level.NOTICE, 59),
        (30 * DAY - timedelta(seconds=1), Level.WARNING, 29),
        (7 * DAY - timedelta(seconds=1), Level.CRITICAL, 6),
        (timedelta(0), Level.CRITICAL, 0),
        (-timedelta(seconds=1), Level.EXPIRED, -1),
    ],
)
def test_levels(left: timedelta, level: Level, days: int) -> None:
    assert (level_of(NOW + left, NOW), days_left(NOW + left, NOW)) == (level, days)


def test_the_operator_may_be_warned_earlier_or_later() -> None:
    assert level_of(NOW + 80 * DAY, NOW, 90) is Level.WARNING
    assert level_of(NOW + 5 * DAY, NOW, 3) is Level.NOTICE
    assert level_of(NOW + 2 * DAY, NOW, 3) is Level.CRITICAL
