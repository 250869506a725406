"""Who may retrieve what: token, manifest and instance facts in, an answer of `design/contract.md` out.

Tables: a refusal is a row (slug, status, what to do). Nothing here leaks patient data or internals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from dicom_store.paths import InvalidUID, check_uid
from drimbox.domain.errors import AccessRefused
from drimbox.domain.lifecycle import SubmissionState as S

# slug -> (HTTP status, what the caller reads)
REFUSALS: Mapping[str, tuple[int, str]] = {
    "not-in-whitelist": (503, "This DRIMBox is not in the ANS whitelist: it exchanges nothing for now."),
    "whitelist-unknown": (
        503,
        "This DRIMBox has never obtained the ANS whitelist: it exchanges nothing yet.",
    ),
    "peer-not-member": (403, "Your certificate is not that of a member of the ANS whitelist."),
    "token-missing": (401, "Send Authorization: Bearer with a Pro Santé Connect access token."),
    "token-inactive": (401, "The token is not active: obtain a new one from Pro Santé Connect."),
    "psc-unavailable": (503, "Pro Santé Connect cannot be asked now: try again later."),
    "kos-header": (400, "Send KOS-SOPInstanceUID: the SOP Instance UID of the manifest that led here."),
    "kos-unknown": (404, "No published manifest with this KOS-SOPInstanceUID for this study."),
    "kos-in-flight": (503, "The publication of this manifest is being confirmed: try again later."),
    "kos-replaced": (404, "This manifest was replaced: the newer one is in the DMP."),
    "kos-unpublished": (410, "This manifest was unpublished."),
    "instance-not-shared": (404, "The manifest does not share this."),
    "instance-withdrawn": (410, "This was rejected at its source and must not be used."),
}
RETRY_AFTER = 5  # seconds, with every 503

# What a manifest's submission answers; REGISTERED serves.
_BY_STATE: Mapping[S, str] = {
    S.PREPARED: "kos-unknown",
    S.REFUSED: "kos-unknown",
    S.DROPPED: "kos-unknown",
    S.SENDING: "kos-in-flight",
    S.DOUBTFUL: "kos-in-flight",
    S.RESENDING: "kos-in-flight",
    S.PARKED: "kos-in-flight",
    S.DEPRECATED: "kos-replaced",
    S.WITHDRAWN: "kos-unpublished",
}
# acr levels in order (trust-and-identity 1.2); an unknown one is refused.
_ACR = ("eidas1", "eidas2", "eidas3")


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for. `authorization` and `kos` are header values as received, None when absent."""

    study: str
    series: str | None
    sop: str | None
    authorization: str | None
    kos: str | None


@dataclass(frozen=True, slots=True)
class SharedManifest:
    """A manifest of ours: the state of its submission and the (series, instance) UIDs that it shares."""

    state: S
    study_instance_uid: str
    shared: frozenset[tuple[str, str]]


def refuse(slug: str) -> AccessRefused:
    """The refusal of a row of `REFUSALS`."""
    status, detail = REFUSALS[slug]
    return AccessRefused(slug, detail, status)


def bearer(authorization: str | None) -> str:
    """The token of an Authorization header. Raises `AccessRefused` 401 (RFC 6750 2.1)."""
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or len(token) > 16384 or not token.isascii() or " " in token:
        raise refuse("token-missing")
    return token


def check_claims(claims: Mapping[str, object], now: datetime) -> str:
    """The subject of an introspection answer. Raises `AccessRefused` 401.

    Rules of trust-and-identity 1.5: active, not expired, acr >= eidas1 where given, scope holds openid, a
    subject. `client_id` and `azp` are not ours: the token was issued to another DRIMBox.
    """
    subject = claims.get("preferred_username") or claims.get("sub")
    expires = claims.get("exp")
    sound = (
        claims.get("active") is True
        and isinstance(expires, int | float)
        and expires > now.timestamp()
        and claims.get("acr", "eidas1") in _ACR
        and "openid" in str(claims.get("scope", "")).split()
        and isinstance(subject, str)
    )
    if not sound:
        raise refuse("token-inactive")
    return str(subject)


def manifest_uid(header: str | None) -> str:
    """The UID of a KOS-SOPInstanceUID header. Raises `AccessRefused` 400."""
    try:
        return check_uid((header or "").strip())
    except InvalidUID:
        raise refuse("kos-header") from None


def check_manifest(wish: Wish, manifest: SharedManifest | None) -> frozenset[str]:
    """The SOP Instance UIDs that the wish may have. Raises `AccessRefused` (404, 410, 503)."""
    if manifest is None or manifest.study_instance_uid != wish.study:
        raise refuse("kos-unknown")
    if manifest.state is not S.REGISTERED:
        raise refuse(_BY_STATE[manifest.state])
    shared = frozenset(
        sop for series, sop in manifest.shared if wish.series in (None, series) and wish.sop in (None, sop)
    )
    if not shared:
        raise refuse("instance-not-shared")
    return shared
