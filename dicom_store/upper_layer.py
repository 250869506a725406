"""The DICOM upper layer as data (PS3.8 9): PDUs and PDVs to and from bytes, the acceptor's part of its state table.

We never ask for a release ourselves, so the states of a requestor and those of a release collision (Sta4, 5, 7, 9 to
12) cannot be entered and have no rows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from enum import Enum, IntEnum

MAXIMUM_PDU = 131072  # advertised: larger gains nothing (facts/performance.md 3.3)
PDU_BYTES = 1024 * 1024  # accepted of an A-ASSOCIATE-RQ: 128 contexts of 38 syntaxes are 200 KB

PDU_HEADER = struct.Struct(">BxL")  # type, length of what follows (PS3.8 9.3.1)
PDV_HEADER = struct.Struct(
    ">LBB"
)  # length of the last two fields and the value, context, control (PS3.8 9.3.5.1)
_LAST_FIELDS = struct.Struct(">BBLBBBB")
COMMAND, LAST = 0x01, 0x02  # bits of the message control header (PS3.8 E.2)

SERVICE_USER, SERVICE_PROVIDER = 0, 2  # source of an A-ABORT (PS3.8 9.3.8)


class PduType(IntEnum):
    """First byte of a PDU (PS3.8 9.3.1)."""

    A_ASSOCIATE_RQ = 1
    A_ASSOCIATE_AC = 2
    A_ASSOCIATE_RJ = 3
    P_DATA_TF = 4
    A_RELEASE_RQ = 5
    A_RELEASE_RP = 6
    A_ABORT = 7


class Reason(IntEnum):
    """Reason of an A-ABORT of the service provider; not significant for the service user (PS3.8 9.3.8)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PDU_PARAMETER = 4
    UNEXPECTED_PDU_PARAMETER = 5
    INVALID_PDU_PARAMETER = 6


class State(Enum):
    """Where an acceptor can be (PS3.8 9.2.2)."""

    IDLE = "Sta1"
    AWAITING_REQUEST = "Sta2"
    AWAITING_OUR_WORD = "Sta3"
    ESTABLISHED = "Sta6"
    AWAITING_OUR_RELEASE = "Sta8"
    AWAITING_CLOSE = "Sta13"


class Event(Enum):
    """What can happen to an acceptor (PS3.8 9.2.1)."""

    ACCEPTED_CAME = "Evt3"
    REJECTED_CAME = "Evt4"
    CONNECTED = "Evt5"
    REQUEST_CAME = "Evt6"
    WE_ACCEPT = "Evt7"
    WE_REJECT = "Evt8"
    WE_SEND_DATA = "Evt9"
    DATA_CAME = "Evt10"
    RELEASE_CAME = "Evt12"
    RELEASED_CAME = "Evt13"
    WE_RELEASE = "Evt14"
    WE_ABORT = "Evt15"
    ABORT_CAME = "Evt16"
    CLOSED = "Evt17"
    ARTIM_EXPIRED = "Evt18"
    INVALID_CAME = "Evt19"


class Action(Enum):
    """What is to be done (PS3.8 9.2.2): the ones of an acceptor."""

    START_ARTIM = "AE-5"
    READ_REQUEST = "AE-6"
    SEND_ACCEPT = "AE-7"
    SEND_REJECT = "AE-8"
    SEND_DATA = "DT-1"
    TAKE_DATA = "DT-2"
    TAKE_RELEASE = "AR-2"
    SEND_RELEASED = "AR-4"
    STOP_ARTIM = "AR-5"
    SEND_DATA_STILL = "AR-7"
    ABORT_AS_USER = "AA-1"
    CLOSE = "AA-2"
    ABORTED = "AA-3"
    CUT = "AA-4"
    NEVER_REQUESTED = "AA-5"
    IGNORE = "AA-6"
    ABORT_AGAIN = "AA-7"
    ABORT_AS_PROVIDER = "AA-8"


_ENDS = State.AWAITING_CLOSE


