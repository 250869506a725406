"""Whatever a name holds, the way it is written never decides; what it says always does (trust-and-identity 3.7)."""

from __future__ import annotations

import unicodedata
from collections import Counter

from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from whitelist.names import Match, attributes, compare

QUICK = settings(max_examples=150, deadline=None)
FRENCH = "abcdeglnorstuvzABCDELOR0123456789àâçéèêëîïôùûüÿœæÉÀÇ'-.&/"
TYPES = {
    "CN": NameOID.COMMON_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "L": NameOID.LOCALITY_NAME,
    "EMAILADDRESS": NameOID.EMAIL_ADDRESS,
}
WORDS = st.lists(st.text(FRENCH, min_size=1, max_size=8), min_size=1, max_size=3)
PAIRS = st.lists(st.tuples(st.sampled_from(list(TYPES)), WORDS), min_size=1, max_size=6)
# letters that mean something in a written name, and some that do not
HARD = st.text(',+;"\\=<># ()aFé0\u00a0', min_size=1, max_size=10)
HARD_PAIRS = st.lists(st.tuples(st.sampled_from(list(TYPES)), HARD), min_size=1, max_size=5)


def written(pairs: list[tuple[str, str]]) -> str:
    """By the RFC 4514 writer of cryptography."""
    return name_of(pairs).rfc4514_string()


def name_of(pairs: list[tuple[str, str]]) -> x509.Name:
    return x509.Name([x509.NameAttribute(TYPES[name], value) for name, value in pairs])


def meant(value: str) -> str:
    folded = unicodedata.normalize("NFC", value.casefold())
    folded = " ".join(folded.split())
    for parenthesis in "()":
        folded = parenthesis.join(part.strip(" ") for part in folded.split(parenthesis))
    return folded


@st.composite
def rewritten(draw: st.DrawFn, pairs: list[tuple[str, list[str]]]) -> str:
    """The same name: other order, case, composition, spaces, quotes, spelling of the types."""
    pieces = []
    for name, words in draw(st.permutations(pairs)):
        value = draw(st.sampled_from([" ", "  ", "\u00a0", " \t"])).join(words)
        value = draw(st.sampled_from([str, str.upper, str.lower, str.swapcase]))(value)
        value = unicodedata.normalize(draw(st.sampled_from(["NFC", "NFD"])), value)
        value = draw(st.sampled_from([value, f'"{value}"', f" {value} "]))
        kind = draw(st.sampled_from([name, name.lower(), f" {name} ", TYPES[name].dotted_string]))
        pieces.append(f"{kind}={value}")
    return draw(st.sampled_from([",", ", ", " ,\u00a0"])).join(pieces)


@QUICK
@given(st.data(), PAIRS)
def test_the_way_of_writing_never_changes_the_name(
    data: st.DataObject, pairs: list[tuple[str, list[str]]]
) -> None:
    plain = written([(name, " ".join(words)) for name, words in pairs])
    other = data.draw(rewritten(pairs))
    assert compare(plain, other) is Match.SAME
    assert compare(other, plain) is Match.SAME


@QUICK
@given(HARD_PAIRS)
def test_what_an_rfc_4514_writer_wrote_is_read_back(pairs: list[tuple[str, str]]) -> None:
    read = attributes(written(pairs))
    assert read == tuple((name, meant(value)) for name, value in reversed(pairs))
    assert compare(written(pairs), written(pairs)) is Match.SAME


@QUICK
@given(HARD_PAIRS, HARD_PAIRS)
def test_other_attributes_are_another_name(left: list[tuple[str, str]], right: list[tuple[str, str]]) -> None:
    def said(pairs: list[tuple[str, str]]) -> Counter[tuple[str, str]]:
        """An OU is its letters and digits."""
        values = [(name, meant(value)) for name, value in pairs]
        plain = [(n, "".join(filter(str.isalnum, v)) or v) if n == "OU" else (n, v) for n, v in values]
        return Counter(plain)

    match = compare(written(left), written(right))
    assert (match is Match.SAME) == (said(left) == said(right))
    assert match is compare(written(right), written(left))


@QUICK
@given(st.sampled_from("01234"), st.integers(10**8, 10**14 - 1), PAIRS)
def test_a_missing_type_digit_is_the_weaker_form(
    digit: str, number: int, pairs: list[tuple[str, list[str]]]
) -> None:
    rest = [(name, " ".join(words)) for name, words in pairs if name != "OU"]
    full, short = written([("OU", f"{digit}{number}"), *rest]), written([*rest, ("OU", str(number))])
    assert compare(full, short) is Match.WEAK
    assert compare(short, full) is Match.WEAK


@QUICK
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_is_judged(left: str, right: str) -> None:
    assert compare(left, right) is compare(right, left)
