"""One frozen settings object per room, read once from TOML; unknown keys refused, all faults together.

No default for an OID, an institution, an AE title, a password or an address that leaves the machine: absent
means refuse to start. Secrets are given by file path, or as `credential:NAME`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError

from drimbox.settings.deployment import DeploymentSettings
from drimbox.settings.dicom import DicomSettings
from drimbox.settings.dmp import DmpSettings
from drimbox.settings.health import HealthSettings
from drimbox.settings.mllp import MllpSettings
from drimbox.settings.organisation import OrganisationSettings, PolicySettings
from drimbox.settings.processes import AuditSettings, KeysSettings, LogSettings, WorkerSettings
from drimbox.settings.psc import PscSettings
from drimbox.settings.room import ConfigurationError, Room
from drimbox.settings.storage import (
    ArchiveSettings,
    DatabaseSettings,
    InboxSettings,
    NodeSettings,
    RetentionSettings,
    StorageSettings,
)
from drimbox.settings.web import WebSettings
from drimbox.settings.whitelist import WhitelistSettings

_VARIABLE = re.compile(r"DRIMBOX_([A-Z]+)__([A-Z0-9_]+)")  # DRIMBOX_DICOM__PORT: dicom.port


class Settings(Room):
    """Every room's settings."""

    node: NodeSettings = NodeSettings()
    storage: StorageSettings
    database: DatabaseSettings
    dicom: DicomSettings
    mllp: MllpSettings
    inbox: InboxSettings = InboxSettings()
    web: WebSettings
    organisation: OrganisationSettings
    policy: PolicySettings
    dmp: DmpSettings
    psc: PscSettings
    whitelist: WhitelistSettings
    health: HealthSettings = HealthSettings()
    worker: WorkerSettings = WorkerSettings()
    archive: ArchiveSettings = ArchiveSettings()
    retention: RetentionSettings = RetentionSettings()
    audit: AuditSettings = AuditSettings()
    deployment: DeploymentSettings = DeploymentSettings()
    keys: KeysSettings = KeysSettings()
    log: LogSettings = LogSettings()


def parse_settings(text: str, environment: Mapping[str, str] = MappingProxyType({})) -> Settings:
    """Read settings from TOML text; `DRIMBOX_ROOM__KEY` of `environment` stands for that key.

    Raises `ConfigurationError` with every fault at once.
    """
    named: dict[tuple[str, ...], str] = {}
    try:
        document = tomllib.loads(text)
        for name, value in sorted(environment.items()):
            if (found := _VARIABLE.fullmatch(name)) is not None:
                room, key = found[1].lower(), found[2].lower()
                table = document.setdefault(room, {})
                if isinstance(table, dict):  # else the file is wrong there, which is said
                    table[key], named[room, key] = _value(value), name
        return Settings.model_validate(document)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([f"not TOML: {error}"]) from error
    except ValidationError as error:
        raise ConfigurationError([_sentence(fault, named) for fault in error.errors()]) from error


def load_settings(path: Path) -> Settings:
    """Read settings from a file and the environment. Raises `ConfigurationError`, also when it cannot be read."""
    try:
        return parse_settings(path.read_text("utf-8"), os.environ)
    except OSError as error:
        raise ConfigurationError([f"{path}: {error.strerror}"]) from error


def _value(text: str) -> object:
    """Of a variable: as it stands; a list or a table is written in TOML, on one line. Raises `TOMLDecodeError`."""
    if not text.lstrip().startswith(("[", "{")):
        return text
    return tomllib.loads(f"value = {text.strip()}")["value"]


def _sentence(fault: object, named: Mapping[tuple[str, ...], str]) -> str:
    assert isinstance(fault, dict)
    where = ".".join(str(part) for part in fault["loc"])
    words = {"extra_forbidden": "unknown key", "missing": "missing"}
    variables = [name for place, name in named.items() if place[: len(fault["loc"])] == fault["loc"][:2]]
    said_by = f" (${', $'.join(variables)})" if variables else ""
    return f"{where}{said_by}: {words.get(str(fault['type']), fault['msg'])}"
