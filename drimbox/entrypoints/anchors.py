"""Pinned authorities and CRLs from a directory, for `drimbox whitelist verify --anchors` without a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

from cryptography import x509

from drimbox.membership import SIGNER_POLICIES
from drimbox.settings.whitelist import WhitelistSettings
from whitelist.chain import Anchors, Crls

CERTIFICATES = (".pem", ".cer", ".crt", ".der")
LISTS = (".crl",)
MAX_BYTES = 20 * 1024 * 1024
Loaded = TypeVar("Loaded")


class NoAnchors(Exception):
    """The directory does not hold one root and one intermediate that it issued."""


def read_anchors(
    directory: Path, environment: Literal["test", "production"], crl_policy: Literal["require", "prefer"]
) -> Anchors:
    """The root (issued by itself) and the intermediate that it issued. Raises `NoAnchors`."""
    found = list(
        _read(directory, CERTIFICATES, x509.load_pem_x509_certificate, x509.load_der_x509_certificate)
    )
    roots = [one for one in found if one.issuer == one.subject]
    below = [one for one in found if one not in roots and any(one.issuer == root.subject for root in roots)]
    if len(roots) != 1 or len(below) != 1:
        words = f"{len(roots)} root and {len(below)} intermediate certificates"
        raise NoAnchors(f"{directory}: {words} in {', '.join(CERTIFICATES)} files, one of each is needed")
    fields = WhitelistSettings.model_fields
    return Anchors(
        root=roots[0],
        intermediate=below[0],
        signer_cn=fields["signer_cn"].default,
        signer_ou=fields["signer_ou"].default,
        policies=SIGNER_POLICIES[environment],
        environment=environment,
        crl_policy=crl_policy,
    )


def read_crls(directory: Path, anchors: Anchors) -> Crls:
    """The CRLs of the two authorities, where there are; the newest of each. Raises `NoAnchors`."""
    found = list(_read(directory, LISTS, x509.load_pem_x509_crl, x509.load_der_x509_crl))

    def of(authority: x509.Certificate) -> x509.CertificateRevocationList | None:
        own = [crl for crl in found if crl.issuer == authority.subject]
        return max(own, key=lambda crl: crl.last_update_utc, default=None)

    return Crls(of_intermediate=of(anchors.intermediate), of_root=of(anchors.root))


def _read(
    directory: Path, suffixes: tuple[str, ...], pem: Callable[[bytes], Loaded], der: Callable[[bytes], Loaded]
) -> Iterator[Loaded]:
    for path in sorted(directory.iterdir()):
        if path.suffix.lower() not in suffixes:
            continue
        try:
            if path.stat().st_size > MAX_BYTES:
                raise NoAnchors(f"{path}: over {MAX_BYTES} bytes")
            octets = path.read_bytes()
            yield (pem if b"-----BEGIN" in octets[:100] else der)(octets)
        except (OSError, ValueError) as error:
            raise NoAnchors(f"{path}: not readable as a certificate or CRL") from error
