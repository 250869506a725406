"""Finding, writing and checking the configuration file."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from drimbox.adapters.credential_check import Judgement, issue_fault
from drimbox.adapters.database import Database, require_known
from drimbox.adapters.key_files import UnusableCredential
from drimbox.bootstrap import Foundation, database_url, lay_foundation, make_senders, utc_now
from drimbox.domain.errors import DatabaseNewer, Unavailable
from drimbox.entrypoints.credentials_in_use import DOOR_USES, credentials_in_use, judge_in_use
from drimbox.entrypoints.deployment_check import judge_declared
from drimbox.entrypoints.second_opinion import make_second_opinion
from drimbox.entrypoints.sender_check import sender_faults
from drimbox.membership import own_name
from drimbox.settings.room import ConfigurationError
from drimbox.settings.whitelist import WhitelistSettings
from drimbox.settings.whole import Settings, load_settings

PLACES = (Path("drimbox.toml"), Path("/etc/drimbox/drimbox.toml"))
ENVIRONMENT = "DRIMBOX_CONFIG"
SQLITE = "sqlite:///"


class NoConfiguration(Exception):
    """No configuration file was given or found."""


@contextmanager
def open_stores(config: Path | None) -> Iterator[Foundation]:
    """The stores of the configured appliance, for one command. Raises `ConfigurationError`."""
    foundation = lay_foundation(load_settings(find_configuration(config)))
    try:
        yield foundation
    finally:
        foundation.database.close()


def find_configuration(given: Path | None) -> Path:
    """The file to use: given, else $DRIMBOX_CONFIG, else the usual places. Raises `NoConfiguration`."""
    if given is not None:
        return given
    if os.environ.get(ENVIRONMENT):
        return Path(os.environ[ENVIRONMENT])
    for place in PLACES:
        if place.is_file():
            return place
    raise NoConfiguration(
        f"no configuration: give --config FILE, or ${ENVIRONMENT}, or {' or '.join(map(str, PLACES))}"
    )


def write_template(directory: Path) -> Path:
    """Write DIRECTORY/drimbox.toml, every setting commented, and the data directory. Raises FileExistsError."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "drimbox.toml"
    with path.open("x", encoding="utf-8") as file:
        file.write("\n".join(_template(directory)) + "\n")
    (directory / "data").mkdir(exist_ok=True)
    (directory / "pki").mkdir(exist_ok=True, mode=0o700)
    return path


def _template(directory: Path) -> Iterator[str]:
    given = {
        "storage.root": str(directory.resolve() / "data"),
        "database.url": f"sqlite:///{directory.resolve() / 'data' / 'drimbox.sqlite'}",
    }
    yield "# DRIMBox. A line that starts with # shows the default; REQUIRED lines have none and must be filled in."
    for room, room_field in Settings.model_fields.items():
        model: Any = room_field.annotation
        yield from ("", f"# {(model.__doc__ or '').strip()}", f"[{room}]")
        tables = {key for key, field in model.model_fields.items() if _row(field)}
        for key, field in model.model_fields.items():
            if key not in tables:
                yield from _line(key, field, given.get(f"{room}.{key}"))
        for key in tables:  # TOML: after the settings of the room itself
            yield from _table(f"{room}.{key}", model.model_fields[key])


def _row(field: FieldInfo) -> type[BaseModel] | None:
    """What one row of a setting of several rows is made of; None for another setting."""
    rows = [one for one in get_args(field.annotation) if isinstance(one, type) and issubclass(one, BaseModel)]
    return rows[0] if rows else None


def _line(key: str, field: FieldInfo, given: str | None) -> Iterator[str]:
    if given is not None:
        yield from (f"# {field.description}", f'{key} = "{given}"')
    elif field.default is PydanticUndefined:
        yield from (f"# REQUIRED: {field.description}", f"#{key} =")
    elif field.default is None:
        yield from (f"# {field.description}", f"#{key} =")
    else:
        yield from (f"# {field.description}", f"#{key} = {toml_value(field.default)}")


def _table(name: str, field: FieldInfo) -> Iterator[str]:
    """A setting of several rows: the lines of one, to be repeated for each."""
    required = "REQUIRED: " if field.default is PydanticUndefined else ""
    yield from ("", f"# {required}{field.description}", f"#[[{name}]]")
    row = _row(field)
    for key, one in row.model_fields.items() if row else ():
        yield from _line(key, one, None)


