"""pynetdicom as SCU, without its race: the reactor stands still while a request and its answer are under way.

The reactor of an association takes messages from the same queue as `send_c_store` and its like. These pause it, but
believe `_is_paused`, which is also true while the reactor is already past its checkpoint: on a busy machine it then
takes the answer ("Received unexpected C-STORE service message") and the sender waits for it in vain. There is no
public way to hold the reactor, so its checkpoint is exchanged for one that knows when the reactor stands at it
(pynetdicom 3.0, `Association._run_reactor`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LOOK_SECONDS = 0.05  # between two looks at whether the reactor has ended


class Checkpoint(threading.Event):
    """Where the reactor waits in each of its rounds while this is not set; `reached` once it does."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.set()

    def wait(self, timeout: float | None = None) -> bool:
        """As `threading.Event.wait`; nobody waits here without having said so."""
        while not self.is_set():
            self.reached.set()
            if not super().wait(timeout) and timeout is not None:
                return False
        return True


@contextmanager
def still_reactor(association: Any) -> Iterator[None]:
    """Hold the reactor of an established association for one request; it goes on afterwards.

    Returns at once where the reactor has ended: the request itself then says that the association is lost.
    """
    checkpoint = association._reactor_checkpoint
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = association._reactor_checkpoint = Checkpoint()
    checkpoint.reached.clear()
    checkpoint.clear()
    try:
        while not checkpoint.reached.wait(LOOK_SECONDS) and association.is_alive():
            pass
        yield
    finally:
        checkpoint.set()
