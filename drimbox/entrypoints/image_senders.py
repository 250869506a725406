"""`[[dicom.senders]]` as the DICOM door takes them: for the door, and for the look at it."""

from __future__ import annotations

from ipaddress import ip_network

from dicom_store.senders import Sender
from drimbox.settings.dicom import DicomSettings


def make_image_senders(room: DicomSettings) -> tuple[Sender, ...]:
    """Who may send images only from where, or with what, its rows say."""
    return tuple(
        Sender(
            one.ae_title,
            tuple(ip_network(address, strict=False) for address in one.addresses),
            frozenset(one.certificate_sha256),
        )
        for one in room.senders
    )
