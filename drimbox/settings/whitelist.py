"""The ANS whitelist of the mesh."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from drimbox.settings.room import PemFile, Room, Seconds


class WhitelistSettings(Room):
    """The ANS whitelist of the mesh (liste blanche DRIM-M): where it is, whom it is believed from, who we are in it."""

    url: str = Field(description="Address of the signed list (https)")
    authority: PemFile | None = Field(
        default=None,
        description="PEM: authorities of that server's certificate; not set = those of the system",
    )
    environment: Literal["test", "production"] = Field(
        description="Of IGC Santé: a certificate of the other one is refused"
    )
    root: PemFile = Field(description="PEM: root authority (ACR) of the list's signer, pinned")
    intermediate: PemFile = Field(
        description="PEM: intermediate authority (ACI) of the list's signer, pinned"
    )
    root_crl_url: str = Field(description="Address of the root's CRL (http or https: it is signed)")
    intermediate_crl_url: str = Field(description="Address of the intermediate's CRL")
    crl_policy: Literal["require", "prefer"] = Field(
        default="require",
        description="prefer = a list is accepted with a warning when no CRL was ever had; require = it is unusable",
    )
    crl_grace_days: int = Field(
        default=7,
        ge=0,
        le=30,
        description="Days after nextUpdate during which a CRL is still believed, with a warning",
    )
    signer_cn: str = Field(default="Liste Blanche DRIM-M", description="CN of the list's signer")
    signer_ou: str = Field(default="318751275100020", description="OU of the list's signer: the ANS")
    host: str = Field(default="", description="Our `db` host in the list; empty = the host of web.public_url")
    subject: str = Field(
        default="",
        description="DN of our operator certificate, to be warned when the list names another; empty = any",
    )
    peers: Literal["off", "warn", "require"] = Field(
        default="warn",
        description="Certificates of partners against the list: not looked at, a warning, or 403 peer-not-member",
    )
    connect_timeout: Seconds = Field(default=10, description="Seconds to reach the publisher")
    answer_timeout: Seconds = Field(default=60, description="Seconds for the whole list")
    keep_days: int = Field(default=400, ge=30, description="Days that accepted lists are kept")
    proof_certificate: PemFile | None = Field(
        default=None, description="PEM: the editor's own certificate that signs the proofs of verification"
    )
    proof_key: PemFile | None = Field(default=None, description="PEM: its private key")
    proof_mode: Literal["local", "esignsante"] = Field(
        default="local",
        description="esignsante = a configured eSignSanté is asked too; it can only refuse more",
    )
    esignsante_url: str = Field(default="", description="Base address of that eSignSanté (https)")
    esignsante_authority: PemFile | None = Field(
        default=None, description="PEM: authorities of its certificate; not set = those of the system"
    )
    esignsante_configuration: int = Field(default=1, ge=0, description="Its idVerifSignConf")
    esignsante_proof_configuration: int = Field(default=1, ge=0, description="Its idProofConf")
    esignsante_applicant: str = Field(
        default="drimbox", pattern=r"^[a-zA-Z_0-9\-]*$", description="applicantId that we send it"
    )

    @field_validator("url", "esignsante_url")
    @classmethod
    def _https(cls, value: str) -> str:
        if value and not value.startswith("https://"):
            raise ValueError("must be an https:// address")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.proof_certificate is None) != (self.proof_key is None):
            raise ValueError("proof_certificate and proof_key go together")
        if self.proof_mode == "esignsante" and not self.esignsante_url:
            raise ValueError("proof_mode = esignsante needs esignsante_url")
        return self
