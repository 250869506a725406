"""The `drimbox` command, as a program and as `python -m drimbox`.

The doors and the worker move pixels and never look at them: the libraries that do, which pydicom imports wherever they
are installed, cost each of them 40 MB, and stay out with some others. Conversions run in programs of their own.
"""

from __future__ import annotations

import signal
import sys

LEAN = frozenset({"serve", "dicom", "mllp", "web", "worker"})
# requests: for the sample data of pydicom; rich: for colours in tracebacks and help
NOT_FOR_DOORS = ("gdcm", "numpy", "PIL", "requests", "rich")


def main() -> None:
    """Entry of the console script."""
    if sys.argv[1:2] and sys.argv[1] in LEAN:
        _survive_hangups()
        for library in NOT_FOR_DOORS:
            sys.modules[library] = None  # type: ignore[assignment]  # for the import system: not to be had
        from drimbox.entrypoints.doors_cli import main as command
    else:
        from drimbox.entrypoints.cli import main as command
    command()


def _survive_hangups() -> None:
    """SIGHUP asks a door to renew its credentials: until it can, it reads them later anyway; it never ends one."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


if __name__ == "__main__":
    main()
