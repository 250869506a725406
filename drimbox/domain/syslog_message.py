"""One syslog message of an audit message (RFC 5424), framed for a TLS connection (RFC 5425; PS3.15 A.6)."""

from __future__ import annotations

import re
from datetime import datetime

from drimbox.domain.audit_message import utc_stamp

PRIORITY = 10 * 8 + 5  # facility 10 (security/authorization), severity 5 (notice): PS3.15 A.6
APPLICATION = "drimbox"
IHE, DICOM = "IHE+RFC-3881", "DICOM+RFC3881"  # MSGID (trust-and-identity 7.1)
_BOM = b"\xef\xbb\xbf"  # RFC 5424 6.4: what follows is UTF-8
_LONGEST_HOST = 255  # RFC 5424 6.2.4
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")  # PRINTUSASCII is %d33-126


class NotDelivered(Exception):
    """The audit record repository did not confirm that it has all messages: none of them counts as sent."""


def syslog_message(xml: bytes, at: datetime, host: str, message_id: str) -> bytes:
    """The SYSLOG-MSG; `at` is the event's time, so that a message that is sent again is the same message.

    PROCID and STRUCTURED-DATA are nil (trust-and-identity 7.1).
    """
    name = _UNPRINTABLE.sub("_", host)[:_LONGEST_HOST] or "-"
    header = f"<{PRIORITY}>1 {utc_stamp(at)} {name} {APPLICATION} - {message_id} - "
    return header.encode("ascii") + _BOM + xml


def framed(message: bytes) -> bytes:
    """MSG-LEN SP SYSLOG-MSG (RFC 5425 4.3: octet counting)."""
    return b"%d " % len(message) + message
