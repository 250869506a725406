"""The DICOM door: Verification and Storage SCP (PS3.4 A, B) by pynetdicom; data sets are never decoded.

Every storage SOP class, private and unknown ones too, in the transfer syntax that the sender proposes first.
A C-STORE becomes one call of a `Sink`; its outcome becomes a status by the table of `status.py`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from pynetdicom import AE, _config
from pynetdicom.sop_class import Verification

from dicom_store.conversation import Conversation, Peer, Sink
from dicom_store.listener import MAXIMUM_PDU, AssociationHandler, DicomServer
from dicom_store.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

ACSE_SECONDS = 30.0  # for a request to come, at most (ARTIM, PS3.8 9.1.5)


class DicomDoor:
    """The SCP. An empty `calling_ae_titles` means nobody; `idle_timeout` in seconds, also for each PDU.

    Memory for data sets: at most `max_instance_bytes` for each association; more is aborted. `on_refused(peer,
    reason)` is told of associations rejected or aborted by us, of connections that ended within a message or
    were no DICOM, and of C-STORE commands that name no instance.
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
    ) -> None:
        self._address = (host, port)
        self._idle_timeout = idle_timeout
        self._max_instance_bytes = max_instance_bytes
        self._open_sink = open_sink
        self._on_refused = on_refused
        self._ae = AE(ae_title)
        self._ae.require_called_aet = True
        # pynetdicom reads an empty list as "anybody"; nobody can guess this title
        self._ae.require_calling_aet = list(calling_ae_titles) or [secrets.token_hex(8)]
        self._ae.maximum_associations = max_associations
        self._ae.maximum_pdu_size = MAXIMUM_PDU
        self._ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        self._ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        self._ae.dimse_timeout = self._ae.network_timeout = idle_timeout
        self._ae.acse_timeout = min(idle_timeout, ACSE_SECONDS)
        self._ae.add_supported_context(Verification)
        self._server: DicomServer | None = None

    @property
    def port(self) -> int:
        """The port listened on; once started, also when 0 was asked."""
        return int(self._server.server_address[1]) if self._server else self._address[1]

    def start(self) -> None:
        """Listen and return. Raises `OSError` when the address cannot be bound."""
        _config.UNRESTRICTED_STORAGE_SERVICE = True  # process-wide: this process has no other SCP
        _config.LOG_HANDLER_LEVEL = "none"  # its standard handlers log what the peers send
        server = self._ae.make_server(
            self._address, server_class=DicomServer, request_handler=AssociationHandler
        )
        server.idle_timeout = self._idle_timeout
        server.converse = lambda association: Conversation(
            association, self._open_sink, self._on_refused, self._max_instance_bytes
        )
        self._server = server
        server.serve()

    def stop(self, grace: float = 10.0) -> None:
        """Accept no more, let associations end within `grace` seconds, then abort them."""
        server, self._server = self._server, None
        if server is None:
            return
        server.stop_accepting()
        if not server.wait_until_idle(grace):
            for association in server.active_associations:
                association.abort()
            server.wait_until_idle(self._idle_timeout)
