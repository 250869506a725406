"""The DICOM door: Verification and Storage SCP (PS3.4 A, B), and the rare services that it is given.

Data sets are never decoded: every storage SOP class, private and unknown ones too, in the transfer syntax that the
sender proposes first. A C-STORE becomes an `Arrival` of a `Sink`; its outcome becomes a status by the table of
`status.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from pynetdicom import AE, _config

from dicom_store.admission import Terms, offered
from dicom_store.connections import Connections
from dicom_store.listener import OwnServer, ReferenceHandler, ReferenceServer, TlsContext
from dicom_store.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_store.senders import Sender
from dicom_store.sink import Peer, Service, Sink
from dicom_store.upper_layer import MAXIMUM_PDU

ACSE_SECONDS = 30.0  # for a request to come, at most (ARTIM, PS3.8 9.1.5)
Engine = Literal["own", "reference"]


class DicomDoor:
    """The SCP. Who may call: one of `calling_ae_titles`, but a title that `senders` has as one of those rows only.

    `idle_timeout` in seconds, also for each PDU. `max_instance_bytes`: of a data set; more is aborted.
    `max_associations_per_address`: 0 = as many as of all. `services`: beside Storage and Verification, by SOP class
    UID. `tls`: the context of each new connection, mutual when the context says so; None = plain.
    `on_refused(peer, reason)` is told of associations rejected or aborted by us, of connections that ended within a
    message or were no DICOM, of TLS handshakes refused, and of C-STORE commands that name no instance. `connections`:
    shared with another door, whose limits then count for both together; stop both then by `stop_doors`. `engine`:
    ours, or pynetdicom's, which is slow, holds data sets in memory, and is there to compare.
    """

    def __init__(
        self,
        host: str,
        port: int,
        ae_title: str,
        calling_ae_titles: Sequence[str],
        *,
        max_associations: int,
        idle_timeout: float,
        max_instance_bytes: int,
        open_sink: Callable[[Peer], Sink],
        on_refused: Callable[[Peer, str], None] = lambda _peer, _reason: None,
        max_associations_per_address: int = 0,
        services: Mapping[str, Service] | None = None,
        tls: TlsContext | None = None,
        connections: Connections | None = None,
        senders: Sequence[Sender] = (),
        engine: Engine = "own",
    ) -> None:
        self._address = (host, port)
        self.connections = connections or Connections(max_associations, max_associations_per_address)
        self._tls = tls
        self._engine = engine
        self._terms = Terms(
            ae_title=ae_title.strip(),
            calling_ae_titles=frozenset(title.strip() for title in calling_ae_titles),
            idle_timeout=idle_timeout,
            artim=min(idle_timeout, ACSE_SECONDS),
            max_instance_bytes=max_instance_bytes,
            open_sink=open_sink,
            on_refused=on_refused,
            services=services or {},
            senders=tuple(senders),
        )
        self._server: OwnServer | ReferenceServer | None = None

    @property
    def port(self) -> int:
        """The port listened on; once started, also when 0 was asked."""
        return int(self._server.server_address[1]) if self._server else self._address[1]

    def start(self) -> None:
        """Listen and return. Raises `OSError` when the address cannot be bound, or `tls` makes no context."""
        if self._tls is not None:
            self._tls()
        server = OwnServer(self._address) if self._engine == "own" else self._reference()
        server.connections = self.connections
        server.terms = self._terms
        server.tls = self._tls
        self._server = server
        server.serve()

    def stop(self, grace: float = 10.0) -> None:
        """Accept no more, let associations end within `grace` seconds, then abort them."""
        self.stop_accepting()
        if not self.connections.wait_until_none(grace):
            self.connections.stop_all()
            self.connections.wait_until_none(self._terms.idle_timeout)

    def stop_accepting(self) -> None:
        """Close the listening socket; associations go on. Harmless when it is closed."""
        server, self._server = self._server, None
        if server is not None:
            server.stop_accepting()

    def _reference(self) -> ReferenceServer:
        _config.UNRESTRICTED_STORAGE_SERVICE = True  # process-wide: this process has no other SCP
        _config.LOG_HANDLER_LEVEL = "none"  # its standard handlers log what the peers send
        terms = self._terms
        entity = AE(terms.ae_title)  # requires no title: `Conversation` does, by our own rules
        entity.maximum_associations = (
            1_000_000  # `Connections` bounds them, without those that ask for nothing
        )
        entity.maximum_pdu_size = MAXIMUM_PDU
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.dimse_timeout = entity.network_timeout = terms.idle_timeout
        entity.acse_timeout = terms.artim
        for context in offered(terms.services):
            entity.add_supported_context(context.abstract_syntax, context.transfer_syntax)
        server: ReferenceServer = entity.make_server(
            self._address, server_class=ReferenceServer, request_handler=ReferenceHandler
        )
        return server


def stop_doors(doors: Sequence[DicomDoor], grace: float = 10.0) -> None:
    """Stop doors that share their connections: none accepts any more, and the `grace` seconds are those of all."""
    for door in doors:
        door.stop_accepting()
    for door in doors:
        door.stop(grace)
