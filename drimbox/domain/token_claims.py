"""What an introspection answer must say, and whom it names (trust-and-identity 1.2, 1.3, 1.5): rules are rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from drimbox.domain.token_binding import Binding, BindingPolicy

Claims = Mapping[str, object]

# acr levels in order (trust-and-identity 1.2); an unknown one is below all of them.
LEVELS = ("eidas1", "eidas2", "eidas3")
LONGEST_NAME = 256  # characters of what the audit keeps of a claim
_LATEST = 1e11  # seconds since 1970; no honest `exp` is beyond it
# Where a structure is found in an activity of SubjectRefPro (1.3), the most general first.
_STRUCTURES = (
    "numeroFinessetablissementJuridique",
    "numeroFinessSite",
    "numeroSiretSite",
    "identifiantTechniqueDeLaStructure",
)


@dataclass(frozen=True, slots=True)
class TokenRules:
    """The settings of the rules. `audiences`: of which `aud` or `azp` must name one; empty = not checked."""

    issuer: str
    audiences: frozenset[str] = frozenset()
    minimum_acr: str = LEVELS[0]
    binding: BindingPolicy = "if-available"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a token names, for the audit. `client_id`: `azp`, the DRIMBox that it was issued to; "" = not said."""

    subject: str
    structure: str
    client_id: str
    jti: str
    acr: str
    binding: Binding


def expiry(claims: Claims) -> float | None:
    """`exp` in seconds since 1970, or None when the claim is missing or no instant."""
    value = claims.get("exp")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _LATEST:
        return None
    return float(value)


def is_alive(claims: Claims, now: datetime) -> bool:
    """The one rule that time may break: what held of the same claims before still holds if this does."""
    return (expiry(claims) or 0.0) > now.timestamp()


def _is_alive(claims: Claims, rules: TokenRules, now: datetime) -> bool:
    return is_alive(claims, now)


def _is_of_issuer(claims: Claims, rules: TokenRules, now: datetime) -> bool:
    return claims.get("iss", rules.issuer) == rules.issuer


def _is_access_token(claims: Claims, rules: TokenRules, now: datetime) -> bool:
    return claims.get("typ", "Bearer") == "Bearer"  # refresh tokens are active too


def _is_for_audience(claims: Claims, rules: TokenRules, now: datetime) -> bool:
    named = claims.get("aud")
    audiences = named if isinstance(named, list) else [named]
    return not rules.audiences or any(
        one in rules.audiences for one in (*audiences, claims.get("azp")) if _is(one)
    )


def _is_strong(claims: Claims, rules: TokenRules, now: datetime) -> bool:
    level = claims.get("acr", LEVELS[0])
    return level in LEVELS and LEVELS.index(str(level)) >= LEVELS.index(rules.minimum_acr)


def _is_of_openid(claims: Claims, rules: TokenRules, now: datetime) -> bool:
    scope = claims.get("scope")
    return isinstance(scope, str) and "openid" in scope.split()


def _has_subject(claims: Claims, rules: TokenRules, now: datetime) -> bool:
    return bool(_subject(claims))


# name for the audit -> whether the claims hold it. `client_id` and `azp` are never compared with our own: the token
# was issued to another DRIMBox.
RULES: Mapping[str, Callable[[Claims, TokenRules, datetime], bool]] = {
    "exp": _is_alive,
    "iss": _is_of_issuer,
    "typ": _is_access_token,
    "aud": _is_for_audience,
    "acr": _is_strong,
    "scope": _is_of_openid,
    "subject": _has_subject,
}


def violations(claims: Claims, rules: TokenRules, now: datetime) -> list[str]:
    """The names of the rules that the claims break, in order; of an inactive token (1.5) that alone."""
    if claims.get("active") is not True:
        return ["active"]
    return [name for name, holds in RULES.items() if not holds(claims, rules, now)]


def identity_of(claims: Claims, binding: Binding, certificate_subject: str | None) -> Identity:
    """Whom sound claims name. The structure is the peer's (its certificate, `azp`) where the claims name none."""
    client = _text(claims, "azp") or _text(claims, "client_id")
    return Identity(
        subject=_subject(claims),
        structure=_structure(claims) or (certificate_subject or client)[:LONGEST_NAME],
        client_id=client,
        jti=_text(claims, "jti"),
        acr=_text(claims, "acr") or LEVELS[0],
        binding=binding,
    )


def _is(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _text(claims: Claims, name: str) -> str:
    value = claims.get(name)
    return value.strip()[:LONGEST_NAME] if isinstance(value, str) else ""


def _subject(claims: Claims) -> str:
    """The national identifier where it is given: `sub` is Keycloak's own (1.3)."""
    return _text(claims, "SubjectNameID") or _text(claims, "preferred_username") or _text(claims, "sub")


def _structure(claims: Claims) -> str:
    """That of the subject; "" when the claims name none, or several: which of them acts is not said."""
    named = _text(claims, "SubjectOrganizationID")
    if named:
        return named
    found = set(_structures(claims.get("SubjectRefPro")))
    return found.pop() if len(found) == 1 else ""


def _structures(professional: object) -> Iterator[str]:
    for practice in _objects(professional, "exercices"):
        for activity in _objects(practice, "activities"):
            named = (_text(activity, name) for name in _STRUCTURES)
            yield from list(filter(None, named))[:1]


def _objects(value: object, name: str) -> Iterator[Claims]:
    members = value.get(name) if isinstance(value, Mapping) else None
    yield from (one for one in members if isinstance(one, Mapping)) if isinstance(members, list) else ()
