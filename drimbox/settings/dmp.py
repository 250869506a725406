"""The DMP and how we speak to it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from drimbox.settings.room import PemFile, Room, Seconds


class DmpSettings(Room):
    """The DMP and how we speak to it."""

    repository_url: str = Field(description="Address of the repository service (TD2.1)")
    registry_url: str = Field(description="Address of the registry service (TD3.1b, TD3.3c)")
    authority: PemFile = Field(description="PEM: authorities of the DMP's server certificate")
    client_certificate: PemFile = Field(description="PEM: ORG AUTH_CLI certificate for mutual TLS")
    client_key: PemFile = Field(description="PEM: its private key")
    signature_certificate: PemFile = Field(description="PEM: ORG SIGN certificate for VIHF and lot")
    signature_key: PemFile = Field(description="PEM: its private key")
    compatibility: Literal["sha256", "sha1"] = Field(
        default="sha256", description="Algorithms of VIHF and lot; sha1 reproduces the accepted 2023 sample"
    )
    mode_attribute: Literal["Authentification_Mode", "Authentification_mode"] = Field(
        default="Authentification_Mode", description="Letter case of that VIHF attribute"
    )
    authn_context: str = Field(
        default="urn:oasis:names:tc:SAML:2.0:ac:classes:TLSClient",
        description="AuthnContextClassRef of the VIHF",
    )
    secret_connection_code: str = Field(
        default="",
        description="VIHF confidentiality code of a secret connection (CONNEXION_SECRETE = Y); "
        "empty = such reports are not published",
    )
    author_type: Literal["EI", "RI"] = Field(default="EI", description="XCN.13 of the appliance as author")
    study_reference_authority: str = Field(
        default="",
        description="CX.4 of the studyInstanceUID in referenceIdList (1.2.3.4.5.6 in ANS samples); empty = none",
    )
    event_code_schemes: Literal["code_system", "value_set"] = Field(
        default="code_system",
        description="codingScheme of modality and region: DCM and SNOMED CT, or the JDV OIDs",
    )
    utc: bool = Field(default=True, description="XDS times in UTC; false = local digits, as the ANS samples")
    lps_id: str = Field(description="LPS_ID of the VIHF: identifier of this installation")
    lps_name: str = Field(default="DRIMBox", description="LPS_Nom of the VIHF")
    lps_homologation: str = Field(description="LPS_ID_HOMOLOGATION_DMP of the VIHF")
    connect_timeout: Seconds = Field(default=10, description="Seconds to reach the DMP")
    answer_timeout: Seconds = Field(default=60, description="Seconds for the whole answer")
    lease: Seconds = Field(
        default=180,
        description="Seconds after which a submission in flight is declared doubtful; over connect_timeout + answer_timeout",
    )
    retry_base: Seconds = Field(
        default=30, description="Seconds before the first new attempt; doubles each time"
    )
    retry_cap: Seconds = Field(default=600, description="Longest wait between two attempts, in seconds")

    @model_validator(mode="after")
    def _lease_outlives_the_exchange(self) -> Self:
        if self.lease <= self.connect_timeout + self.answer_timeout:
            raise ValueError("lease must be longer than connect_timeout + answer_timeout")
        return self
