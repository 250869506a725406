"""The bodies of BetterStack's lists: good, and spoilt in every way that a reader must survive.

Each fault is a row: other addresses (written in either form), or other octets altogether.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Clusters = Mapping[str, list[str]]

HTML = "text/html; charset=utf-8"
HTML_PAGE = (
    b"<!DOCTYPE html><html><head><title>Sign in</title></head><body><p>Please sign in</p></body></html>\n"
)
GROWN = ["192.31.196.200", "2620:4f:8000::c8"]  # the probes that `grown` adds


@dataclass(frozen=True)
class Form:
    """A published form: how clusters are written in it."""

    media_type: str
    write: Callable[[Clusters], bytes]


def _as_text(clusters: Clusters) -> bytes:
    return "".join(f"{address}\n" for cluster in clusters.values() for address in cluster).encode("ascii")


def _as_json(clusters: Clusters) -> bytes:
    return json.dumps(clusters).encode("ascii")


FORMS = {
    "/ips.txt": Form("text/plain; charset=utf-8", _as_text),
    "/ips-by-cluster.json": Form("application/json", _as_json),
}

#: faults of the content: the clusters that are published instead
OTHER_CLUSTERS: dict[str, Callable[[Clusters], Clusters]] = {
    "private": lambda good: {**good, "lab": ["10.20.30.40"]},
    "everyone": lambda good: {**good, "all": ["0.0.0.0/0"]},
    "shrunk": lambda good: {name: cluster[:2] for name, cluster in good.items()},
    "invalid_lines": lambda good: {**good, "hosts": [f"probe-{n}.example" for n in range(8)]},
    "too_many": lambda good: {**good, "many": [f"2620:4f:8000::1:{n:x}" for n in range(10_000)]},
    "grown": lambda good: {**good, "af": GROWN},
}

#: faults of the octets, whatever the form that was asked for
OTHER_OCTETS: dict[str, Callable[[Clusters], bytes]] = {
    "empty": lambda good: b"",
    "html": lambda good: HTML_PAGE,
    "garbage": lambda good: bytes(range(256)) * 8,
    "truncated_json": lambda good: _as_json(good)[: 2 * len(_as_json(good)) // 3],
}


def body_of(form: Form, good: Clusters, fault: str | None) -> bytes:
    """The body in that form under a fault of the content or of the octets; without one, the good list."""
    if fault in OTHER_OCTETS:
        return OTHER_OCTETS[fault](good)
    return form.write(OTHER_CLUSTERS[fault](good) if fault is not None else good)
