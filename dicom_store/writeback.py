"""Ask the kernel to begin writing pages to the disk now, instead of when they are synced.

A hint: it promises nothing, and a sync afterwards has less to wait for (facts/performance.md 3.5: the disk is what
limits). sync_file_range(2) of Linux, which Python does not have; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes

_WRITE = 2  # SYNC_FILE_RANGE_WRITE: begin with what is dirty, wait for nothing
_call = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _call is not None:
    _call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def begin_writeback(descriptor: int, offset: int, size: int) -> None:
    """Of `size` bytes at `offset`, as written so far. What goes wrong is for the sync to tell."""
    if _call is not None and size > 0:
        _call(descriptor, offset, size, _WRITE)
