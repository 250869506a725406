"""`drimbox account NAME`: the lines of an account for drimbox.toml, its password hashed.

The password is asked on the terminal, else read from standard input; it is never an argument, which others can see.
"""

from __future__ import annotations

import getpass
import json
import secrets
import sys
from ipaddress import ip_network
from typing import Annotated

import typer

from drimbox.domain.accounts import Right, hash_password

MIN_CHARACTERS = 12
MAX_CHARACTERS = 256


def account(
    name: Annotated[str, typer.Argument(help="Name of the account, also that of HTTP Basic.")],
    address: Annotated[
        list[str], typer.Option(help="Address or network (CIDR) that it calls from; may be repeated.")
    ],
    may: Annotated[list[Right] | None, typer.Option(help="What it may do; may be repeated.")] = None,
) -> None:
    """Print an account for the room web; the password is asked, or is the first line of standard input."""
    _check_name(name)
    _check_addresses(address)
    hashed = hash_password(_read_password(), secrets.token_bytes(16))
    rights = list(dict.fromkeys(may or [Right.READ]))
    typer.echo("[[web.accounts]]")
    for key, value in (("name", name), ("addresses", address), ("may", rights), ("password_scrypt", hashed)):
        typer.echo(f"{key} = {json.dumps(value, ensure_ascii=False)}")


def _check_name(name: str) -> None:
    """HTTP Basic ends the name at the first colon (RFC 7617 2)."""
    if ":" in name or not name.strip() or len(name) > 64 or not name.isprintable():
        raise typer.BadParameter("a name has 1 to 64 printable characters and no colon")


def _check_addresses(addresses: list[str]) -> None:
    for one in addresses:
        try:
            ip_network(one, strict=False)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error


def _read_password() -> str:
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != password:
            _fail("the two passwords differ")
    else:
        password = sys.stdin.readline(MAX_CHARACTERS + 2).rstrip("\r\n")
    if not MIN_CHARACTERS <= len(password) <= MAX_CHARACTERS:
        _fail(f"a password has {MIN_CHARACTERS} to {MAX_CHARACTERS} characters")
    return password


def _fail(reason: str) -> None:
    typer.echo(f"drimbox account: {reason}", err=True)
    raise typer.Exit(1)
