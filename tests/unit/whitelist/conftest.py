"""A signer, its authorities, and the judgement of a list by them at `NOW`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest

from fixtures.certificates import NOW
from fixtures.list_authorities import (
    POLICY,
    SIGNER_CN,
    SIGNER_OU,
    Authorities,
    Holder,
    make_authorities,
    make_crl,
    make_signer,
)
from whitelist.chain import Anchors, Crls
from whitelist.trust import Report, examine

Judge = Callable[..., Report]


@pytest.fixture(scope="session")
def authorities() -> Authorities:
    return make_authorities()


@pytest.fixture(scope="session")
def signer(authorities: Authorities) -> Holder:
    return make_signer(authorities)


@pytest.fixture(scope="session")
def anchors(authorities: Authorities) -> Anchors:
    return Anchors(
        root=authorities.root.certificate,
        intermediate=authorities.intermediate.certificate,
        signer_cn=SIGNER_CN,
        signer_ou=SIGNER_OU,
        policies=frozenset({POLICY}),
        environment="test",
    )


@pytest.fixture(scope="session")
def crls(authorities: Authorities) -> Crls:
    return Crls(make_crl(authorities.intermediate), make_crl(authorities.root))


@pytest.fixture
def judge(anchors: Anchors, crls: Crls) -> Judge:
    """`examine` with sound anchors and CRLs at `NOW`; keywords replace any of them."""

    def run(candidate: bytes, *, at: datetime = NOW, **other: object) -> Report:
        terms = {"anchors": anchors, "crls": crls} | other
        return examine(candidate, at=at, **terms)  # type: ignore[arg-type]

    return run
