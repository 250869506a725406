"""Steps 9 to 11: chain, signer, revocation; each test breaks one thing of a sound signer (trust-and-identity 5.6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509

from fixtures.certificates import NOW
from fixtures.list_authorities import (
    PRODUCTION_OCTET,
    Authorities,
    Holder,
    make_authorities,
    make_authority,
    make_crl,
    make_key,
    make_signer,
    signed_with_sha1,
)
from whitelist.certificate import Unreadable, load
from whitelist.chain import Anchors, Crls, check_chain, check_signer
from whitelist.revocation import check_revocation

DAY = timedelta(days=1)
Leaf = Callable[[Authorities], Holder]


def test_a_sound_signer(anchors: Anchors, signer: Holder) -> None:
    assert check_chain(signer.certificate, anchors, NOW).faults == []
    assert check_signer(signer.certificate, anchors).faults == []


def test_anchors_of_an_unknown_document(anchors: Anchors) -> None:
    with pytest.raises(ValueError, match="no list has the root"):
        replace(anchors, document_root="Other")


LEAVES: dict[str, tuple[Leaf, str]] = {
    "expired": (lambda a: make_signer(a, not_after=NOW - DAY), "expired: valid until 2026-09-30"),
    "not yet valid": (lambda a: make_signer(a, not_before=NOW + DAY), "not yet valid"),
    "no digitalSignature": (lambda a: make_signer(a, usages=("content_commitment",)), "digitalSignature"),
    "no nonRepudiation": (lambda a: make_signer(a, usages=("digital_signature",)), "nonRepudiation"),
    "an authority": (lambda a: make_signer(a, ca=True), "is an authority's"),
    "another policy": (lambda a: make_signer(a, policy="1.2.250.1.213.1.7.1.1.2.3.1"), "policies"),
    "production": (lambda a: make_signer(a, environment=PRODUCTION_OCTET), "of the production environment"),
    "no environment": (lambda a: make_signer(a, environment=None), "of no known environment"),
    "strange environment": (lambda a: make_signer(a, environment=b"\x04\x01\x93"), "of no known environment"),
    "critical extension": (lambda a: make_signer(a, critical="1.2.3.4"), "unknown critical extensions: 1.2.3.4"),
    "other authority of the same name": (lambda a: make_signer(make_authorities("b")), "not issued by"),
    "issued by the root": (
        lambda a: make_signer(Authorities(a.root, a.root)), "not issued by the pinned",
    ),
    "SHA-1": (lambda a: signed_with_sha1(make_signer(a), a.intermediate), "weak or unknown hash"),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAVES)
def test_leaf_refused(anchors: Anchors, authorities: Authorities, name: str) -> None:
    make, said = LEAVES[name]
    faults = check_chain(make(authorities).certificate, anchors, NOW).faults
    assert any(said in fault for fault in faults), faults


def test_every_fault_is_told(anchors: Anchors, authorities: Authorities) -> None:
    leaf = make_signer(authorities, not_after=NOW - DAY, usages=("key_encipherment",), environment=None)
    assert len(check_chain(leaf.certificate, anchors, NOW).faults) == 4


def test_production_refuses_test(anchors: Anchors, authorities: Authorities, signer: Holder) -> None:
    production = replace(anchors, environment="production")
    (fault,) = check_chain(signer.certificate, production, NOW).faults
    assert "test environment" in fault
    real = make_signer(authorities, environment=PRODUCTION_OCTET)
    assert check_chain(real.certificate, production, NOW).faults == []


ISSUERS: dict[str, tuple[Callable[[Holder], Holder], str]] = {
    "no authority": (
        lambda root: make_authority("TEST AC ELEMENTAIRE ORGANISATIONS", make_key("aci"), root, ca=False),
        "no authority",
    ),
    "may not sign": (
        lambda root: make_authority(
            "TEST AC ELEMENTAIRE ORGANISATIONS", make_key("aci"), root, usages=("crl_sign",)
        ),
        "may not sign certificates",
    ),
    "expired": (
        lambda root: make_authority(
            "TEST AC ELEMENTAIRE ORGANISATIONS", make_key("aci"), root, not_after=NOW - DAY
        ),
        "the intermediate is expired",
    ),
    "self-signed": (
        lambda root: make_authority("TEST AC ELEMENTAIRE ORGANISATIONS", make_key("aci"), None),
        "the intermediate is not issued",
    ),
}


@pytest.mark.parametrize("name", ISSUERS)
def test_intermediate_refused(anchors: Anchors, authorities: Authorities, signer: Holder, name: str) -> None:
    make, said = ISSUERS[name]
    wrong = replace(anchors, intermediate=make(authorities.root).certificate)
    faults = check_chain(signer.certificate, wrong, NOW).faults
    assert any(said in fault for fault in faults), faults


def test_path_length_of_the_root(authorities: Authorities, anchors: Anchors) -> None:
    root = make_authority("TEST AC RACINE ELEMENTAIRE", make_key("acr"), None, path_length=0)
    faults = check_chain(
        make_signer(authorities).certificate, replace(anchors, root=root.certificate), NOW
    ).faults
    assert faults == ["the root may not have 1 authorities below it"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"common_name": "DRIMBox"}, "CN of the signer is DRIMBox"),
        ({"common_name": "liste blanche drim-m"}, "CN"),
        ({"organizational_unit": "1750803447"}, "OU of the signer is 1750803447"),
        ({"organizational_unit": "318751275100020 "}, "OU"),
    ],
)
def test_signer_refused(anchors: Anchors, authorities: Authorities, names: dict[str, str], said: str) -> None:
    """Another leaf of the same authority (3.4) is no signer of lists."""
    leaf = make_signer(authorities, **names)  # type: ignore[arg-type]
    (fault,) = check_signer(leaf.certificate, anchors).faults
    assert said in fault


def test_two_names_are_no_name(anchors: Anchors, signer: Holder) -> None:
    class Two:
        subject = x509.Name([*signer.certificate.subject, *signer.certificate.subject])

    faults = check_signer(Two(), anchors).faults  # type: ignore[arg-type]
    assert len(faults) == 2


def test_a_certificate_cut_short() -> None:
    with pytest.raises(Unreadable):
        load(b"0\x03\x02\x01\x01")


# --- revocation


def test_sound_crls(anchors: Anchors, signer: Holder, crls: Crls) -> None:
    finding = check_revocation(signer.certificate, anchors, crls, NOW)
    assert (finding.faults, finding.doubts, len(finding.notes)) == ([], [], 2)


Of = Callable[[Holder, int], x509.CertificateRevocationList]
SCOPE = {
    "full_name": None,
    "relative_name": None,
    "only_contains_user_certs": False,
    "only_contains_ca_certs": False,
    "only_some_reasons": None,
    "indirect_crl": False,
    "only_contains_attribute_certs": False,
}


def scoped(**flags: object) -> Of:
    point = x509.IssuingDistributionPoint(**(SCOPE | flags))  # type: ignore[arg-type]
    return lambda authority, serial: make_crl(authority, extra=[(point, True)])


def stale(days: float) -> Of:
    """Past its nextUpdate by that many days."""
    return lambda authority, serial: make_crl(authority, this_update=NOW - timedelta(days=6 + days))


WRONG: dict[str, tuple[Of, str]] = {
    "revoked": (lambda authority, serial: make_crl(authority, revoked=[1, serial]), "is revoked since"),
    "of another key": (
        lambda authority, serial: make_crl(authority, key=make_key("other")), "not signed by its authority",
    ),
    "of a key of another kind": (
        lambda authority, serial: make_crl(authority, key=make_key("p256")), "not signed by its authority",
    ),
    "beyond the grace": (stale(7.01), "beyond the grace"),
    "later": (lambda authority, serial: make_crl(authority, this_update=NOW + DAY), "later than"),
    "delta": (
        lambda authority, serial: make_crl(authority, extra=[(x509.DeltaCRLIndicator(1), True)]), "partial",
    ),
    "indirect": (scoped(indirect_crl=True), "not of these certificates"),
    "of attributes": (scoped(only_contains_attribute_certs=True), "not of these certificates"),
    "of some reasons": (
        scoped(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise})), "not of these certificates",
    ),
    "unknown critical extension": (
        lambda authority, serial: make_crl(
            authority, extra=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True)]
        ),
        "unknown critical extension",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("which", ["of_intermediate", "of_root"])
def test_crl_refused(
    anchors: Anchors, authorities: Authorities, signer: Holder, crls: Crls, which: str, name: str
) -> None:
    make, said = WRONG[name]
    if which == "of_root":
        crl = make(authorities.root, authorities.intermediate.certificate.serial_number)
    else:
        crl = make(authorities.intermediate, signer.certificate.serial_number)
    faults = check_revocation(signer.certificate, anchors, replace(crls, **{which: crl}), NOW).faults
    assert any(said in fault for fault in faults), faults


def test_scope_of_each_crl(anchors: Anchors, authorities: Authorities, signer: Holder) -> None:
    users, cas = scoped(only_contains_user_certs=True), scoped(only_contains_ca_certs=True)
    right = Crls(users(authorities.intermediate, 0), cas(authorities.root, 0))
    assert check_revocation(signer.certificate, anchors, right, NOW).faults == []
    wrong = Crls(cas(authorities.intermediate, 0), users(authorities.root, 0))
    assert len(check_revocation(signer.certificate, anchors, wrong, NOW).faults) == 2


def test_crl_of_another_authority(
    anchors: Anchors, authorities: Authorities, signer: Holder, crls: Crls
) -> None:
    swapped = Crls(crls.of_root, crls.of_intermediate)
    faults = check_revocation(signer.certificate, anchors, swapped, NOW).faults
    assert sum("another issuer" in fault for fault in faults) == 2
    same_name = make_crl(make_authorities("b").intermediate)
    faults = check_revocation(
        signer.certificate, anchors, replace(crls, of_intermediate=same_name), NOW
    ).faults
    assert faults == ["the intermediate's CRL is not signed by its authority"]


def test_grace_after_next_update(
    anchors: Anchors, authorities: Authorities, signer: Holder, crls: Crls
) -> None:
    late = replace(crls, of_intermediate=stale(6.9)(authorities.intermediate, 0))
    finding = check_revocation(signer.certificate, anchors, late, NOW)
    assert finding.faults == []
    assert "within the grace" in finding.doubts[0]
    strict = check_revocation(signer.certificate, replace(anchors, crl_grace=timedelta(0)), late, NOW)
    assert "beyond the grace" in strict.faults[0]


def test_a_stale_crl_still_revokes(anchors: Anchors, authorities: Authorities, signer: Holder) -> None:
    crl = make_crl(
        authorities.intermediate,
        this_update=NOW - timedelta(days=100),
        revoked=[signer.certificate.serial_number],
    )
    faults = check_revocation(signer.certificate, anchors, Crls(crl, make_crl(authorities.root)), NOW).faults
    assert len(faults) == 2


@pytest.mark.parametrize("missing", ["of_intermediate", "of_root"])
def test_policy_without_crl(anchors: Anchors, signer: Holder, crls: Crls, missing: str) -> None:
    without = replace(crls, **{missing: None})
    (fault,) = check_revocation(signer.certificate, anchors, without, NOW).faults
    assert fault.startswith("no CRL")
    finding = check_revocation(signer.certificate, replace(anchors, crl_policy="prefer"), without, NOW)
    assert finding.faults == []
    assert finding.doubts[0].startswith("no CRL")
