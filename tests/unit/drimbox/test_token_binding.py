"""Certificate-bound tokens: both encodings of the field, and what fits neither."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from drimbox.domain.token_binding import Binding, NotBound, check_binding

DER = b"a certificate"
DIGEST = hashlib.sha256(DER)
RFC = base64.urlsafe_b64encode(DIGEST.digest()).rstrip(b"=").decode()
ANS = base64.b64encode(DIGEST.hexdigest().encode()).decode()


@pytest.mark.parametrize(("text", "form", "length"), [(RFC, Binding.RFC8705, 43), (ANS, Binding.ANS, 88)])
def test_both_encodings_fit(text: str, form: Binding, length: int) -> None:
    assert len(text) == length
    assert check_binding({"x5t#S256": text}, DER, "require") is form


def test_the_encoding_of_the_ans_is_that_of_its_sample() -> None:
    """trust-and-identity 1.6: decoding gives 64 hexadecimal characters."""
    assert base64.b64decode(ANS).decode() == DIGEST.hexdigest()


@pytest.mark.parametrize(
    "confirmation",
    [
        {"x5t#S256": ""},
        {"x5t#S256": base64.urlsafe_b64encode(DIGEST.digest()).decode()},  # padded
        {"x5t#S256": DIGEST.hexdigest()},
        {"x5t#S256": base64.b64encode(DIGEST.hexdigest().upper().encode()).decode()},
        {"x5t#S256": "é"},
        {"x5t#S256": [RFC]},
        {"x5t#S256": None},
        {"jkt": RFC},  # another method (RFC 9449), which nobody showed us
        {},
        RFC,
        False,
    ],
)
@pytest.mark.parametrize("policy", ["require", "if-available"])
def test_nothing_else_fits(confirmation: Any, policy: Any) -> None:
    with pytest.raises(NotBound):
        check_binding(confirmation, DER, policy)


@pytest.mark.parametrize("text", [RFC, ANS])
def test_another_certificate_does_not_fit(text: str) -> None:
    with pytest.raises(NotBound, match="another certificate"):
        check_binding({"x5t#S256": text}, DER + b"!", "if-available")


@pytest.mark.parametrize("certificate", [None, DER])
@pytest.mark.parametrize("policy", ["require", "if-available"])
def test_a_token_without_cnf_is_bound_to_nobody(certificate: bytes | None, policy: Any) -> None:
    assert check_binding(None, certificate, policy) is Binding.UNBOUND


def test_without_a_certificate_it_is_the_policy_that_decides() -> None:
    assert check_binding({"x5t#S256": RFC}, None, "if-available") is Binding.UNCHECKED
    with pytest.raises(NotBound, match="no client certificate"):
        check_binding({"x5t#S256": RFC}, None, "require")
