"""`drimbox bench whitelist`: the numbered steps on lists of the size of the real one and of 4 MB.

The peer of the run is libxmlsec (python-xmlsec), where it is installed: it checks the signature alone, with the key
that it is given; ours also judges form, chain, names, revocation, roll-back, and reads the list.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from lxml import etree

from drimbox.entrypoints.demo_stage import StepFailed
from drimbox.membership import SIGNER_POLICIES
from fixtures.certificates import NOW
from fixtures.list_authorities import (
    SIGNER_CN,
    SIGNER_OU,
    Authorities,
    Holder,
    make_authorities,
    make_crl,
    make_signer,
)
from fixtures.whitelists import large_list, sign_list, write_list
from whitelist.chain import Anchors, Crls
from whitelist.trust import examine

REAL_ENTRIES, LARGE_BYTES = 17, 4_000_000


def bench_whitelist(_directory: Path, count: int) -> dict[str, Any]:
    """Milliseconds of one verification, `count` times on the real size, a tenth of it on 4 MB."""
    authorities = make_authorities()
    signer = make_signer(authorities)
    lists = {
        "real_size": write_list(range(150, 150 + REAL_ENTRIES)),
        "four_megabytes": large_list(LARGE_BYTES),
    }
    return {
        name: _measure(sign_list(document, signer, authorities), authorities, signer, rounds)
        for (name, document), rounds in zip(lists.items(), (count, max(count // 10, 3)), strict=True)
    }


def _measure(signed: bytes, authorities: Authorities, signer: Holder, rounds: int) -> dict[str, Any]:
    anchors = Anchors(
        authorities.root.certificate,
        authorities.intermediate.certificate,
        SIGNER_CN,
        SIGNER_OU,
        SIGNER_POLICIES["test"],
        "test",
    )
    crls = Crls(make_crl(authorities.intermediate), make_crl(authorities.root, lasts=timedelta(days=45)))

    def ours() -> None:
        report = examine(signed, anchors, crls, at=NOW)
        if not report.accepted:
            raise StepFailed(f"the list of the benchmark is refused: {report.failed}")

    spent = _spent(ours, rounds)
    theirs = _libxmlsec(signed, signer, rounds)
    return {
        "bytes": len(signed),
        "rounds": rounds,
        "verification_ms": spent,
        "libxmlsec_ms": theirs,
        "ratio_to_libxmlsec": round(theirs["median"] / spent["median"], 2) if theirs else None,
    }


def _libxmlsec(signed: bytes, signer: Holder, rounds: int) -> dict[str, float] | None:
    try:
        xmlsec = import_module("xmlsec")
    except ImportError:
        return None
    key = signer.certificate.public_bytes(Encoding.PEM)

    def verify() -> None:
        root = etree.fromstring(
            signed, etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)
        )
        xmlsec.tree.add_ids(root, ["Id"])
        context = xmlsec.SignatureContext()
        context.key = xmlsec.Key.from_memory(key, xmlsec.KeyFormat.CERT_PEM)
        context.verify(root.find("{http://www.w3.org/2000/09/xmldsig#}Signature"))

    return _spent(verify, rounds)


def _spent(call: Callable[[], None], rounds: int) -> dict[str, float]:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1000)
    return {"median": round(statistics.median(times), 2), "max": round(max(times), 2)}