def toml_value(value: Any) -> str:
    """A default as TOML writes it (texts, numbers, booleans)."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def check_configuration(path: Path, door: str | None = None) -> list[str]:
    """Every fault that `examine_configuration` finds; empty when the configuration can be used."""
    return list(examine_configuration(path, door).faults)


def examine_configuration(path: Path, door: str | None = None) -> Judgement:
    """Every fault and warning of the file and of what it names. Nothing is started or changed.

    `door`: of `DOOR_USES`, whose certificates, keys and ports alone are looked at: the others may be running, with
    credentials of their own. Raises `KeyError` for another.
    """
    uses = ("",) if door is None else DOOR_USES[door]
    try:
        settings = load_settings(path)
    except ConfigurationError as error:
        return Judgement(tuple(error.faults))
    credentials = _judge_credentials(settings, uses)
    faults = (
        *credentials.faults,
        *_whitelist_faults(settings),
        *_storage_faults(settings),
        *_port_faults(settings, uses),
        *sender_faults(make_senders(settings), settings.mllp.host, bool(settings.mllp.tls_port)),
    )
    return Judgement(faults, credentials.warnings)


def _judge_credentials(settings: Settings, uses: tuple[str, ...]) -> Judgement:
    faults: list[str] = []
    warnings: list[str] = []
    for one in credentials_in_use(settings):
        if one.name.startswith(uses):
            judged = judge_in_use(one, settings, utc_now())
            faults += [f"{one.name}: {words}" for words in judged.faults]
            warnings += [f"{one.name}: {words}" for words in judged.warnings]
    if "whitelist.intermediate".startswith(uses):
        faults += _issue_faults(settings.whitelist)
    if "deployment.".startswith(uses):
        declared = judge_declared(settings, utc_now())
        faults += declared.faults
        warnings += declared.warnings
    return Judgement(tuple(faults), tuple(warnings))


def _issue_faults(room: WhitelistSettings) -> Iterator[str]:
    try:
        fault = issue_fault(room.intermediate, room.root)
    except UnusableCredential:  # said of that file already
        return
    if fault:
        yield f"whitelist.intermediate: {fault}"


def _whitelist_faults(settings: Settings) -> Iterator[str]:
    """Our own name must be one that a list can hold, or the first list would interrupt us; eSignSanté's address."""
    for make in (partial(own_name, settings), partial(make_second_opinion, settings.whitelist)):
        try:
            make()
        except ConfigurationError as error:
            yield from error.faults


def require_membership(settings: Settings) -> None:
    """Raises `ConfigurationError` for what would stop the worker at every start: it would say so to nobody."""
    if faults := list(_whitelist_faults(settings)):
        raise ConfigurationError(faults)


def _storage_faults(settings: Settings) -> Iterator[str]:
    root, url = settings.storage.root, settings.database.url
    existing = next(place for place in (root, *root.parents) if place.exists())
    if not os.access(existing, os.W_OK):
        yield f"storage.root: {existing} cannot be written"
    new = Path(url.removeprefix(SQLITE))
    if url.startswith(SQLITE) and not new.exists():  # to look would make it, for the account that looks
        if new.parent != root and not os.access(new.parent, os.W_OK):
            yield f"database.url: {new.parent} cannot be written"
        return
    try:
        database = Database(database_url(settings), settings.database.busy_timeout)
        current, _ = database.revision()
        database.close()
        require_known(current)
    except UnusableCredential as error:
        yield f"database.password: {error}"
    except (Unavailable, DatabaseNewer, ValueError, ImportError) as error:
        yield f"database.url: {error}"


def _port_faults(settings: Settings, uses: tuple[str, ...]) -> Iterator[str]:
    doors = (
        ("dicom.port", settings.dicom.host, settings.dicom.port),
        ("mllp.port", settings.mllp.host, settings.mllp.port),
        ("web.public_port", settings.web.public_host, settings.web.public_port),
        ("web.internal_port", settings.web.internal_host, settings.web.internal_port),
        ("mllp.tls_port", settings.mllp.host, settings.mllp.tls_port),
        ("dicom.tls_port", settings.dicom.host, settings.dicom.tls_port),
    )
    seen: dict[int, str] = {}
    for name, host, port in doors:
        if not port:  # only a TLS port may be 0: no such door
            continue
        if port in seen:
            yield f"{name}: {port} is already the port of {seen[port]}"
        seen[port] = name
        if not name.startswith(uses):
            continue
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError as error:
            yield f"{name}: {host}:{port} cannot be listened on: {error.strerror}"
