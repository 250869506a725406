"""The only place where parts meet: settings in, the parts of a process out."""

from __future__ import annotations

import random
import re
import secrets
import socket
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from importlib.metadata import version
from ipaddress import ip_network
from typing import Any

import structlog

from dicom_store.archive import Archive
from drimbox.adapters.database import Database, with_password
from drimbox.adapters.dmp import Dmp, DmpEndpoint
from drimbox.adapters.documents import Documents
from drimbox.adapters.held import Held
from drimbox.adapters.key_files import read_secret
from drimbox.adapters.meters import Meters, exchange_counter
from drimbox.adapters.psc import Psc, PscEndpoint
from drimbox.adapters.signing import RsaSigner, hold_signer
from drimbox.adapters.transactions import SqlTransactions
from drimbox.domain.exam import Policy
from drimbox.domain.report_states import StatePolicy
from drimbox.domain.retry import RetryPolicy
from drimbox.domain.senders import SenderProfile
from drimbox.domain.vihf import VihfSettings
from drimbox.domain.xds.publication import Publisher, XdsOptions
from drimbox.flow.group_commit import GroupCommit
from drimbox.flow.inbox_lines import say_message
from drimbox.flow.inbox_purge import InboxPurging
from drimbox.flow.manifest import ManifestMaker
from drimbox.flow.mesh import may_exchange
from drimbox.flow.no_room import NoRoomRefusals
from drimbox.flow.prepare import Preparing
from drimbox.flow.publish import Publishing
from drimbox.flow.receive_report import Reception
from drimbox.flow.reconcile import Reconciling
from drimbox.flow.settle import Settling
from drimbox.membership import make_mesh
from drimbox.settings.mllp import SenderSettings
from drimbox.settings.organisation import PolicySettings
from drimbox.settings.whole import Settings


def utc_now() -> datetime:
    """The clock of the product: aware, UTC."""
    return datetime.now(UTC)


def new_uid() -> str:
    """A fresh UID under 2.25 (PS3.5 B.2: a UUID as a decimal), never arithmetic on an old one."""
    return f"2.25.{uuid.uuid4().int}"


def new_id() -> str:
    """A fresh identifier of a row."""
    return str(uuid.uuid4())


def new_control_id() -> str:
    """A fresh MSH-10: 20 characters, the limit of HL7 2.5."""
    return secrets.token_hex(10)


def node_name(settings: Settings) -> str:
    """Who holds leases and duties, and whose files and signs of life these are: one worker per node.

    It is safe in a file name, also where it is the host name: letters, digits, dots, hyphens and underscores.
    """
    return settings.node.name or re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())


@dataclass(frozen=True)
class Foundation:
    """What every process needs: where bytes and facts are kept.

    `own_documents`: the same store as `documents` for what we make ourselves, also below `minimum_free_bytes`.
    `held`: the credentials that SIGHUP renews; who holds one adds it.
    """

    settings: Settings
    database: Database
    archive: Archive
    documents: Documents
    own_documents: Documents
    transactions: SqlTransactions
    commits: GroupCommit
    no_room: NoRoomRefusals = field(default_factory=NoRoomRefusals)
    meters: Meters = field(default_factory=Meters)
    held: list[Held[Any]] = field(default_factory=list)

    @cached_property
    def signature(self) -> Held[RsaSigner]:
        """The ORG SIGN credential of VIHF and lots, one for the whole process; read at its first use."""
        dmp, passphrase = self.settings.dmp, self.settings.keys.passphrase
        files = (dmp.signature_certificate, dmp.signature_key)
        self.held.append(held := hold_signer("dmp.signature_certificate", *files, utc_now, passphrase))
        return held

    @property
    def policy(self) -> Policy:
        """The tunable rules, as the domain takes them."""
        policy = self.settings.policy
        return Policy(
            policy.ins_authorities,
            policy.ipp_authority,
            policy.settle_after,
            policy.thinner_alarm,
            policy.publish_without_destdmp,
            bool(self.settings.dmp.secret_connection_code),
        )


def database_url(settings: Settings) -> str:
    """The address of the database, with the password of its file: never to be shown.

    Raises `UnusableCredential` when the file cannot be used.
    """
    room = settings.database
    if room.password is None:
        return room.url
    return with_password(room.url, read_secret(room.password, "a password", "database.password"))


def lay_foundation(settings: Settings) -> Foundation:
    """Open database and stores; nothing is created in the database (see `Database.migrate`)."""
    root = settings.storage.root
    database = Database(database_url(settings), settings.database.busy_timeout)
    archive = Archive(root / "images", settings.storage.minimum_free_bytes)
    place = root / "documents"
    documents = Documents(place, settings.storage.minimum_free_bytes)
    transactions = SqlTransactions(database, archive)
    commits = GroupCommit(transactions)
    return Foundation(settings, database, archive, documents, Documents(place), transactions, commits)


