"""Who may retrieve what: token, manifest and instance facts in, an answer of `design/contract.md` out.

Tables: a refusal is a row (slug, status, what to do). Nothing here leaks patient data or internals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from dicom_store.paths import InvalidUID, check_uid
from drimbox.domain.errors import AccessRefused
from drimbox.domain.lifecycle import SubmissionState as S
from drimbox.domain.token_binding import NotBound, check_binding
from drimbox.domain.token_claims import Claims, Identity, TokenRules, identity_of, violations

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
    "token-binding": (401, "The token is bound to another certificate than the one that was shown."),
    "psc-unavailable": (503, "Pro Santé Connect cannot be asked now: try again later."),
    "kos-header": (400, "Send KOS-SOPInstanceUID: the SOP Instance UID of the manifest that led here."),
    "kos-unknown": (404, "No published manifest with this KOS-SOPInstanceUID for this study."),
    "kos-in-flight": (503, "The publication of this manifest is being confirmed: try again later."),
    "kos-replaced": (404, "This manifest was replaced: the newer one is in the DMP."),
    "kos-unpublished": (410, "This manifest was unpublished."),
    "instance-not-shared": (404, "The manifest does not share this."),
    "instance-withdrawn": (410, "This was rejected at its source and must not be used."),
    "busy": (503, "This cannot be answered now: try again later."),
}
RETRY_AFTER = 5  # seconds, with every 503
LONGEST_TOKEN = 16 * 1024  # characters

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
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # b64token, RFC 6750 2.1


class Wish(NamedTuple):
    """What is asked for. `authorization` and `kos` are header values as received, None when absent.

    `frames`: as written in the path, None = whole instances.
    """

    study: str
    series: str | None
    sop: str | None
    authorization: str | None
    kos: str | None
    frames: str | None = None


class Standing(NamedTuple):
    """Where a manifest of ours stands; two that are equal share the same instances, lying at the same places.

    `kos`: digest of its bytes; `revision`: of the exam, which every arrival about it moves; `withdrawn_by`: who says
    that nothing of the exam may be public; `succeeded`: another manifest of the study is published.
    """

    study_instance_uid: str
    state: S
    since: datetime
    kos: str
    revision: int
    withdrawn_by: str | None
    succeeded: bool


def refuse(slug: str, why: str = "") -> AccessRefused:
    """The refusal of a row of `REFUSALS`."""
    status, detail = REFUSALS[slug]
    return AccessRefused(slug, detail, status, why)


def bearer(authorization: str | None) -> str:
    """The token of an Authorization header. Raises `AccessRefused` 401 (RFC 6750 2.1)."""
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer" or len(token) > LONGEST_TOKEN or not _TOKEN.fullmatch(token):
        raise refuse("token-missing")
    return token


def check_token(
    claims: Claims,
    rules: TokenRules,
    now: datetime,
    *,
    certificate: bytes | None,
    certificate_subject: str | None,
) -> Identity:
    """Whom an introspection answer names. `certificate`: DER of the client's, None when none reached us.

    Raises `AccessRefused` 401 token-inactive with every broken rule, or token-binding.
    """
    if broken := violations(claims, rules, now):
        raise refuse("token-inactive", ", ".join(broken))
    try:
        binding = check_binding(claims.get("cnf"), certificate, rules.binding)
    except NotBound as error:
        raise refuse("token-binding", str(error)) from error
    return identity_of(claims, binding, certificate_subject)


def manifest_uid(header: str | None) -> str:
    """The UID of a KOS-SOPInstanceUID header. Raises `AccessRefused` 400."""
    try:
        return check_uid((header or "").strip())
    except InvalidUID:
        raise refuse("kos-header") from None


def check_standing(study: str, standing: Standing | None, now: datetime, grace: timedelta) -> Standing:
    """The standing of a manifest of that study that serves now. Raises `AccessRefused` (404, 410, 503).

    `grace`: for how long a manifest that was replaced serves on, while its successor is published.
    """
    if standing is None or standing.study_instance_uid != study:
        raise refuse("kos-unknown")
    public = standing.withdrawn_by is None
    if standing.state is S.REGISTERED:
        if not public:  # from this moment on, whatever the DMP says and when
            raise refuse("kos-unpublished")
        return standing
    in_grace = standing.succeeded and standing.since <= now < standing.since + grace
    if standing.state is S.DEPRECATED and public and in_grace:
        return standing
    raise refuse(_BY_STATE[standing.state])
