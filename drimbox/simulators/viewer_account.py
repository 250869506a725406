"""The account of the department's viewer in this world: made once for a directory, then as it was."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

NAME = "viewer"
_N, _R, _P = 1 << 14, 8, 1  # RFC 7914; the least that the appliance accepts


@dataclass(frozen=True)
class ViewerAccount:
    """Name, password, and what the appliance's configuration says instead of the password."""

    name: str
    password: str
    password_scrypt: str


def viewer_account(directory: Path) -> ViewerAccount:
    """The account kept in DIR/account.json, which only the owner can read. Raises `OSError`, ValueError."""
    path = directory / "account.json"
    if not path.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(asdict(_made())), encoding="utf-8")
        draft.replace(path)
    return ViewerAccount(**json.loads(path.read_text("utf-8")))


def _made() -> ViewerAccount:
    password, salt = secrets.token_urlsafe(18), secrets.token_bytes(16)
    key = hashlib.scrypt(password.encode("ascii"), salt=salt, n=_N, r=_R, p=_P, dklen=32)
    return ViewerAccount(NAME, password, f"scrypt${_N}${_R}${_P}${_encoded(salt)}${_encoded(key)}")


def _encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode("ascii").rstrip("=")