def _rows() -> Iterator[tuple[State, Event, Action, State]]:
    """PS3.8 Table 9-10, column by column: state, event, action, next state."""
    yield State.IDLE, Event.CONNECTED, Action.START_ARTIM, State.AWAITING_REQUEST
    yield State.AWAITING_REQUEST, Event.REQUEST_CAME, Action.READ_REQUEST, State.AWAITING_OUR_WORD
    for event in (Event.ACCEPTED_CAME, Event.REJECTED_CAME, Event.DATA_CAME, Event.RELEASE_CAME,
                  Event.RELEASED_CAME, Event.INVALID_CAME):  # fmt: skip
        yield State.AWAITING_REQUEST, event, Action.ABORT_AS_USER, _ENDS
    yield State.AWAITING_REQUEST, Event.ABORT_CAME, Action.CLOSE, State.IDLE
    yield State.AWAITING_REQUEST, Event.CLOSED, Action.NEVER_REQUESTED, State.IDLE
    yield State.AWAITING_REQUEST, Event.ARTIM_EXPIRED, Action.CLOSE, State.IDLE
    yield State.AWAITING_OUR_WORD, Event.WE_ACCEPT, Action.SEND_ACCEPT, State.ESTABLISHED
    yield State.AWAITING_OUR_WORD, Event.WE_REJECT, Action.SEND_REJECT, _ENDS
    yield State.ESTABLISHED, Event.WE_SEND_DATA, Action.SEND_DATA, State.ESTABLISHED
    yield State.ESTABLISHED, Event.DATA_CAME, Action.TAKE_DATA, State.ESTABLISHED
    yield State.ESTABLISHED, Event.RELEASE_CAME, Action.TAKE_RELEASE, State.AWAITING_OUR_RELEASE
    yield State.AWAITING_OUR_RELEASE, Event.WE_SEND_DATA, Action.SEND_DATA_STILL, State.AWAITING_OUR_RELEASE
    yield State.AWAITING_OUR_RELEASE, Event.WE_RELEASE, Action.SEND_RELEASED, _ENDS
    for state in (State.AWAITING_OUR_WORD, State.ESTABLISHED, State.AWAITING_OUR_RELEASE):
        for event in (Event.ACCEPTED_CAME, Event.REJECTED_CAME, Event.REQUEST_CAME, Event.RELEASED_CAME,
                      Event.INVALID_CAME):  # fmt: skip
            yield state, event, Action.ABORT_AS_PROVIDER, _ENDS
        yield state, Event.WE_ABORT, Action.ABORT_AS_USER, _ENDS
        yield state, Event.ABORT_CAME, Action.ABORTED, State.IDLE
        yield state, Event.CLOSED, Action.CUT, State.IDLE
    for state in (State.AWAITING_OUR_WORD, State.AWAITING_OUR_RELEASE):
        yield state, Event.DATA_CAME, Action.ABORT_AS_PROVIDER, _ENDS
        yield state, Event.RELEASE_CAME, Action.ABORT_AS_PROVIDER, _ENDS
    for event in (Event.ACCEPTED_CAME, Event.REJECTED_CAME, Event.DATA_CAME, Event.RELEASE_CAME,
                  Event.RELEASED_CAME):  # fmt: skip
        yield State.AWAITING_CLOSE, event, Action.IGNORE, _ENDS
    for event in (Event.REQUEST_CAME, Event.INVALID_CAME):
        yield State.AWAITING_CLOSE, event, Action.ABORT_AGAIN, _ENDS
    yield State.AWAITING_CLOSE, Event.ABORT_CAME, Action.CLOSE, State.IDLE
    yield State.AWAITING_CLOSE, Event.CLOSED, Action.STOP_ARTIM, State.IDLE
    yield State.AWAITING_CLOSE, Event.ARTIM_EXPIRED, Action.CLOSE, State.IDLE


TABLE: Mapping[tuple[State, Event], tuple[Action, State]] = {
    (state, event): (action, then) for state, event, action, then in _rows()
}

