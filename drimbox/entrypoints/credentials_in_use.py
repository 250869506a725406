"""Every certificate and key that the settings name: one table, which whoever looks at credentials reads.

`drimbox config check`, the inventory (`drimbox certificates`), the alarms, the health check and the renewal of a
running process all take their rows from here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from drimbox.adapters.credential_check import NOTHING, Judgement, judge_credential
from drimbox.domain.certificate_roles import AUTHORITIES, Expected, Role
from drimbox.settings.room import CREDENTIALS_DIRECTORY, NO_CREDENTIALS
from drimbox.settings.whole import Settings

#: what of the configuration each door uses that another may not have: keys, authorities and ports, by their names
DOOR_USES: Mapping[str, tuple[str, ...]] = {
    "dicom": ("dicom.",),
    "mllp": ("mllp.",),
    "web": (
        *("web.", "psc.", "health.", "deployment.", "dmp.client_certificate", "dmp.authority"),
        *("whitelist.root", "whitelist.intermediate"),
    ),
    "worker": ("dmp.", "audit.", "whitelist."),
}


@dataclass(frozen=True, slots=True)
class CredentialInUse:
    """One row. `name`: the setting of the certificate; `key`: None for authorities, and for what others hold.

    `expected`: what the settings say that it bears; `probe`: its health probe (`certificates:...`), empty = none.
    """

    name: str
    certificate: Path
    key: Path | None
    role: Role
    expected: Expected = NOTHING
    probe: str = ""

    @property
    def doors(self) -> frozenset[str]:
        """The processes that read it."""
        return frozenset(door for door, uses in DOOR_USES.items() if self.name.startswith(uses))

    @property
    def is_own(self) -> bool:
        """Whether it identifies us; the others are authorities that we trust."""
        return self.role not in AUTHORITIES


def credentials_in_use(settings: Settings) -> tuple[CredentialInUse, ...]:
    """Every credential that is set, ours first. No file is read."""
    return tuple(
        CredentialInUse(name, certificate, key, role, expected, probe)
        for name, certificate, key, role, expected, probe in (*_own(settings), *_trusted(settings))
        if certificate is not None
    )


_Row = tuple[str, Path | None, Path | None, Role, Expected, str]


def _own(settings: Settings) -> Iterable[_Row]:
    web, mllp, dicom, dmp, psc = settings.web, settings.mllp, settings.dicom, settings.dmp, settings.psc
    room, audit, mode = settings.whitelist, settings.audit, settings.deployment
    host, environment = urlsplit(web.public_url).hostname or "", room.environment
    structures = tuple(
        filter(None, (settings.organisation.structure_id, settings.organisation.legal_entity_id))
    )
    public = Expected(host=host, list_host=room.host or host, environment=environment)
    of_structure = Expected(structures=structures, environment=environment)
    ours = Expected(client_id=psc.client_id, environment=environment)
    proxy = Expected(client_id=psc.client_id, operator=mode.proxy_operator, environment=environment)
    proof = Expected(environment=environment)
    mllps = "mllps" if mllp.tls_port else ""
    dicoms = "dicom" if dicom.tls_port else ""
    audited = "audit" if audit.host else ""
    return (
        ("web.certificate", web.certificate, web.key, Role.WEB_PUBLIC, public, "web"),
        ("web.internal_certificate", web.internal_certificate, web.internal_key, Role.WEB_INTERNAL, NOTHING,
         "web-internal"),
        ("mllp.tls_certificate", mllp.tls_certificate, mllp.tls_key, Role.MLLP_SERVER, NOTHING, mllps),
        ("dicom.tls_certificate", dicom.tls_certificate, dicom.tls_key, Role.DICOM_SERVER, NOTHING, dicoms),
        ("dmp.client_certificate", dmp.client_certificate, dmp.client_key, Role.DMP_CLIENT, of_structure, "dmp"),
        ("dmp.signature_certificate", dmp.signature_certificate, dmp.signature_key, Role.DMP_SIGNATURE, of_structure,
         "signature"),
        ("psc.client_certificate", psc.client_certificate, psc.client_key, Role.PSC_CLIENT, ours, "psc"),
        ("whitelist.proof_certificate", room.proof_certificate, room.proof_key, Role.PROOF, proof, "proof"),
        ("audit.certificate", audit.certificate, audit.key, Role.AUDIT_CLIENT, NOTHING, audited),
        ("deployment.proxy_client_certificate", mode.proxy_client_certificate, None, Role.PROXY_CLIENT, proxy, ""),
    )  # fmt: skip


def _trusted(settings: Settings) -> Iterator[_Row]:
    room, listed = settings.whitelist, Expected(environment=settings.whitelist.environment)
    yield "whitelist.root", room.root, None, Role.LIST_ROOT, listed, ""
    yield "whitelist.intermediate", room.intermediate, None, Role.LIST_INTERMEDIATE, listed, ""
    for name, bundle in (
        ("web.client_authority", settings.web.client_authority),
        ("web.internal_client_authority", settings.web.internal_client_authority),
        ("mllp.tls_client_authority", settings.mllp.tls_client_authority),
        ("dicom.tls_client_authority", settings.dicom.tls_client_authority),
        ("dmp.authority", settings.dmp.authority),
        ("psc.authority", settings.psc.authority),
        ("audit.authority", settings.audit.authority),
        ("whitelist.authority", room.authority),
        ("whitelist.esignsante_authority", room.esignsante_authority),
        ("health.list_authority", settings.health.list_authority),
    ):
        yield name, bundle, None, Role.AUTHORITY, NOTHING, ""


def judge_in_use(one: CredentialInUse, settings: Settings, now: datetime) -> Judgement:
    """Every fault and warning of a row at `now`; of what was not given to this process, only that."""
    passphrase = settings.keys.passphrase
    absent = tuple(absences(one.certificate, one.key, passphrase if one.key else None))
    if absent:
        return Judgement(absent)
    return judge_credential(one.certificate, one.key, one.role, now, one.expected, passphrase=passphrase)


def absences(*files: Path | None) -> Iterator[str]:
    """Of credentials that the service manager did not give."""
    given = os.environ.get(CREDENTIALS_DIRECTORY)
    for path in filter(None, files):
        if path.parent == NO_CREDENTIALS:
            yield f"credential {path.name}: ${CREDENTIALS_DIRECTORY} is not set, nothing was given to this process"
        elif given and path.parent == Path(given) and not os.access(path, os.R_OK):
            yield f"credential {path.name} was not given to this process: see LoadCredential= of its unit"