def make_manifest_maker(foundation: Foundation) -> ManifestMaker:
    """What turns facts into frozen lots. Raises `UnusableCredential` when the signature key cannot be used."""
    settings = foundation.settings
    organisation, dmp = settings.organisation, settings.dmp
    foundation.signature.current()
    publisher = Publisher(
        name=organisation.name,
        structure_id=organisation.structure_id,
        device_id=organisation.device_id,
        manufacturer=organisation.manufacturer,
        uid_root=organisation.uid_root,
        author_type=dmp.author_type,
        sector=organisation.sector,
    )
    options = XdsOptions(
        study_reference_authority=dmp.study_reference_authority,
        event_code_schemes=dmp.event_code_schemes,
        utc=dmp.utc,
        time_zone=settings.policy.time_zone,
        digest=dmp.compatibility,
    )
    return ManifestMaker(
        publisher=publisher,
        options=options,
        signer=foundation.signature.current,
        retrieve_base=settings.web.public_url,
        time_zone=settings.policy.time_zone,
        new_uid=new_uid,
        new_number=lambda: secrets.randbits(63),
        ipp_authority=settings.policy.ipp_authority,
    )


def make_senders(settings: Settings) -> tuple[SenderProfile, ...]:
    """Who may send reports; what a sender does not say of itself is the department's policy."""
    return tuple(_sender(one, settings.policy) for one in settings.mllp.senders)


def _sender(one: SenderSettings, policy: PolicySettings) -> SenderProfile:
    def choice(name: str) -> bool:
        own = getattr(one, name)
        return bool(getattr(policy, name) if own is None else own)

    host, _, port = one.receipts.rpartition(":")
    return SenderProfile(
        one.name,
        tuple(ip_network(address, strict=False) for address in one.addresses),
        one.application,
        one.facility,
        one.certificate_sha256,
        frozenset(one.not_tolerated),
        StatePolicy(choice("orphan_replacement"), choice("idempotent_delete"), choice("same_author")),
        (host.strip("[]"), int(port)) if port else None,
    )


def make_reception(foundation: Foundation) -> Reception:
    """What the report doors call."""
    settings, policy = foundation.settings, foundation.settings.policy
    return Reception(
        foundation.transactions,
        foundation.documents,
        policy.time_zone,
        new_id,
        new_control_id,
        StatePolicy(policy.orphan_replacement, policy.idempotent_delete, policy.same_author),
        settings.mllp.application,
        settings.mllp.facility,
        policy.consent_from_adt,
        settings.mllp.business_acknowledgement,
        partial(say_message, structlog.get_logger("drimbox.flow.receive_report").info),
        foundation.no_room,
    )


def make_psc(settings: Settings) -> Psc:
    """The door to Pro Santé Connect."""
    psc = settings.psc
    endpoint = PscEndpoint(
        psc.issuer,
        psc.discovery_url,
        psc.authority,
        psc.client_id,
        psc.client_certificate,
        psc.client_key,
        psc.timeout,
        psc.cache,
        settings.keys.passphrase,
    )
    return Psc(endpoint, utc_now)


def make_reconciling(foundation: Foundation) -> Reconciling:
    """What the worker calls for studies that are due. Raises `UnusableCredential`."""
    return Reconciling(
        foundation.transactions,
        foundation.own_documents,
        Preparing(foundation.own_documents, make_manifest_maker(foundation), new_id),
        foundation.policy,
        foundation.settings.policy.time_zone,
        utc_now,
        structlog.get_logger("drimbox.flow.reconcile").error,
        structlog.get_logger("drimbox.flow.reconcile").info,
    )


def make_publishing(foundation: Foundation) -> Publishing:
    """What the worker calls for submissions that are due. Raises `UnusableCredential`."""
    settings, log = foundation.settings.dmp, structlog.get_logger("drimbox.flow.publish")
    retry = RetryPolicy(settings.retry_base, settings.retry_cap)
    node = node_name(foundation.settings)
    return Publishing(
        foundation.transactions,
        foundation.own_documents,
        make_dmp(foundation),
        Settling(foundation.own_documents, retry, f"worker:{node}", random.random, log.critical),
        utc_now,
        node,
        settings.lease,
        log.info,
        partial(may_exchange, make_mesh(foundation.settings)),
        told=exchange_counter(foundation.meters),
    )


def make_dmp(foundation: Foundation) -> Dmp:
    """The door to the DMP. Raises `UnusableCredential` when the signature key cannot be used."""
    settings, dmp = foundation.settings, foundation.settings.dmp
    endpoint = DmpEndpoint(
        repository_url=dmp.repository_url,
        registry_url=dmp.registry_url,
        authority=dmp.authority,
        client_certificate=dmp.client_certificate,
        client_key=dmp.client_key,
        connect_timeout=dmp.connect_timeout,
        answer_timeout=dmp.answer_timeout,
        passphrase=settings.keys.passphrase,
    )
    vihf = VihfSettings(
        lps_id=dmp.lps_id,
        lps_name=dmp.lps_name,
        lps_version=version("drimbox"),
        lps_homologation=dmp.lps_homologation,
        mode_attribute=dmp.mode_attribute,
        authn_context=dmp.authn_context,
        digest=dmp.compatibility,
        secret_connection_code=dmp.secret_connection_code,
    )
    foundation.signature.current()
    return Dmp(endpoint, foundation.signature.current, vihf, utc_now, new_id)


def make_inbox_purging(foundation: Foundation, actor: str) -> InboxPurging:
    """What deletes the bytes of messages older than inbox.keep_days."""
    days = foundation.settings.inbox.keep_days
    keep = timedelta(days=days) if days else None
    return InboxPurging(foundation.transactions, foundation.documents, utc_now, actor, keep)
