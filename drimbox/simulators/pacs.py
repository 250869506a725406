"""The department's PACS or modality: pushes files by C-STORE, byte for byte as they are."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydicom.filereader import read_file_meta_info
from pynetdicom import AE, _config, evt

from drimbox.simulators.still_reactor import still_reactor

MOST_CONTEXTS = 128  # presentation context identifiers are odd numbers of one octet (PS3.8 9.3.2.2)


class PushFailedError(Exception):
    """The peer refused the association or went away; `statuses` are those received before."""

    def __init__(self, reason: str, statuses: Sequence[int]) -> None:
        super().__init__(reason)
        self.statuses = list(statuses)


def push_study(
    files: Sequence[Path],
    host: str,
    port: int,
    called: str,
    calling: str,
    *,
    timeout: float = 30,
) -> list[int]:
    """Send Part 10 files in order; the C-STORE status of each (PS3.4 B.2.3), 0x0000 = success.

    Proposes one presentation context per SOP class and transfer syntax found, so that nothing is converted.
    Raises `PushFailedError` when the association is refused, a context is not accepted or the peer goes away.
    """
    # the data set is read from the file as it is, never decoded; concerns C-STORE of a path only
    _config.STORE_SEND_CHUNKED_DATASET = True
    statuses: list[int] = []
    for batch, contexts in _batches(files):
        association = _associate(contexts, (host, port), (called, calling), timeout)
        if association is None:
            raise PushFailedError("association refused, or nobody listens", statuses)
        try:
            for file in batch:
                statuses.append(_status(association, file, statuses))
        finally:
            if association.is_established:
                association.release()
    return statuses


def _associate(
    contexts: dict[tuple[str, str], None], address: tuple[str, int], titles: tuple[str, str], timeout: float
) -> Any:
    """An established association, or None. `titles`: called, calling."""
    entity = AE(ae_title=titles[1])
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = timeout
    entity.connection_timeout = timeout
    for sop_class, transfer_syntax in contexts:
        entity.add_requested_context(sop_class, transfer_syntax)
    association = entity.associate(*address, ae_title=titles[0], evt_handlers=[(evt.EVT_CONN_OPEN, _at_once)])
    return association if association.is_established else None


def _at_once(event: Any) -> None:
    """Without Nagle's algorithm: the parts of one message would wait for the peer's delayed acknowledgement."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _status(association: Any, file: Path, statuses: list[int]) -> int:
    try:
        with still_reactor(association):
            answer = association.send_c_store(file)
    except (ValueError, RuntimeError) as error:  # no accepted context; association lost
        raise PushFailedError(str(error), statuses) from error
    if "Status" not in answer:
        raise PushFailedError("the peer gave no answer", statuses)
    return int(answer.Status)


def _batches(files: Sequence[Path]) -> Iterator[tuple[list[Path], dict[tuple[str, str], None]]]:
    """Consecutive files whose contexts fit in one association."""
    batch: list[Path] = []
    contexts: dict[tuple[str, str], None] = {}
    for file in files:
        meta = read_file_meta_info(file)
        context = (str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID))
        if context not in contexts and len(contexts) == MOST_CONTEXTS:
            yield batch, contexts
            batch, contexts = [], {}
        batch.append(file)
        contexts[context] = None
    if batch:
        yield batch, contexts
