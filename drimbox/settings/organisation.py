"""Who publishes, and the rules that a department may tune."""

from __future__ import annotations

from pydantic import Field, field_validator

from drimbox.domain.identifiers import INS_AUTHORITIES, is_oid
from drimbox.settings.room import Room, Seconds


class OrganisationSettings(Room):
    """Who publishes: the structure whose certificate signs."""

    name: str = Field(min_length=1, description="Name of the structure, as authorInstitution says it")
    structure_id: str = Field(
        min_length=2, description="Struct_IdNat (1+FINESS, 3+SIRET…): OU of the certificates"
    )
    legal_entity_id: str = Field(
        default="",
        description="Struct_IdNat of the legal entity, where the DMP certificates are its own (mode EJ/EG); empty ="
        " structure_id",
    )
    sector: str = Field(
        default="SA08",
        description="Secteur_Activite of the VIHF when the report names none (1.2.250.1.71.4.2.4)",
    )
    uid_root: str = Field(description="OID under which submission sets are identified; also the XDS sourceId")
    device_id: str = Field(min_length=1, description="Identifier of this appliance as author (XCN.1)")
    manufacturer: str = Field(default="DRIMBox", description="Manufacturer (0008,0070) of the manifests")

    @field_validator("uid_root")
    @classmethod
    def _oid(cls, value: str) -> str:
        if not is_oid(value) or len(value) > 40:
            raise ValueError("must be an OID of at most 40 characters")
        return value


class PolicySettings(Room):
    """Rules that a department may tune."""

    ins_authorities: tuple[str, ...] = Field(
        description="OIDs of INS accepted here: .8 .9 in production, .10 .11 in test"
    )
    ipp_authority: str = Field(
        default="",
        description="OID of the IPP domain of the PACS; empty = any local identifier of the report",
    )
    settle_after: Seconds = Field(
        default=60, description="Seconds without a new instance before a study is published"
    )
    thinner_alarm: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the published instances that may vanish without a known cause; more waits for an operator",
    )
    orphan_replacement: bool = Field(
        default=True,
        description="A report that replaces one never seen here is taken as a new one; false = refused (AE 207/900)",
    )
    idempotent_delete: bool = Field(
        default=False, description="The withdrawal of an unknown report is answered AA; false = AE 207/906"
    )
    same_author: bool = Field(
        default=False,
        description="Only the structure that made a report may replace or withdraw it (AE 207/901); "
        "false = a warning",
    )
    publish_without_destdmp: bool = Field(
        default=False, description="Publish the manifest of a report with DESTDMP = N too"
    )
    consent_from_adt: bool = Field(
        default=False,
        description="Read the patient's opposition (ZFA-9 = IO) from ADT messages: it blocks the visit's exams",
    )
    time_zone: str = Field(default="Europe/Paris", description="Zone of dates without offset")

    @field_validator("ins_authorities")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [oid for oid in value if oid not in INS_AUTHORITIES]
        if unknown or not value:
            raise ValueError(f"unknown or no INS authority: {', '.join(unknown) or '(empty)'}")
        return value
