"""The knobs of the outside world: the contract's table, order, consumption, refusal of anything else."""

from __future__ import annotations

import threading

import pytest

from drimbox.simulators.faults import KNOBS, Faults, allowed_faults

CONTRACT = {
    "dmp": "busy registry_error soap_fault http_500 drop_before_answer timeout garbage refuse_connection",
    "psc": "inactive expired http_503",
    "ans": "unreachable unsigned tampered wrong_signer expired_signer revoked_signer without_us truncated",
    "betterstack": "unreachable empty html http_500 garbage private everyone shrunk invalid_lines too_many"
    " truncated_json slow redirect grown",
    "syslog": "refuse_connection reset unconfirmed slow",
}


def written(name: str) -> str:
    return f"{name}:XDSRepositoryError" if name in ("registry_error", "soap_fault") else name


def test_the_table_is_the_contract() -> None:
    table = {where: {knob.name for knob in KNOBS if knob.where == where} for where in CONTRACT}
    assert table == {where: set(names.split()) for where, names in CONTRACT.items()}
    assert {knob.where for knob in KNOBS} == set(CONTRACT)


@pytest.mark.parametrize(("where", "name"), [(k.where, k.name) for k in KNOBS])
def test_every_fault_is_taken_as_often_as_it_was_armed(where: str, name: str) -> None:
    faults = Faults()
    faults.arm(where, written(name), 2)
    assert faults.peek(where, name) == written(name)
    assert [faults.take(where, name) for _ in range(3)] == [written(name), written(name), None]


def test_faults_come_in_the_order_they_were_armed() -> None:
    faults = Faults()
    faults.arm("dmp", "busy", 1)
    faults.arm("dmp", "soap_fault:DMPInvalidCertificate", 1)
    assert [faults.take("dmp"), faults.take("dmp")] == ["busy", "soap_fault:DMPInvalidCertificate"]


def test_places_do_not_share_faults() -> None:
    faults = Faults()
    faults.arm("ans", "unreachable", 1)
    assert faults.take("betterstack", "unreachable") is None
    assert faults.take("ans", "unreachable") == "unreachable"


def test_a_fault_of_the_connection_is_not_given_to_an_answer() -> None:
    faults = Faults()
    faults.arm("dmp", "refuse_connection", 1)
    faults.arm("dmp", "garbage", 1)
    assert faults.take("dmp") == "garbage"
    assert faults.armed()["dmp"] == ["refuse_connection"]


def test_arming_a_refusal_tells_the_listener_of_that_place_only() -> None:
    faults, told = Faults(), []
    faults.when_refusing("dmp", lambda: told.append("dmp"))
    faults.when_refusing("ans", lambda: told.append("ans"))
    faults.arm("dmp", "busy", 1)
    faults.arm("dmp", "refuse_connection", 1)
    assert told == ["dmp"]


@pytest.mark.parametrize(
    ("where", "fault", "times", "reason"),
    [
        ("moon", "busy", 1, "allowed are dmp, psc, ans, betterstack"),
        ("dmp", "meteor", 1, "registry_error:<code>"),
        ("dmp", "inactive", 1, "unknown fault of dmp"),
        ("dmp", "registry_error", 1, "registry_error:<code>"),
        ("dmp", "registry_error: ", 1, "registry_error:<code>"),
        ("dmp", "busy:x", 1, "unknown fault"),
        ("psc", 7, 1, "inactive, expired, http_503"),
        ("psc", "inactive", 0, "whole number"),
        ("psc", "inactive", True, "whole number"),
        ("psc", "inactive", "2", "whole number"),
    ],
)
def test_anything_else_is_refused_with_what_is_allowed(
    where: str, fault: str, times: int, reason: str
) -> None:
    faults = Faults()
    with pytest.raises(ValueError, match=reason):
        faults.arm(where, fault, times)
    assert not any(faults.armed().values())


def test_threads_never_take_the_same_fault() -> None:
    faults = Faults()
    taken: list[str | None] = []
    faults.arm("dmp", "busy", 200)
    threads = [
        threading.Thread(target=lambda: taken.extend(faults.take("dmp") for _ in range(100)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, taken)) == ["None"] * 200 + ["busy"] * 200


def test_allowed_faults_are_written_as_in_the_contract() -> None:
    assert allowed_faults("psc") == ["inactive", "expired", "http_503"]
    assert "soap_fault:<code>" in allowed_faults("dmp")