# PDU that came → event, and the lengths that it may have.
_ANY = range(PDU_BYTES + 1)
_FOUR = range(4, 5)
ARRIVALS: Mapping[int, tuple[Event, range]] = {
    PduType.A_ASSOCIATE_RQ: (Event.REQUEST_CAME, range(68, PDU_BYTES + 1)),
    PduType.A_ASSOCIATE_AC: (Event.ACCEPTED_CAME, _ANY),
    PduType.A_ASSOCIATE_RJ: (Event.REJECTED_CAME, _ANY),
    PduType.P_DATA_TF: (Event.DATA_CAME, range(PDV_HEADER.size, MAXIMUM_PDU + 1)),
    PduType.A_RELEASE_RQ: (Event.RELEASE_CAME, _FOUR),
    PduType.A_RELEASE_RP: (Event.RELEASED_CAME, _FOUR),
    PduType.A_ABORT: (Event.ABORT_CAME, _ANY),
}


class Abort(Exception):
    """The association has to end by an A-ABORT of ours; the text says why, without what the peer sent."""

    def __init__(self, text: str, source: int = SERVICE_USER, reason: int = Reason.NOT_SPECIFIED) -> None:
        super().__init__(text)
        self.text = text
        self.source = source
        self.reason = reason


def invalid(text: str) -> Abort:
    """A PDU whose fields cannot be: A-ABORT of the service provider, invalid-PDU-parameter value."""
    return Abort(text, SERVICE_PROVIDER, Reason.INVALID_PDU_PARAMETER)


def unexpected(text: str) -> Abort:
    """A PDV that cannot stand here: A-ABORT of the service provider, unexpected-PDU parameter."""
    return Abort(text, SERVICE_PROVIDER, Reason.UNEXPECTED_PDU_PARAMETER)


def event_of(pdu_type: int, length: int) -> tuple[Event, Abort]:
    """What a PDU header means for the state table, and the abort for the case that the table wants one.

    `length`: as announced, in bytes. A type that is none or a length that cannot be is `INVALID_CAME`.
    """
    known = ARRIVALS.get(pdu_type)
    if known is None:
        text = f"a PDU of no known type: {pdu_type}"
        return Event.INVALID_CAME, Abort(text, SERVICE_PROVIDER, Reason.UNRECOGNIZED_PDU)
    event, lengths = known
    name = PduType(pdu_type).name.replace("_", "-")
    if length not in lengths:
        return Event.INVALID_CAME, invalid(f"{name} of {length} bytes announced")
    return event, Abort(f"an unexpected {name}", SERVICE_PROVIDER, Reason.UNEXPECTED_PDU)


def abort_pdu(source: int, reason: int) -> bytes:
    """A-ABORT (PS3.8 9.3.8)."""
    return _LAST_FIELDS.pack(PduType.A_ABORT, 0, 4, 0, 0, source, reason if source == SERVICE_PROVIDER else 0)


def reject_pdu(result: int, source: int, reason: int) -> bytes:
    """A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return _LAST_FIELDS.pack(PduType.A_ASSOCIATE_RJ, 0, 4, 0, result, source, reason)


def release_pdu() -> bytes:
    """A-RELEASE-RP (PS3.8 9.3.7)."""
    return _LAST_FIELDS.pack(PduType.A_RELEASE_RP, 0, 4, 0, 0, 0, 0)


def message_pdus(context_id: int, command: bytes, data_set: bytes | None, maximum: int) -> bytes:
    """A DIMSE message as P-DATA-TF PDUs, one PDV in each, to be sent at once.

    `maximum`: of the peer, for what follows a PDU header, in bytes; 0 = none (PS3.8 D.1.1). Fragments are even, as
    command and data sets are: DCMTK takes no odd ones.
    """
    room = min(maximum or MAXIMUM_PDU, MAXIMUM_PDU) - PDV_HEADER.size
    room -= room % 2
    parts = [(command, COMMAND)] if data_set is None else [(command, COMMAND), (data_set, 0)]
    return b"".join(pdu for part, kind in parts for pdu in _fragments(context_id, part, kind, room))


def _fragments(context_id: int, part: bytes, kind: int, room: int) -> Iterator[bytes]:
    for start in range(0, max(len(part), 1), room):
        value = part[start : start + room]
        control = kind | (LAST if start + room >= len(part) else 0)
        yield PDU_HEADER.pack(PduType.P_DATA_TF, PDV_HEADER.size + len(value))
        yield PDV_HEADER.pack(len(value) + 2, context_id, control)
        yield value
