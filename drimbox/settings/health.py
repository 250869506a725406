"""The health check."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from drimbox.settings.room import PemFile, Room, Seconds, require_networks

#: every probe that an installation may have: a name of `health.fail_on` that is none would guard nothing
PROBES = frozenset(
    (
        *("database:write", "images:write", "images:free", "whitelist:state", "dicom:echo", "mllp:connect"),
        "dicoms:handshake",
        *("mllps:connect", "worker:heartbeat", "queue:age", "crl:age", "dmp:connect", "psc:connect"),
        *("certificates:web", "certificates:web-internal", "certificates:psc", "certificates:dmp"),
        *(
            "certificates:signature",
            "certificates:proof",
            "certificates:mllps",
            "certificates:audit",
            "certificates:dicom",
        ),
        "probes:list",
    )
)


class HealthSettings(Room):
    """What the health check looks at, and who may ask for it."""

    period: Seconds = Field(default=15, le=300, description="Seconds between two looks at our own parts")
    remote_period: Seconds = Field(
        default=60, le=3600, description="Seconds between two looks at DMP, PSC, certificates and CRLs"
    )
    deadline: Seconds = Field(default=5, le=60, description="Seconds that one look may take")
    fail_on: tuple[str, ...] = Field(
        default=(
            "database:write",
            "images:write",
            "images:free",
            "whitelist:state",
            "certificates:web",
            "certificates:psc",
        ),
        description="Probes whose failure is told as `fail` (503); that of any other is a `warn`",
    )
    not_here: tuple[str, ...] = Field(
        default=(),
        description="Probes that are not run on this node, because what they look at lives on another one",
    )
    queue_age_warn: Seconds = Field(
        default=3600, description="Seconds that something due may wait in the queue before a warning"
    )
    certificate_warn_days: int = Field(
        default=30, ge=1, le=365, description="Days before its end from which a certificate is a warning"
    )
    filter: bool = Field(
        default=False, description="true = only listed addresses get an answer from the health check"
    )
    allowed: tuple[str, ...] = Field(
        default=(), description="Addresses or networks (CIDR) that pass the filter as well"
    )
    list_urls: tuple[str, ...] = Field(
        default=(
            "https://uptime.betterstack.com/ips.txt",
            "https://uptime.betterstack.com/ips-by-cluster.json",
        ),
        min_length=1,
        description="Where BetterStack publishes the addresses of its probes; the first usable one counts",
    )
    list_authority: PemFile | None = Field(
        default=None,
        description="PEM: authorities of that server's certificate; not set = those of the system",
    )
    list_refresh: Seconds = Field(
        default=6 * 3600, ge=60, description="Seconds between two retrievals of the list"
    )
    list_stale: Seconds = Field(
        default=48 * 3600, description="Seconds after which a list that could not be renewed is stale"
    )
    fail_open: bool = Field(
        default=True,
        description="A stale list no longer keeps anybody from the health check (and from nothing else)",
    )

    _networks = field_validator("allowed")(require_networks)

    @field_validator("fail_on", "not_here")
    @classmethod
    def _known_probes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in value if name not in PROBES]:
            raise ValueError(f"no such probe: {', '.join(unknown)}")
        return value

    @field_validator("list_urls")
    @classmethod
    def _https(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not url.startswith("https://") for url in value):
            raise ValueError("must be https:// addresses")
        return value

    @model_validator(mode="after")
    def _in_time(self) -> Self:
        if self.deadline > self.period:
            raise ValueError("deadline may not be longer than period")
        if both := sorted(set(self.fail_on) & set(self.not_here)):
            raise ValueError(f"in fail_on and in not_here: {', '.join(both)}")
        if self.list_stale < self.list_refresh:
            raise ValueError("list_stale may not be shorter than list_refresh")
        return self
