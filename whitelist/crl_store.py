"""The last good CRL of each pinned authority, kept on disk (trust-and-identity 5.4).

A failed refresh keeps the old one and says so; whether a CRL is still fresh enough is judged by step 11 of the
verification, not here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID

from whitelist.chain import Anchors, Crls
from whitelist.durable import (
    Locked,
    Oversized,
    Unwritable,
    exclusively,
    make_directory,
    read_bounded,
    sweep,
    write_durably,
)
from whitelist.fetch import Fetched, Unreachable

MAX_CRL_BYTES = 20 * 1024 * 1024
EVERY = timedelta(hours=12)
JITTER = 0.2  # of EVERY, at most, earlier
Which = Literal["intermediate", "root"]
WHICH: tuple[Which, ...] = ("intermediate", "root")
_UNDERSTOOD = {
    ExtensionOID.CRL_NUMBER,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    ExtensionOID.ISSUING_DISTRIBUTION_POINT,
}


class Refused(Exception):
    """A CRL that must not be kept; the message says why."""


class Source(Protocol):
    """What downloads; its own size limit must allow `MAX_CRL_BYTES`."""

    def get(
        self, url: str, etag: str | None = None, modified: str | None = None, *, plain: bool = False
    ) -> Fetched:
        """Raises `Unreachable`."""


@dataclass(frozen=True, slots=True)
class CrlRefresh:
    """What became of one CRL. `done`: fetched and kept; `why`: the reason when it was not."""

    which: Which
    done: bool
    why: str


class CrlStore:
    """CRLs under `directory`. `urls`: where each authority publishes (http or https).

    `clock`: aware now; `chance`: a number in [0, 1) per call.
    """

    def __init__(
        self,
        directory: Path,
        urls: dict[Which, str],
        anchors: Anchors,
        source: Source,
        clock: Callable[[], datetime],
        chance: Callable[[], float],
    ) -> None:
        self._directory, self._urls, self._anchors = directory, urls, anchors
        self._source, self._clock, self._chance = source, clock, chance

    def current(self) -> Crls:
        """The CRLs kept that are of the pinned authorities; None for one that was never had (or is damaged)."""
        return Crls(of_intermediate=self._kept("intermediate"), of_root=self._kept("root"))

    def refresh(self, force: bool = False) -> tuple[CrlRefresh, ...]:
        """Download each CRL that is due (12 h after the last good download, or none kept); `force`: each one.

        Never raises for what the network, the peer or the disk did: the old CRL stays, the reason is returned.
        """
        try:
            with exclusively(self._directory / "crls.lock"):
                sweep(self._directory)
                due = [which for which in WHICH if force or self._due(which)]
                return tuple(self._refresh(which) for which in due)
        except (Locked, Unwritable, OSError) as error:
            return tuple(CrlRefresh(which, False, str(error)) for which in WHICH)

    def keep(self, octets: bytes) -> Which:
        """Keep a CRL brought by hand (DER or PEM), of the authority that issued it, checked as a downloaded one.

        Raises `Refused`, `Locked`, `Unwritable`, OSError.
        """
        crl = _parsed(octets)
        which = next((which for which in WHICH if crl.issuer == self._authority(which).subject), None)
        if which is None:
            raise Refused("the issuer is none of the pinned authorities")
        with exclusively(self._directory / "crls.lock"):
            self._keep(which, crl)
        return which

    def _refresh(self, which: Which) -> CrlRefresh:
        try:
            self._keep(which, _parsed(self._source.get(self._urls[which], plain=True).body))
        except Unreachable as error:
            return CrlRefresh(which, False, f"{error.code}: {error.reason}")
        except Refused as error:
            return CrlRefresh(which, False, f"refused: {error}")
        except OSError as error:
            return CrlRefresh(which, False, f"disk: {error.strerror}")
        return CrlRefresh(which, True, "")

    def _keep(self, which: Which, crl: x509.CertificateRevocationList) -> None:
        now = self._clock()
        check_crl(crl, self._authority(which), now=now, skew=self._anchors.skew)
        old = self._kept(which)
        if old is not None and _number(crl) < _number(old):
            raise Refused(f"its number {_number(crl)} is lower than {_number(old)}, which is kept")
        make_directory(self._directory)
        write_durably(self._path(which), crl.public_bytes(Encoding.DER))
        later = EVERY * (1 - JITTER * self._chance())
        dates = {"fetched": now.isoformat(), "due": (now + later).isoformat()}
        write_durably(self._dates(which), json.dumps(dates).encode())

    def _due(self, which: Which) -> bool:
        if self._kept(which) is None:
            return True
        try:
            dates = json.loads(self._dates(which).read_bytes())
            fetched, due = (datetime.fromisoformat(dates[name]) for name in ("fetched", "due"))
            return not fetched <= self._clock() < due  # a download of the future: the clock was wrong
        except (OSError, ValueError, TypeError, KeyError):  # no trustworthy date: as if it were old
            return True

    def _kept(self, which: Which) -> x509.CertificateRevocationList | None:
        try:
            crl = _parsed(read_bounded(self._path(which), MAX_CRL_BYTES))
            _check_origin(crl, self._authority(which))
        except (OSError, Oversized, Refused):  # absent, damaged, or of an authority that is no longer pinned
            return None
        return crl

    def _authority(self, which: Which) -> x509.Certificate:
        return self._anchors.intermediate if which == "intermediate" else self._anchors.root

    def _path(self, which: Which) -> Path:
        return self._directory / f"{which}.crl"

    def _dates(self, which: Which) -> Path:
        return self._directory / f"{which}.json"


def check_crl(
    crl: x509.CertificateRevocationList, authority: x509.Certificate, *, now: datetime, skew: timedelta
) -> None:
    """Whether a CRL may be kept: signed by `authority`, complete, not of the future. Raises `Refused`."""
    _check_origin(crl, authority)
    if crl.last_update_utc > now + skew:
        raise Refused("its thisUpdate is in the future")
    if crl.next_update_utc is None:
        raise Refused("it has no nextUpdate")
    for extension in crl.extensions:
        if isinstance(extension.value, x509.DeltaCRLIndicator):
            raise Refused("it is a delta CRL")
        if isinstance(extension.value, x509.IssuingDistributionPoint) and _partial(extension.value):
            raise Refused("it does not cover every certificate of its authority")
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise Refused(
                f"it has a critical extension that is not understood: {extension.oid.dotted_string}"
            )


def _check_origin(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> None:
    if crl.issuer != authority.subject:
        raise Refused("its issuer is another authority")
    try:
        digest = crl.signature_hash_algorithm
        signed = crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]  # a TypeError says so
    except (UnsupportedAlgorithm, TypeError, ValueError) as error:
        raise Refused("its signature is of an unknown kind") from error
    if not isinstance(digest, hashes.SHA256 | hashes.SHA384 | hashes.SHA512):
        raise Refused("its signature uses a weak digest")
    if not signed:
        raise Refused("its signature is not of the pinned authority")


def _partial(point: x509.IssuingDistributionPoint) -> bool:
    """RFC 5280 5.2.5: indirect, or limited to some certificates or reasons."""
    limits = (
        point.only_contains_user_certs,
        point.only_contains_ca_certs,
        point.only_contains_attribute_certs,
        point.only_some_reasons,
    )
    return point.indirect_crl or any(limits)


def _parsed(octets: bytes) -> x509.CertificateRevocationList:
    if len(octets) > MAX_CRL_BYTES:
        raise Refused(f"it is longer than {MAX_CRL_BYTES} bytes")
    try:
        if octets.lstrip().startswith(b"-----BEGIN"):
            crl = x509.load_pem_x509_crl(octets)
        else:
            crl = x509.load_der_x509_crl(octets)
        crl.extensions  # noqa: B018  # raises when they cannot be read
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise Refused("it cannot be read as a CRL") from error
    return crl


def _number(crl: x509.CertificateRevocationList) -> int:
    """cRLNumber; -1 without one, so that a numbered list is never replaced by one without."""
    for extension in crl.extensions:
        if isinstance(extension.value, x509.CRLNumber):
            return extension.value.crl_number
    return -1
