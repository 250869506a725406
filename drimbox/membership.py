"""The whitelist's parts from the settings: what a list is judged by, who we are in it, what other processes see."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from drimbox.adapters.signing import load_certificate
from drimbox.settings.room import ConfigurationError
from drimbox.settings.whitelist import WhitelistSettings
from drimbox.settings.whole import Settings
from whitelist.chain import Anchors
from whitelist.decision import OwnName
from whitelist.view import View

# trust-and-identity 5.2: policy of the certificates that sign, by environment of IGC Santé
SIGNER_POLICIES = {
    "test": frozenset({"1.2.250.1.213.1.7.2.1.1.1.1"}),
    "production": frozenset({"1.2.250.1.213.1.7.1.1.2.3.1"}),
}


def whitelist_directory(settings: Settings) -> Path:
    """Where the accepted lists, their proofs and the CRLs are."""
    return settings.storage.root / "whitelist"


def own_name(settings: Settings) -> OwnName:
    """How the whitelist names us. Raises `ConfigurationError` for a host that no list could name."""
    room = settings.whitelist
    try:
        return OwnName(room.host or urlsplit(settings.web.public_url).hostname or "", room.subject)
    except ValueError as error:
        raise ConfigurationError([f"whitelist.host: {error}"]) from error


def make_anchors(room: WhitelistSettings) -> Anchors:
    """What a list is judged by. Raises `UnusableCredential` when a pinned authority cannot be read."""
    return Anchors(
        root=load_certificate(room.root),
        intermediate=load_certificate(room.intermediate),
        signer_cn=room.signer_cn,
        signer_ou=room.signer_ou,
        policies=SIGNER_POLICIES[room.environment],
        environment=room.environment,
        crl_grace=timedelta(days=room.crl_grace_days),
        crl_policy=room.crl_policy,
    )


def make_mesh(settings: Settings) -> View:
    """The whitelist as a process that does not retrieve it sees it. Raises `UnusableCredential`."""
    return View(whitelist_directory(settings), make_anchors(settings.whitelist))
