"""Where bytes and facts are kept, for how long, and which node this is."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from drimbox.settings.room import PemFile, Room, Seconds


class NodeSettings(Room):
    """This node among those that share the database and the storage root."""

    name: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$",
        description="Name of this node, another one for each: of its leases, duties, signs of life and files;"
        " empty = the host name",
    )


class StorageSettings(Room):
    """Where the bytes are kept."""

    root: Path = Field(description="Directory of the image segments and of the stored documents")
    minimum_free_bytes: int = Field(
        default=512 * 1024 * 1024,
        ge=0,
        description="Below this free space new data is refused (0xA700, 507, AR)",
    )


class DatabaseSettings(Room):
    """Where the facts are kept."""

    url: str = Field(
        description="SQLAlchemy URL: sqlite:////var/lib/drimbox/drimbox.sqlite or postgresql+psycopg://…; never with"
        " a password"
    )
    password: PemFile | None = Field(
        default=None,
        description="File (or credential:NAME) that holds the password of the PostgreSQL account, one line",
    )
    busy_timeout: Seconds = Field(default=30, description="Seconds to wait for a lock before giving up")

    @field_validator("url")
    @classmethod
    def _without_password(cls, value: str) -> str:
        try:
            address = make_url(value)
        except (ArgumentError, ValueError):  # its words quote the value
            raise ValueError("not a database address") from None
        if address.password is not None or "password" in address.query:
            raise ValueError("a password in the address: put it into the file of database.password")
        return value


class InboxSettings(Room):
    """The messages that entered by the report doors."""

    keep_days: int = Field(
        default=365,
        ge=0,
        description="Days after which the bytes of a message are deleted; verdict, answer and accepted CDA stay; "
        "0 = for ever",
    )


class ArchiveSettings(Room):
    """How long documents and images that nobody needs are kept."""

    keep_days: int = Field(
        default=0,
        ge=0,
        description="Days after which `drimbox archive purge` deletes the documents of lots that were replaced, "
        "unpublished or dropped; 0 = for ever",
    )
    compact_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of a segment that nobody needs, above which it is written anew without it",
    )
    rejected_keep_days: int = Field(
        default=0, ge=0, description="Days after which rejected images may be deleted; 0 = never"
    )


class RetentionSettings(Room):
    """How long images stay of exams that must not be public: `drimbox archive retention`."""

    images_days: int = Field(
        default=0,
        ge=0,
        description="Days since the last change of an exam that was withdrawn, rejected or must not be shared after"
        " which its images may be forgotten; 0 = never",
    )
    automatic: bool = Field(
        default=False, description="true = the worker does it every day; false = only the command does"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.automatic and not self.images_days:
            raise ValueError("automatic needs images_days")
        return self
