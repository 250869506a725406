"""The rare services (`sink.Service`) on the reference engine: pynetdicom's N-ACTION and N-EVENT-REPORT."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset

from dicom_store.failure import log_failure
from dicom_store.header import ENCODINGS
from dicom_store.scanner import Encoding
from dicom_store.sink import Peer, Service

log = logging.getLogger(__name__)

MOST_BYTES = 8 * 1024 * 1024  # of the data set of a request
_PROCESSING_FAILURE, _NO_SUCH_CLASS, _RESOURCES = 0x0110, 0x0118, 0x0213  # PS3.7 C.5


class ReferenceAssociation:
    """What a service may do with an association of pynetdicom; from another thread than the association's."""

    def __init__(self, association: Any, transfer_syntax: str) -> None:
        self._association = association
        self._encoding = ENCODINGS.get(transfer_syntax, Encoding())

    def report(self, sop_class_uid: str, sop_instance_uid: str, event_type: int, data_set: bytes) -> bool:
        """See `sink.Association`."""
        information = read_dataset(
            DicomBytesIO(data_set), self._encoding.implicit_vr, not self._encoding.big_endian
        )
        try:
            status, _ = self._association.send_n_event_report(
                information, event_type, sop_class_uid, sop_instance_uid
            )
        except (RuntimeError, ValueError) as error:  # it has ended, or has no such context
            log.info("no report on this association: %s", type(error).__name__)
            return False
        return "Status" in status and status.Status == 0


def action_handler(
    services: Mapping[str, Service], peer: Callable[[], Peer]
) -> Callable[[Any], tuple[Dataset | int, None]]:
    """The handler of EVT_N_ACTION: one call of the service of the requested SOP class."""

    def on_action(event: Any) -> tuple[Dataset | int, None]:
        request, transfer_syntax = event.request, str(event.context.transfer_syntax)
        command = {
            "RequestedSOPClassUID": str(request.RequestedSOPClassUID),
            "RequestedSOPInstanceUID": str(request.RequestedSOPInstanceUID),
            "ActionTypeID": request.ActionTypeID,
            "MessageID": request.MessageID,
        }
        data_set = request.ActionInformation.getvalue() if request.ActionInformation else b""
        service = services.get(command["RequestedSOPClassUID"])
        if service is None:
            return _NO_SUCH_CLASS, None
        if len(data_set) > MOST_BYTES:
            return _RESOURCES, None
        association = ReferenceAssociation(event.assoc, transfer_syntax)
        try:
            answer = service.handle(command, data_set, transfer_syntax, peer(), association)
        except Exception as error:  # noqa: BLE001 - the door: an answer to the peer and a log, never silence
            log_failure(log, "N-ACTION failed", error, action="service_failed")
            return _PROCESSING_FAILURE, None
        return _status(answer.status, str(answer.elements.get("ErrorComment", ""))), None

    return on_action


def _status(code: int, comment: str) -> Dataset | int:
    if not comment:
        return code
    status = Dataset()
    status.Status = code
    status.ErrorComment = comment
    return status
