"""`drimbox keys`: private keys at rest (trust-and-identity 5.7). Nothing of a key or a passphrase is ever printed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from drimbox.adapters.certificate_files import read_facts
from drimbox.adapters.key_files import UnusableCredential, read_passphrase
from drimbox.adapters.key_writing import (
    clear_key,
    encrypt_in_place,
    new_passphrase,
    read_p12,
    write_credential,
    write_new,
)
from drimbox.domain.certificate_facts import kind_of

keys_app = typer.Typer(help="Private keys at rest.", no_args_is_help=True)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
JsonOption = Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")]


@keys_app.command("passphrase")
def write_passphrase(
    file: Annotated[Path, typer.Argument(help="Where it goes; for its owner alone.")],
) -> None:
    """Write a random passphrase; never over a file that is there."""
    try:
        write_new(file, new_passphrase())
    except OSError as error:
        raise UnusableCredential([f"{file}: {error.strerror}: nothing was written"]) from error
    typer.echo(f"{file}: written. Keep a copy where the keys are not: without it they are lost.")


@keys_app.command("encrypt")
def encrypt(
    keys: Annotated[list[Path], typer.Argument(help="PEM files of private keys, encrypted in place.")],
    passphrase: Annotated[Path, typer.Option(help="File that holds the passphrase, one line, mode 0600.")],
    as_json: JsonOption = False,
) -> None:
    """Encrypt private keys in place; when one of them cannot be, none is."""
    words, keys = read_passphrase(passphrase), list(dict.fromkeys(key.resolve() for key in keys))
    faults = [fault for key in keys for fault in _faults(key)]
    if faults:
        raise UnusableCredential([*faults, "no key was changed"])
    for number, key in enumerate(keys):
        try:
            encrypt_in_place(key, words)
        except OSError as error:
            reason = f"{key}: {error.strerror or error}"
            raise UnusableCredential([reason, f"{number} of {len(keys)} keys are encrypted"]) from error
    if as_json:
        typer.echo(json.dumps({"encrypted": [str(key) for key in keys]}, ensure_ascii=False))
    else:
        typer.echo("\n".join(f"{key}: encrypted" for key in keys))


@keys_app.command("import")
def import_p12(
    file: Annotated[Path, typer.Argument(help="PKCS#12 file (.p12, .pfx) as IGC Santé delivers it.")],
    out: Annotated[
        Path, typer.Option(help="Directory for NAME.pem and NAME.key.", file_okay=False, exists=True)
    ],
    name: Annotated[str, typer.Option(help="Name of both files, without suffix.")],
    p12_passphrase: Annotated[
        Path | None, typer.Option(help="File that holds the passphrase of the .p12, one line, mode 0600.")
    ] = None,
    passphrase: Annotated[
        Path | None,
        typer.Option(help="File of the passphrase that NAME.key is encrypted with (keys.passphrase)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make PEM files of a .p12: certificate with its chain, and private key; never over files that are there."""
    if not _NAME.fullmatch(name):
        raise typer.BadParameter("letters, digits, dots, hyphens and underscores", param_hint="--name")
    imported = read_p12(file, read_passphrase(p12_passphrase) if p12_passphrase else None)
    words = read_passphrase(passphrase) if passphrase else None
    try:
        certificate, key = write_credential(imported, out, name, words)
    except OSError as error:
        raise UnusableCredential(getattr(error, "faults", [f"{out}: {error.strerror}"])) from error
    told = _told(certificate, key) | {"encrypted": words is not None, "left_out": list(imported.left_out)}
    typer.echo(json.dumps(told, ensure_ascii=False) if as_json else "\n".join(_lines(told)))


def _faults(key: Path) -> list[str]:
    try:
        clear_key(key)
    except UnusableCredential as error:
        return error.faults
    return []


def _told(certificate: Path, key: Path) -> dict[str, Any]:
    leaf, *chain = read_facts(certificate)
    return {
        "certificate": str(certificate),
        "key": str(key),
        "kind": str(kind_of(leaf)),
        "subject": leaf.subject_name,
        "issuer": leaf.issuer_name,
        "serial": f"{leaf.serial:X}",
        "not_after": f"{leaf.not_after:%Y-%m-%dT%H:%M:%SZ}",
        "environment": leaf.environment,
        "chain": [one.subject_name for one in chain],
    }


def _lines(told: dict[str, Any]) -> list[str]:
    lines = [
        f"{name}: {told[name]}" for name in ("certificate", "key", "kind", "subject", "issuer", "serial")
    ]
    lines += [f"ends: {told['not_after']}", f"environment: {told['environment'] or 'not one of IGC Santé'}"]
    lines += [f"chain: {subject}" for subject in told["chain"]]
    lines += [f"left out: {subject}" for subject in told["left_out"]]
    if not told["encrypted"]:
        lines.append("warning: the key is not encrypted (--passphrase)")
    return lines
