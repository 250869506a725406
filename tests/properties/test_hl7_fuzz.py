"""Whatever a sender mangles, the reader reads it or refuses it, and the answer can be read (no unanswered frame).

Mutants of our generators' messages and, where they are, of the official ones. The soak makes 100,000.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from drimbox.domain.acknowledge import AckCode, MessageHeader, acknowledge
from drimbox.domain.hl7v2 import MessageRefused, peek_header, read_message
from drimbox.domain.hl7v2_grammar import TOLERANCES
from drimbox.domain.hl7v2_syntax import MAX_FIELDS, MAX_SEGMENTS, Unreadable, split_message
from fixtures.reports import ReportSpec, make_adt, make_cda, make_mdm, make_omi, make_oru, replacement_of

NOW = datetime(2026, 9, 14, 10, 15, tzinfo=UTC)
SPEC = ReportSpec()
NEXT = replacement_of(SPEC, "1.2.250.1.999.7.9.2")
CDA, REPLACEMENT = make_cda(SPEC), make_cda(NEXT)
OURS = (
    *(make_oru(CDA, order_control=control) for control in ("NW", "RO", "CA")),
    *(make_mdm(CDA, order_control=control) for control in ("NW", "CA")),
    make_mdm(REPLACEMENT, NEXT, order_control="RO"),
    make_omi(),
    make_omi(control="NW"),
    *(make_adt(event=event, feeding="IO") for event in ("A01", "A03", "A05")),
)
MARKS = b"|^~\\&\r\n"
CHARSETS = ("latin-1", "utf-16-le", "cp1252", "iso8859-15", "utf-8-sig", "cp500")
TOKENS = (
    b"\r", b"\n", b"\r\n", b"\x0b", b"\x1c\r", b"\x00", b"\\", b"\\X", b"\\X41\\", b"\\.br\\", b"&&&&", b"~" * 200,
    b"|" * 200, b"^" * 200, b'""', b"{{x}}", "\u02dc".encode(), b"\xc3", b"\xff\xfe", b"MSH|", b"ED", b"ZFA|", b"=",
    b"\rMSA|AA|1\r", b"ACK", b"GB18030", b"8859/15", b"<!DOCTYPE x>", b"%%%",
)  # fmt: skip
Mutation = Callable[[random.Random, bytes], bytes]


def place(rng: random.Random, data: bytes) -> int:
    """Half of the time in a segment taken at random: most of a message is its payload."""
    if rng.random() < 0.5 or not data:
        return rng.randrange(len(data) + 1)
    lines = [i for i, byte in enumerate(data[:4000]) if byte in b"\r\n"] or [0]
    tail = [len(data) - 1 - i for i, byte in enumerate(data[: -3000 - 1 : -1]) if byte in b"\r\n"]
    return min(len(data), rng.choice([0, *lines, *tail]) + rng.randrange(60))


def flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[min(place(rng, data), len(changed) - 1)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def delete(rng: random.Random, data: bytes) -> bytes:
    at = place(rng, data)
    return data[:at] + data[at + rng.choice((1, 2, 5, 40, 400)) :]


def duplicate(rng: random.Random, data: bytes) -> bytes:
    at, size = place(rng, data), rng.choice((1, 3, 30, 300))
    return data[: at + size] + data[at : at + size] * rng.choice((1, 1, 5)) + data[at + size :]


def splice(rng: random.Random, data: bytes) -> bytes:
    """Segments of another message, put in, exchanged, or in another order."""
    own, other = data.split(b"\r"), rng.choice(OURS).split(b"\r")
    if rng.random() < 0.3:
        rng.shuffle(own)
    at = rng.randrange(len(own) + 1)
    own[at : at + rng.randrange(3)] = rng.sample(other, min(len(other), rng.randrange(1, 4)))
    return b"\r".join(own)


def insert(rng: random.Random, data: bytes) -> bytes:
    at = place(rng, data)
    return data[:at] + rng.choice(TOKENS) + data[at:]


def exchange_marks(rng: random.Random, data: bytes) -> bytes:
    """A delimiter for another one (or for any character), here, or everywhere."""
    old, new = rng.choice(MARKS), rng.choice(MARKS + b"#-.A ;")
    if rng.random() < 0.3:
        return data.translate(bytes.maketrans(bytes([old, new]), bytes([new, old])))
    at = place(rng, data)
    return data[:at] + data[at:].replace(bytes([old]), bytes([new]), rng.choice((1, 1, 3)))


def truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: place(rng, data)]


def recode(rng: random.Random, data: bytes) -> bytes:
    return data.decode("utf-8", "replace").encode(rng.choice(CHARSETS), "replace")


MUTATIONS: tuple[Mutation, ...] = (flip, delete, duplicate, splice, insert, exchange_marks, truncate, recode)
WEIGHTS = (4, 3, 2, 3, 4, 3, 1, 1)


def mutant(rng: random.Random, data: bytes) -> bytes:
    for mutation in rng.choices(MUTATIONS, WEIGHTS, k=rng.choice((1, 1, 1, 2, 4))):
        data = mutation(rng, data)
    return data


def verdict(data: bytes, *, adt: bool) -> str:
    """AA, the slug of the refusal, or `silent` for an acknowledgement; the answer was read again."""
    peek_header(data)
    try:
        found = read_message(data, adt=adt)
    except MessageRefused as refusal:
        if refusal.header.is_acknowledgement:
            return "silent"
        answer = refusal.answer(now=NOW, control_id="DBX-1", application="DRIMBOX", facility="CENTRE")
        check_answer(answer, refusal.header, refusal.ack)
        return refusal.code
    assert {w.rule for w in found.warnings} <= set(TOLERANCES)
    assert len({w.rule for w in found.warnings}) == len(found.warnings)
    check_answer(acknowledge(found.header, code="AA", now=NOW, control_id="DBX-1"), found.header, "AA")
    return "AA"


def check_answer(answer: bytes, header: MessageHeader, code: AckCode) -> None:
    segments = split_message(answer).segments
    assert [s.name for s in segments] == ["MSH", "MSA", "ERR"][: 2 if code == "AA" else 3]
    assert (segments[1].text(1), segments[1].text(2)) == (code, header.control_id.strip())
    assert peek_header(answer).is_acknowledgement
    assert not set(answer) & {0x0A, 0x0B, 0x1C}


def messages_of(official: Path) -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for path in sorted((official / "hl7").iterdir()))


def run(count: int, seed: int, messages: tuple[bytes, ...], rare: tuple[bytes, ...] = ()) -> Counter[str]:
    """`rare`: large messages, one mutant of twelve."""
    rng = random.Random(seed)
    seen: Counter[str] = Counter()
    for number in range(count):
        base = rng.choice(rare if rare and number % 12 == 0 else messages)
        data = mutant(rng, base)
        try:
            seen[verdict(data, adt=rng.random() < 0.8)] += 1
        except Exception as error:
            error.add_note(f"mutant {number} of seed {seed}, {len(data)} bytes: {data[:300]!r}")
            raise
    return seen


def test_mutants_of_our_messages() -> None:
    seen = run(1_700, 1, OURS)
    assert seen.total() == 1_700
    assert seen["AA"] > 100
    assert len(seen) > 12  # the mutants reach every step, not only the first


def test_mutants_of_the_official_messages(official: Path) -> None:
    seen = run(300, 2, messages_of(official))
    assert seen.total() == 300
    assert len(seen) > 5


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [3])
def test_a_hundred_thousand_mutants(official: Path, seed: int) -> None:
    begun = time.perf_counter()
    seen = run(100_000, seed, OURS, messages_of(official))
    seconds = time.perf_counter() - begun
    print(
        f"\n{seen.total()} mutants in {seconds:.0f} s, {seen.total() / seconds:.0f}/s: {dict(seen.most_common())}"
    )
    assert seen.total() == 100_000
    assert seen["AA"] > 5_000


EIGHT_MIB = 8 * 1024 * 1024
ORU = make_oru(CDA)
# What stands before the wall, and what it is made of
INSIDE = [
    (before, brick)
    for before in (b"MSH|^~\\&|", b"PID|||", b"PRT||UC||", b"OBX|1|ED|", b"^Base64^", b"|DESTDMP^")
    for brick in (b"\r", b"\n", b"|", b"~", b"^", b"&", b"\\", b"\\X", b"\\.br\\", b"{{", b" ", b"A", b"\rA")
]
AROUND = [(b"", b"\r"), (b"", b"\n"), (b"", b" ")] + [
    (ORU, brick) for brick in (b"\r", b"\n", b"\r\n", b"|", b"~", b"NTE|1\r", b"\r\nAB")
]


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("before", "brick"), INSIDE + AROUND)
def test_eight_mebibytes_of_one_thing(before: bytes, brick: bytes) -> None:
    """Linear: the reader passes over any such wall in far less than the thirty seconds of its timeout."""
    data = ORU.replace(before, before + brick * (EIGHT_MIB // len(brick)), 1)
    assert verdict(data, adt=True)
    try:
        segments = split_message(data).segments
    except Unreadable:
        return
    assert len(segments) <= MAX_SEGMENTS
    assert all(len(segment.fields) <= MAX_FIELDS + 1 for segment in segments)
