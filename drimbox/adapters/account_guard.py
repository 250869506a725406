"""The guard of the internal DICOMweb door: recognises accounts without holding up the event loop.

A password is derived in a thread, once; then its HMAC under a key of this process stands for it. Wrong ones cost the
same whether the name exists, and an address that brings too many is answered 429 until they are old. Cache and count
are those of one process.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from dicom_store.asgi import busy
from dicom_store.status import HttpRefusal
from drimbox.domain.accounts import (
    Account,
    Caller,
    Credentials,
    Right,
    admit,
    certified,
    decoy,
    named,
    password_matches,
    reachable,
    read_basic,
    refuse,
)
from healthcheck.client_address import parse_address

ATTEMPTS = 5  # wrong passwords of one address
WINDOW = 60.0  # seconds in which they count
WAITING = 16  # passwords that wait for the thread
_ADDRESSES = 4096  # remembered at most, the oldest forgotten first


class AccountGuard:
    """One object per process, used from its event loop. `clock`: seconds, monotonic."""

    def __init__(self, accounts: Sequence[Account], clock: Callable[[], float] = time.monotonic) -> None:
        self._accounts = accounts
        self._decoy = decoy(accounts)
        self._throttle = Throttle(clock)
        self._key = secrets.token_bytes(32)
        self._verified: dict[str, bytes] = {}  # name -> HMAC of its password
        self._pending: dict[bytes, asyncio.Task[bool]] = {}
        self._thread = ThreadPoolExecutor(1, "password")

    async def admit(self, caller: Caller, right: Right) -> Account:
        """The account of a caller who may do this. Raises `HttpRefusal` 401, 403, 429, 503."""
        reachable(self._accounts, caller)
        credentials = read_basic(caller.authorization)
        if credentials is None:
            return admit(certified(self._accounts, caller), caller, right)
        account = named(self._accounts, credentials)
        tag = self._tag(credentials)
        known = self._verified.get(account.name, b"") if account else b""
        if not hmac.compare_digest(known, tag) and not await self._verify(account, credentials, tag, caller):
            raise refuse("account-unknown")
        return admit(account, caller, right)

    def close(self) -> None:
        """No more passwords are derived."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _verify(
        self, account: Account | None, credentials: Credentials, tag: bytes, caller: Caller
    ) -> bool:
        """Whether the password is right; the same pair that comes again meanwhile waits for this answer."""
        task = self._pending.get(tag)
        if task is None:
            address = _counted(caller.address)
            self._throttle.begin(address)
            if len(self._pending) >= WAITING:
                self._throttle.forgive(address)
                raise busy("Too many accounts are being checked at once; try again.")
            task = asyncio.ensure_future(self._derive(account, credentials, tag, address))
            self._pending[tag] = task
            task.add_done_callback(lambda _: self._pending.pop(tag, None))
        return await asyncio.shield(task)

    async def _derive(
        self, account: Account | None, credentials: Credentials, tag: bytes, address: str
    ) -> bool:
        known = account.password if account and account.password else self._decoy
        loop = asyncio.get_running_loop()
        right = await loop.run_in_executor(self._thread, password_matches, credentials.password, known)
        if right and account is not None:
            self._verified[account.name] = tag
            self._throttle.forgive(address)
        return right and account is not None

    def _tag(self, credentials: Credentials) -> bytes:
        pair = f"{credentials.name}\0{credentials.password}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, pair, "sha256")


class Throttle:
    """Attempts per address within `WINDOW` seconds; one that succeeds is taken back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._attempts: OrderedDict[str, list[float]] = OrderedDict()

    def begin(self, address: str) -> None:
        """Count an attempt. Raises `HttpRefusal` 429 with the seconds to wait when there were too many."""
        now = self._clock()
        recent = [at for at in self._attempts.pop(address, ()) if at > now - WINDOW]
        self._attempts[address] = recent
        if len(recent) >= ATTEMPTS:
            wait = math.ceil(recent[0] + WINDOW - now)
            detail = "Too many wrong passwords from your address; try again later."
            raise HttpRefusal(
                429, "too-many-attempts", "Too many requests", detail, {"Retry-After": str(wait)}
            )
        recent.append(now)
        if len(self._attempts) > _ADDRESSES:
            self._attempts.popitem(last=False)

    def forgive(self, address: str) -> None:
        """Take the newest attempt back."""
        if self._attempts.get(address):
            self._attempts[address].pop()


def _counted(address: str) -> str:
    """What is counted as one address: of IPv6 the network of a site, whose hosts are countless."""
    parsed = parse_address(address)
    if parsed is None or parsed.version == 4:
        return address
    return str(int(parsed) >> 64)
