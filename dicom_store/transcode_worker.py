"""The process that decodes: `python -m dicom_store.transcode_worker MEMORY_BYTES SECONDS_PER_JOB`.

One job per line of standard input, one answer per line of standard output, both JSON. It reads its source and
writes its result itself. It ends with its parent, and whatever a codec does to it is done to it alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dicom_store.conversions import SourceUnreadable, TranscodeFailed
from dicom_store.render_params import RenderParams, Viewport, Window

Job = Mapping[str, Any]
_PR_SET_PDEATHSIG = 1
_NICENESS = 5


def main(arguments: list[str]) -> int:
    """Serve jobs until standard input ends."""
    memory_bytes, seconds = int(arguments[0]), float(arguments[1])
    answers = _quiet_codecs()
    _confine(memory_bytes)
    for line in sys.stdin.buffer:
        _limit_processor(seconds)
        answers.write(json.dumps(_answer(json.loads(line))).encode("utf-8") + b"\n")
        answers.flush()
    return 0


def _quiet_codecs() -> Any:
    """Answers keep the standard output; what C libraries print goes nowhere."""
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    return answers


def _confine(memory_bytes: int) -> None:
    """Little priority, bounded memory, no core file (it would hold the image), no life without the parent."""
    for number in (signal.SIGINT, signal.SIGHUP):  # of the terminal, of the group: the parent decides
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICENESS)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def _limit_processor(seconds: float) -> None:
    """A job that computes without end is ended by the kernel, also when the parent is gone."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 2, hard))


def _answer(job: Job) -> dict[str, Any]:
    try:
        result = _JOBS[job["kind"]](_source(job), job)
        return {"length": _write(Path(job["out"]), result)}
    except SourceUnreadable as error:
        return {"failed": error.reason, "unreadable": True}
    except TranscodeFailed as error:
        return {"failed": error.reason}
    except OSError as error:
        return {"failed": f"the result cannot be written ({type(error).__name__})", "passing": True}
    except MemoryError:
        return {"failed": "more memory is needed than allowed"}
    except Exception as error:  # noqa: BLE001 - the door of the process: a codec may raise anything
        return {"failed": f"a defect met this file ({type(error).__name__})"}


def _source(job: Job) -> bytes:
    """The stored file, proven to be the one that was meant. Raises `SourceUnreadable`."""
    try:
        descriptor = os.open(job["path"], os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as segment:
            segment.seek(job["offset"])
            data = segment.read(job["length"])
    except OSError as error:
        raise SourceUnreadable(f"the stored file cannot be read ({type(error).__name__})") from error
    if hashlib.sha256(data).hexdigest() != job["sha256"]:
        raise SourceUnreadable("the stored file is damaged")
    return data


def _write(path: Path, result: bytes) -> int:
    """The result, then its SHA-256."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(result)
        out.write(hashlib.sha256(result).digest())
    return len(result)


def _transcode(data: bytes, job: Job) -> bytes:
    from dicom_store.transcode import transcode  # codecs are loaded by the job that needs them

    return transcode(data, job["target"], lossy_quality=job["quality"], max_decoded=job["max_decoded"])


def _render(data: bytes, job: Job) -> bytes:
    from dicom_store.rendering import render

    given = job["params"]
    viewport, window = given["viewport"], given["window"]
    params = RenderParams(
        media_type=given["media_type"],
        viewport=Viewport(**viewport) if viewport else None,
        window=Window(**window) if window else None,
        quality=given["quality"],
    )
    return render(data, job["frame"], params)


_JOBS: Mapping[str, Callable[[bytes, Job], bytes]] = {"transcode": _transcode, "render": _render}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
