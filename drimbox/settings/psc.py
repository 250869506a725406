"""Pro Santé Connect."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from drimbox.settings.room import PemFile, Room, Seconds


class PscSettings(Room):
    """Pro Santé Connect, for the tokens of the partners."""

    issuer: str = Field(description="`iss` of the tokens: the realm's address")
    discovery_url: str = Field(
        default="", description="Empty: issuer + /.well-known/wallet-openid-configuration"
    )
    authority: PemFile = Field(description="PEM: authorities of Pro Santé Connect's server certificate")
    client_id: str = Field(description="client_id sent with introspection; CN of the certificate")
    client_certificate: PemFile = Field(description="PEM: ORG AUTH_CLI certificate for mutual TLS")
    client_key: PemFile = Field(description="PEM: its private key")
    timeout: Seconds = Field(default=5, description="Seconds for an introspection")
    cache: float = Field(
        default=30, ge=0, le=30, description="Longest time a positive answer is believed, in seconds"
    )
    audiences: tuple[str, ...] = Field(
        default=(),
        description="Values of `aud` or `azp` that a token must have one of; empty = not looked at (tokens are issued"
        " to other DRIMBoxes)",
    )
    minimum_acr: Literal["eidas1", "eidas2", "eidas3"] = Field(
        default="eidas1", description="Lowest level of authentication accepted"
    )
    binding: Literal["require", "if-available"] = Field(
        default="if-available",
        description="Tokens bound to a certificate (`cnf`): require = refused when none reached us; if-available ="
        " then accepted and traced; one that does not match is always refused",
    )
