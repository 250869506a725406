"""A process that is told to stop stops, whatever its main thread was doing when the signal came."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drimbox.entrypoints.stop_signal import NUMBERS, StopSignal

# The signal comes at any moment of the waiting, other threads take the interpreter from the main one.
WAITING = """
import sys, threading
from drimbox.entrypoints.stop_signal import StopSignal
stop = StopSignal()
stop.catch()
def busy():
    while True:
        sum(range(1000))
threading.Thread(target=busy, daemon=True).start()
print("ready", flush=True)
while not stop.wait(float(sys.argv[1])):
    pass
"""


@pytest.fixture
def stop() -> Iterator[StopSignal]:
    before = {number: signal.getsignal(number) for number in (*NUMBERS, signal.SIGHUP)}
    made = StopSignal()
    made.catch()
    yield made
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_is_told_and_stays_told(stop: StopSignal, number: signal.Signals) -> None:
    assert not stop.wait(0)
    os.kill(os.getpid(), number)
    assert stop.wait(5)
    assert stop.wait()


def test_a_thread_tells_it_as_often_as_it_likes(stop: StopSignal) -> None:
    def tell() -> None:
        for _ in range(100_000):
            stop.tell()

    threading.Thread(target=tell).start()
    assert stop.wait(5)


def test_a_hangup_is_passed_on_and_ends_nothing(stop: StopSignal) -> None:
    heard = []
    stop._on_hangup = lambda: heard.append(1)
    os.kill(os.getpid(), signal.SIGHUP)
    assert not stop.wait(0.2)
    assert heard == [1]
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.wait(5)
    assert heard == [1], "who ends renews nothing"


def test_a_hangup_kills_no_door_that_is_only_starting() -> None:
    command = [sys.executable, "-m", "drimbox", "worker", "--config", "/nonexistent"]
    door = subprocess.Popen(command, stderr=subprocess.PIPE)
    while not ignores_hangups(door.pid):  # its first act, before it loads anything
        assert door.poll() is None
    while door.poll() is None:
        door.send_signal(signal.SIGHUP)
        time.sleep(0.01)
    assert door.stderr is not None
    with door.stderr:
        assert b"No such file" in door.stderr.read()
    assert door.returncode == 1


def ignores_hangups(pid: int) -> bool:
    (mask,) = re.findall(r"^SigIgn:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text("ascii"), re.M)
    return bool(int(mask, 16) & 1 << signal.SIGHUP - 1)


def test_another_signal_says_nothing(stop: StopSignal) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    os.kill(os.getpid(), signal.SIGUSR1)
    began = time.monotonic()
    assert not stop.wait(0.2)
    assert time.monotonic() - began >= 0.2
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("pause", ["0.0005", "1000"])
def test_it_comes_at_any_moment(pause: str) -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", WAITING, pause], stdout=subprocess.PIPE) for _ in range(2)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
    assert [process.wait(20) for process in running] == [0, 0]
    for process in running:
        assert process.stdout is not None
        process.stdout.close()
