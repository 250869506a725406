"""`make bench`: every benchmark of `drimbox bench`, one JSON document; nothing here is asserted."""

from __future__ import annotations

import json
import sys

from drimbox.adapters import logs
from drimbox.entrypoints.bench import BENCHES, measure
from drimbox.entrypoints.demo_stage import StepFailed


def main() -> None:
    logs.configure("warning", "console", "bench")
    measured = []
    for name in BENCHES:
        try:
            measured.append(measure(name))
        except StepFailed as failure:
            sys.exit(f"{name}: {failure}")
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
