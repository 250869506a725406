"""`drimbox simulate`: the whole outside world on the loopback, in one process, over one directory.

DIR/pki (test PKI), DIR/dmp and DIR/psc (what they remember), DIR/appliance (data of the appliance),
DIR/drimbox.toml and DIR/simulators.json. Started again over the same directory and port base, everything is
as it was.
"""

from __future__ import annotations

import signal
import ssl
import sys
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from cryptography.x509.oid import NameOID

from drimbox.simulators.appliance_files import addresses, simulators_json, write_files
from drimbox.simulators.control import ControlPort
from drimbox.simulators.dmp import DmpSimulator
from drimbox.simulators.dmp_state import DmpState
from drimbox.simulators.faults import Faults
from drimbox.simulators.lists import AnsPublisher, BetterStackPublisher, ClearPublisher
from drimbox.simulators.pki import Pki, make_pki
from drimbox.simulators.ports import HOST, assign_ports
from drimbox.simulators.psc import REALM, ProSanteConnect
from drimbox.simulators.psc_tokens import TokenStore
from drimbox.simulators.server import WsgiServer, tls_context
from drimbox.simulators.syslog import SyslogReceiver
from drimbox.simulators.viewer_account import viewer_account

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


@dataclass(frozen=True)
class Place:
    """How one simulator listens: its server certificate (None = plain HTTP), whether it asks for a client
    certificate, and the name of its fault of the connection."""

    certificate: str | None = None
    mutual: bool = False
    refusal: str | None = None


PLACES = {
    "dmp": Place("dmp_server", mutual=True, refusal="refuse_connection"),
    "psc": Place("psc_server", mutual=True),
    "ans": Place("ans_server", refusal="unreachable"),
    "ans_crl": Place(),
    "betterstack": Place("ans_server", refusal="unreachable"),
    "control": Place(),
}


class World:
    """Every simulator, listening between `start()` and `stop()`; also a context manager.

    `ports`: name (see `ports.PORTS`) to port. `port_base` None: free ports, others at each start. `schemas`:
    directory of the XDS and ebRS schemas that the DMP also applies; `accept_sha1`: it takes SHA-1 signatures.
    Raises ValueError for a bad port base, OSError when a port is taken or the directory cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        port_base: int | None = None,
        *,
        schemas: Path | None = None,
        accept_sha1: bool = False,
    ) -> None:
        self._schemas, self._accept_sha1 = schemas, accept_sha1
        self.directory = directory.resolve()
        self.ports = assign_ports(port_base)
        self.faults = Faults()
        self._open = ExitStack()

    @property
    def description(self) -> dict[str, object]:
        """What simulators.json says."""
        return simulators_json(self.ports, self.pki, viewer_account(self.directory))

    def start(self) -> None:
        """Make or reuse the PKI and the stores, listen everywhere, write the two files."""
        now = datetime.now(UTC)
        clear = addresses(self.ports)["ans_crl"]
        self.directory.mkdir(parents=True, exist_ok=True)
        self.pki = make_pki(self.directory / "pki", now, crl_url=f"{clear}/CRL", aia_url=f"{clear}/AC")
        with ExitStack() as opening:  # closed again if anything below fails
            self._open_stores(opening)
            self.syslog = self._audit_repository()
            opening.callback(self.syslog.stop)
            self.syslog.start()
            for name, app in self._applications(now).items():
                server = self._server(name, PLACES[name], app)
                opening.callback(server.stop)
                server.start()
            write_files(self.directory, self.ports, self.pki)
            self._open = opening.pop_all()

    def stop(self) -> None:
        """Stop listening and close the stores; may be called twice."""
        self._open.close()

    def __enter__(self) -> World:
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()

    def _open_stores(self, opening: ExitStack) -> None:
        partner = self.pki.certificate("partner_auth").subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        issuer = addresses(self.ports)["psc"] + REALM
        self.dmp_state = DmpState(self.directory / "dmp" / "dmp.sqlite")
        opening.callback(self.dmp_state.close)
        self.tokens = TokenStore(self.directory / "psc", issuer, str(partner[0].value), _now)
        opening.callback(self.tokens.close)

    def _applications(self, started: datetime) -> dict[str, WSGIApplication]:
        return {
            "dmp": DmpSimulator(
                self.pki,
                self.dmp_state,
                self.faults,
                _now,
                schemas=self._schemas,
                accept_sha1=self._accept_sha1,
            ),
            "psc": ProSanteConnect(self.tokens, self.faults),
            "ans": AnsPublisher(self.pki, self.faults, _now),
            "ans_crl": ClearPublisher(self.pki, _now),
            "betterstack": BetterStackPublisher(self.faults, started),
            "control": ControlPort(self.faults, self.dmp_state, self.tokens, self.syslog),
        }

    def _audit_repository(self) -> SyslogReceiver:
        """That of the appliance's own centre: it wants a client certificate."""
        context = _tls(self.pki, Place("appliance_server", mutual=True))
        assert context is not None  # of a place with a certificate
        context.verify_mode = ssl.CERT_REQUIRED
        return SyslogReceiver(context, self.faults, host=HOST, port=self.ports["syslog"])

    def _server(self, name: str, place: Place, app: WSGIApplication) -> WsgiServer:
        context = _tls(self.pki, place)
        port = self.ports[name]
        if place.refusal is None:
            return WsgiServer(app, HOST, port, context)
        fault = place.refusal
        server = WsgiServer(
            app, HOST, port, context, refuse=lambda: self.faults.take(name, fault) is not None
        )
        self.faults.when_refusing(name, server.drop_idle)
        return server


def main(
    directory: Path, port_base: int | None = None, *, schemas: Path | None = None, accept_sha1: bool = False
) -> int:
    """Run the world until SIGTERM or SIGINT; writes `ready` when all listen. Returns the exit status."""
    over = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        over.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        with World(directory, port_base, schemas=schemas, accept_sha1=accept_sha1):
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            over.wait()
    except (OSError, ValueError) as error:
        sys.stderr.write(f"drimbox simulate: {error}\n")
        return 1
    return 0


def _now() -> datetime:
    return datetime.now(UTC)


def _tls(pki: Pki, place: Place) -> ssl.SSLContext | None:
    if place.certificate is None:
        return None
    authority = pki.authority if place.mutual else None
    return tls_context(pki.path(place.certificate), pki.key(place.certificate), authority)
