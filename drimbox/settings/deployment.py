"""Where this DRIMBox stands, and who operates the proxy e-santé."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from drimbox.settings.room import PemFile, Room


class ApplicationSettings(Room):
    """Another application behind the proxy that this DRIMBox uses: `[[deployment.applications]]`."""

    name: str = Field(min_length=1, max_length=64, description="Its name; its instances are one application")
    client_id: str = Field(min_length=1, description="Its Client_ID at Pro Santé Connect")
    certificate: PemFile | None = Field(
        default=None, description="PEM: the certificate that the proxy shows for it, where it is at hand"
    )


class DeploymentSettings(Room):
    """Where this DRIMBox stands and who operates the proxy e-santé: declared, and checked against what the ANS accepts."""

    proxy: Literal["integrated", "mutualised", "externalised"] = Field(
        default="integrated",
        description="Proxy towards Pro Santé Connect: in this product; one for several installations; another operator's",
    )
    hosting: Literal["data-centre", "establishment", "office", "workstation"] | None = Field(
        default=None,
        description="data-centre = of the editor (SaaS); establishment = on its own information system; office = outside"
        " any data centre; workstation; not set = the deployment is not checked",
    )
    proxy_operator: str = Field(
        default="",
        description="Struct_IdNat of who operates the proxy (1+FINESS, 3+SIRET…); empty = we do, inside",
    )
    proxy_client_certificate: PemFile | None = Field(
        default=None, description="PEM: ORG AUTH_CLI certificate of the proxy, where it is ours"
    )
    applications: tuple[ApplicationSettings, ...] = Field(
        default=(), description="What else uses that proxy, one [[deployment.applications]] each"
    )
