"""Hostile documents under a real memory limit, in a process of their own: refused fast, nothing else happens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PRELUDE = """
import resource, time
from base64 import b64encode
from drimbox.domain.cda import read_cda
from drimbox.domain.hl7v2 import MessageRefused, read_message
from fixtures.reports import make_cda, make_oru
cda = make_cda()
read_cda(cda, time_zone="Europe/Paris")
"""
VERDICT = """
used = int(next(l for l in open("/proc/self/status") if l.startswith("VmSize")).split()[1]) * 1024
room = used + {room} * 1024 * 1024
resource.setrlimit(resource.RLIMIT_AS, (room, room))
begun = time.monotonic()
{act}
print(result, "%.3f" % (time.monotonic() - begun))
"""
READ = "result = read_cda(data, time_zone='Europe/Paris').violations[0].rule"
MESSAGE = """
try:
    read_message(data); result = "read"
except MessageRefused as refusal:
    result = refusal.code
"""
ENTITIES = """
laughs = b'<!DOCTYPE x [<!ENTITY a0 "haha">' + b"".join(
    b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 13)) + b"]>"
declared = cda.replace(b"<ClinicalDocument ", laughs + b"<ClinicalDocument ")
"""

# what is built, how it is read, megabytes of room, what is expected, seconds
CASES = {
    "billion laughs": (
        ENTITIES + "data = declared.replace(b'<title>', b'<title>&a12;')",
        READ, 64, "cda-doctype", 1.0,
    ),
    "billion laughs in an attribute": (
        ENTITIES + "data = declared.replace(b'\"FR\"', b'\"&a12;\"')",
        READ, 64, "cda-doctype", 1.0,
    ),
    "200 MB": ("data = cda.replace(b'</text>', b'A' * 200_000_000 + b'</text>')", READ, 32, "cda-too-large", 1.0),
    "70 MB in a message": (
        "payload = b64encode(cda.replace(b'</text>', b'A' * 70_000_000 + b'</text>'))\n"
        "data = make_oru(cda).replace(b64encode(cda), payload); del payload",
        MESSAGE, 500, "cda-too-large", 2.0,
    ),
    "a forest of elements": (
        "data = cda.replace(b'</text>', b'<a/>' * 15_000_000 + b'</text>')", READ, 64, "cda-too-complex", 2.0,
    ),
    "a wall of line ends": (
        "data = b'MSH|^~' + bytes([92]) + b'&|' + b'\\r' * 60_000_000", MESSAGE, 300, "hl7-200", 5.0,
    ),
    "a wall of segments": (
        "data = make_oru(cda) + b'NTE|1' + b'\\rNTE|' * 10_000_000", MESSAGE, 200, "hl7-100", 5.0,
    ),
    "a wall of fields": ("data = make_oru(cda) + b'NTE' + b'|' * 60_000_000 + b'\\r'", MESSAGE, 300, "read", 5.0),
    "a wall of repetitions": (
        "data = make_oru(cda).replace(b'PID|||', b'PID|||' + b'~' * 60_000_000)", MESSAGE, 600, "read", 10.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_refused_fast_within_little_memory(case: str) -> None:
    build, act, room, expected, seconds = CASES[case]
    script = PRELUDE + build + VERDICT.format(room=room, act=act)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result, took = done.stdout.split()
    assert result == expected
    assert float(took) < seconds * 3  # a busy machine


def test_external_entities_touch_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("TOP-SECRET", "utf-8")
    script = (
        PRELUDE
        + f"""
doctype = b'<!DOCTYPE x [<!ENTITY e SYSTEM "file://{secret}">]>'
data = cda.replace(b"<ClinicalDocument ", doctype + b"<ClinicalDocument ").replace(b"<title>", b"<title>&e;")
print(read_cda(data, time_zone="Europe/Paris"))
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "cda-doctype" in done.stdout
    assert "TOP-SECRET" not in done.stdout + done.stderr
