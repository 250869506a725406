"""Memory that is free goes back to the system: glibc keeps an arena for each thread, and what many clients took.

Without effect on another C library.
"""

from __future__ import annotations

import ctypes
import threading

_ARENA_MAX, _MMAP_THRESHOLD = -8, -3  # M_ARENA_MAX, M_MMAP_THRESHOLD of malloc.h
ARENAS = 2
LARGE_BYTES = 256 * 1024
TRIM_SECONDS = 20.0


def share_arenas() -> None:
    """Few arenas for all threads, from now on: each keeps what its threads once needed."""
    if (mallopt := _of_libc("mallopt")) is not None:
        mallopt(_ARENA_MAX, ARENAS)


def keep_large_apart() -> None:
    """Buffers of `LARGE_BYTES` and more are mappings of their own: they take what is used of them, and go at once.

    For few buffers that last; to map one costs more than to take it from an arena, as glibc learns to do otherwise.
    """
    if (mallopt := _of_libc("mallopt")) is not None:
        mallopt(_MMAP_THRESHOLD, LARGE_BYTES)


def trim_now_and_then(stopping: threading.Event) -> None:
    """Give back what is free until told to stop, in a thread of its own: a few ms, without the interpreter's lock."""
    trim = _of_libc("malloc_trim")
    if trim is None:
        return

    def run() -> None:
        while not stopping.wait(TRIM_SECONDS):
            trim(0)

    threading.Thread(target=run, name="trim", daemon=True).start()


def _of_libc(name: str) -> ctypes._NamedFuncPointer | None:
    return getattr(ctypes.CDLL(None), name, None)
