"""One worker process as the web process sees it: started when needed, given one job at a time, killed when it hangs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dicom_store.conversions import SourceUnreadable, TranscodeFailed

# What a worker, which reads hostile files, may know of its environment.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
_ROOT = Path(__file__).resolve().parent.parent


class Passing(TranscodeFailed):
    """It failed for a reason that is not in the file: another try may succeed."""


# Said by the worker of a failure -> what is raised of it; else `TranscodeFailed`.
_FAILURES: Mapping[str, type[TranscodeFailed]] = {"passing": Passing, "unreadable": SourceUnreadable}


class WorkerProcess:
    """A worker. `run` it from one task at a time. `memory_bytes`: of address space; `seconds`: per job."""

    def __init__(self, memory_bytes: int, seconds: float) -> None:
        self._memory_bytes = memory_bytes
        self._seconds = seconds
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, None while there is none."""
        return self._process.pid if self._process else None

    async def run(self, job: Mapping[str, Any]) -> int:
        """Do a job: bytes of content written. Raises `TranscodeFailed`; the process may not have survived it."""
        answer: dict[str, Any] | None = None
        try:
            process = self._process or await self._start()
            answer = await asyncio.wait_for(self._ask(process, job), self._seconds)
        except TimeoutError as error:
            raise TranscodeFailed("the conversion took too long") from error
        finally:
            if answer is None:  # late, dead, or nobody waits for it any more
                await self.stop()
        if "failed" in answer:
            kinds = [kind for name, kind in _FAILURES.items() if name in answer]
            raise (*kinds, TranscodeFailed)[0](answer["failed"])
        return int(answer["length"])

    async def _ask(self, process: asyncio.subprocess.Process, job: Mapping[str, Any]) -> dict[str, Any]:
        if process.stdin is None or process.stdout is None:
            raise Passing("the conversion process has no pipes")
        try:
            process.stdin.write(json.dumps(job).encode("utf-8") + b"\n")
            await process.stdin.drain()
            line = await process.stdout.readline()
        except OSError as error:
            raise Passing("the conversion process ended") from error
        if not line.endswith(b"\n"):
            raise Passing("the conversion process ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def _start(self) -> asyncio.subprocess.Process:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "dicom_store.transcode_worker"),
                *(str(self._memory_bytes), str(self._seconds)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                cwd="/",
                env={**environment, "PYTHONPATH": str(_ROOT), "OPENBLAS_NUM_THREADS": "1"},
            )
        except OSError as error:
            raise Passing("the conversion process cannot be started") from error
        return self._process

    async def stop(self) -> None:
        """Kill the process, if any, and wait for its end."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            process.kill()
        await process.communicate()
