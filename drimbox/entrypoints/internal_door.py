"""The internal listener: `/dicomweb` for the department's PACS and viewers, by account; reports, metrics."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_network
from time import perf_counter

import structlog
from a2wsgi import WSGIMiddleware

from dicom_store.asgi import App, HttpRequest, Receive, Scope, Send, busy
from dicom_store.bulk_data import BulkData
from dicom_store.door import Answer, Door
from dicom_store.frames import Frames, wants_instances
from dicom_store.metadata_rs import Metadata
from dicom_store.negotiation import parse_accept
from dicom_store.places import Places
from dicom_store.qido_rs import LEVELS, QidoRs
from dicom_store.rendered import Rendered
from dicom_store.request_body import paced
from dicom_store.resources import EVERYTHING, Kind, Resource
from dicom_store.shown import ShownInstances
from dicom_store.status import HttpRefusal
from dicom_store.transmit import Transfer
from drimbox.adapters.account_guard import AccountGuard
from drimbox.bootstrap import utc_now
from drimbox.domain.accounts import Account, Caller, Right, parse_hash
from drimbox.domain.errors import Unavailable
from drimbox.entrypoints.dicomweb_store import DicomWebStore
from drimbox.entrypoints.metrics import Families
from drimbox.entrypoints.reports_http import make_reports_app
from drimbox.entrypoints.serving import Serving
from drimbox.flow import retrievals
from drimbox.flow.retrieval_log import RetrievalLog
from drimbox.settings.whole import Settings

log = structlog.get_logger(__name__)

BASE = "/dicomweb"
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")

_PORT = re.compile(r":[0-9]+\Z")
_OF_PROXIES = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto")

Retrieve = Callable[[HttpRequest, Resource, str], Awaitable[Transfer]]


class DepartmentDoor:
    """What answers a request to `/dicomweb`: the account first, then the resource (PS3.18 10.4 to 10.6)."""

    def __init__(self, serving: Serving) -> None:
        foundation = serving.foundation
        room = serving.settings.web
        self._guard = AccountGuard(make_accounts(serving.settings))
        self._store = DicomWebStore(foundation)
        self._records = serving.gate.records
        self._images = serving.images
        self._shown = ShownInstances(foundation.database.reading)
        self._frames = Frames(self._shown, foundation.archive, serving.conversions)
        self._named = room.internal_url
        self._own_port = f":{room.internal_port}"
        self._own_host = f"{room.internal_host}{self._own_port}"
        self._scheme = "https" if room.internal_certificate else "http"
        search: Retrieve = QidoRs(foundation.database.reading, foundation.archive)
        self._retrieve: Mapping[Kind, Retrieve] = {
            **dict.fromkeys(LEVELS, search),
            Kind.METADATA: Metadata(self._shown, foundation.archive),
            Kind.FRAMES: self._frames_or_instance,
            Kind.BULK_DATA: BulkData(self._shown, foundation.archive),
            Kind.RENDERED: Rendered(self._shown, serving.conversions),
            **dict.fromkeys((Kind.STUDY, Kind.SERIES, Kind.INSTANCE), self._instances),
        }

    async def __call__(self, request: HttpRequest, resource: Resource, receive: Receive) -> Answer:
        """Answer; everything is decided before the first byte. Raises `HttpRefusal`."""
        account = await self._admit(request)
        url = self._base_url(request)
        if request.method == "POST":
            return Answer(await self._store.answer(request, resource, receive, account.name, url))
        started = perf_counter()
        try:
            transfer = await self._retrieve[resource.kind](request, resource, url)
            if resource.kind in LEVELS:
                return Answer(transfer)
            viewing = _Viewing(self._records, _record(account, request, resource), started)
            return Answer(transfer, viewing.finished, viewing.refused)
        except Unavailable as error:
            log.exception("search_or_retrieval_impossible", study=resource.study, reason=str(error))
            raise busy("The index cannot be read now; try again.") from error

    def close(self) -> None:
        """Take nothing in any more."""
        self._guard.close()
        self._store.close()

    async def _admit(self, request: HttpRequest) -> Account:
        caller = Caller(request.client, request.peer_certificate, request.headers.get("authorization"))
        try:
            return await self._guard.admit(caller, Right.STORE if request.method == "POST" else Right.READ)
        except HttpRefusal as refusal:
            if (
                caller.authorization is not None or refusal.status != 401
            ):  # the first step of Basic shows nothing
                log.warning("account_refused", code=refusal.slug, peer=request.client)
            raise

    async def _frames_or_instance(self, request: HttpRequest, resource: Resource, url: str) -> Transfer:
        if wants_instances(parse_accept(request.accept)):
            return await self._instances(request, resource, url)
        return await self._frames(request, resource, url)

    async def _instances(self, request: HttpRequest, resource: Resource, url: str) -> Transfer:
        found = await self._shown.of(resource)
        return (await self._images.answer(request, resource, found)).transfer

    def _base_url(self, request: HttpRequest) -> str:
        """The address of the door as the client named it; ours when it named none that is one.

        A port that is missing is ours unless a proxy speaks: there is a client that never names one.
        """
        if self._named:
            return f"{self._named}{BASE}"
        host, names = request.headers.get("host", ""), request.headers
        if not _HOST.fullmatch(host):
            host = self._own_host
        elif not _PORT.search(host) and not any(name in names for name in _OF_PROXIES):
            host += self._own_port
        return f"{self._scheme}://{host}{BASE}"


class _Viewing:
    """The audit record of one retrieval by an account. Raises `Unavailable` when none can be kept."""

    def __init__(self, records: RetrievalLog, record: retrievals.Record, started: float) -> None:
        self._records, self._started = records, started
        self._open = records.begin(record)

    def finished(self, transfer: Transfer, why: str) -> None:
        """The transfer ended."""
        end = retrievals.ended(transfer.sent, transfer.whole, (), why, self._milliseconds)
        began = transfer.begun_at
        self._records.end(self._open, end, None if began is None else began - self._started)

    def refused(self, refusal: HttpRefusal, why: str) -> None:
        """Nothing could be sent after all."""
        self._records.end(
            self._open, retrievals.refused(refusal.slug, refusal.status, why, self._milliseconds)
        )

    @property
    def _milliseconds(self) -> float:
        return (perf_counter() - self._started) * 1000


def _record(account: Account, request: HttpRequest, resource: Resource) -> retrievals.Record:
    uids = {
        "study": resource.study,
        "series": resource.series,
        "sop": resource.sop,
        "frames": resource.frames,
    }
    return retrievals.viewed(account.name, request.client, resource.kind.name.lower(), uids, utc_now())


def make_accounts(settings: Settings) -> tuple[Account, ...]:
    """The accounts of the settings."""
    return tuple(
        Account(
            one.name,
            tuple(ip_network(address, strict=False) for address in one.addresses),
            frozenset(map(Right, one.may)),
            parse_hash(one.password_scrypt) if one.password_scrypt else None,
            one.certificate_sha256,
        )
        for one in settings.web.accounts
    )


def make_internal_app(
    serving: Serving, department: DepartmentDoor, places: Places, more: Families = tuple
) -> App:
    """The ASGI application of the internal listener. `more`: what `/metrics` says beside the ledger."""
    stall = serving.settings.web.stall_timeout
    door = Door(BASE, EVERYTHING, department, places, stall)
    rest = WSGIMiddleware(make_reports_app(serving.foundation, more))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(f"{BASE}/"):
            await door(scope, receive, send)
        else:  # its threads are few, and wait for the body
            await rest(scope, paced(receive, stall), send)

    return app
