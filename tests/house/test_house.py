"""The house keeps its own rules: layers, budgets, signs at the doors, one writer of state, true documents."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import healthcheck
import whitelist

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("drimbox", "dicom_store", "whitelist", "healthcheck")
# Modules that are tables, laid beside a standard or a row per setting: they may be long.
TABLES = {"drimbox/domain/xds/vocabulary.py"}
FORBIDDEN_NAMES = {"utils", "helpers", "common", "manager", "service", "misc"}
# What a pure file may never import: the world.
WORLD = {
    "socket",
    "requests",
    "sqlalchemy",
    "subprocess",
    "threading",
    "os",
    "time",
    "random",
    "secrets",
    "uuid",
    "flask",
}
PURE = [
    *sorted((ROOT / "drimbox/domain").rglob("*.py")),
    ROOT / "drimbox/flow/backup_plan.py",
    *(
        ROOT / "dicom_store" / f"{name}.py"
        for name in (
            "instance",
            "study",
            "paths",
            "negotiation",
            "multipart",
            "status",
            "header",
            "rejection",
            *("command_set", "commitment", "references", "senders", "upper_layer"),
            *("body", "byte_range", "conversions", "dicom_json", "frame_representation", "frame_table"),
            *("json_values", "part10", "query", "query_attributes", "render_params", "representation"),
            *("resources", "search_result", "series_layout", "series_template"),
            *("transcode_queue", "transfer_syntax", "vr_dictionary"),
        )
    ),
    *(
        ROOT / f"healthcheck/{name}.py"
        for name in ("client_address", "ip_filter", "ip_list", "probe", "report")
    ),
    *(
        ROOT / "whitelist" / f"{name}.py"
        for name in (
            *(
                "algorithms",
                "attempt",
                "bundle_texts",
                "certificate",
                "chain",
                "decision",
                "document",
                "errors",
            ),
            *("finding", "names", "progress", "proof", "proof_rules", "record", "revocation", "schedule"),
            *("signature", "signed_info", "status", "steps", "tree", "trust", "verdict", "xades_check"),
            "xades_signer",
        )
    ),
]


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_functions_are_short() -> None:
    sizes = {
        f"{name_of(path)}:{function.name}": length(function)
        for path in modules()
        if "versions" not in path.parts  # a migration is a table
        for function in functions(ast.parse(path.read_text("utf-8")))
    }
    ordered = sorted(sizes.values())
    assert statistics.median(ordered) <= 9
    assert ordered[int(len(ordered) * 0.95)] <= 30
    assert [name for name, size in sizes.items() if size > 60] == []


def says_what_it_expects(test: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """An assertion in its own body, stories within it included; what a function elsewhere asserts does not count."""
    return any(
        isinstance(node, ast.Assert)
        or (isinstance(node, ast.Attribute) and ast.unparse(node) in ("pytest.raises", "pytest.warns"))
        for node in ast.walk(test)
    )


def test_every_test_says_what_it_expects() -> None:
    silent = [
        f"{name_of(path)}:{function.lineno} {function.name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for function in functions(ast.parse(path.read_text("utf-8")))
        if function.name.startswith("test_") and not says_what_it_expects(function)
    ]
    assert silent == []


def test_modules_are_short() -> None:
    long = {name_of(p): n for p in modules() if (n := len(p.read_text("utf-8").splitlines())) > 300}
    assert {name: n for name, n in long.items() if name not in TABLES} == {}


def test_no_room_is_a_drawer() -> None:
    assert [name_of(p) for p in modules() if p.stem in FORBIDDEN_NAMES] == []


@pytest.mark.parametrize("path", [p for p in modules() if p.name == "__init__.py"], ids=name_of)
def test_init_is_a_sign_at_the_door(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    docstring = ast.get_docstring(tree)
    if "migrations" in path.parts:
        return
    assert docstring
    assert len(docstring.splitlines()) <= 10
    assert len(tree.body) == 1


@pytest.mark.parametrize("path", PURE, ids=name_of)
def test_pure_files_do_not_touch_the_world(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.split(".")[0])
    assert imported & WORLD == set()


def test_only_the_trace_assigns_a_state() -> None:
    guilty = []
    for path in modules():
        if name_of(path) == "drimbox/flow/trace.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AugAssign | ast.AnnAssign)
                else []
            )
            flat = [
                t for target in targets for t in (target.elts if isinstance(target, ast.Tuple) else [target])
            ]
            if any(isinstance(t, ast.Attribute) and t.attr == "state" for t in flat):
                guilty.append(f"{name_of(path)}:{node.lineno}")
    assert guilty == []


def test_only_flow_commits() -> None:
    """One transaction opens in flow, nowhere else; adapters only forward the word."""
    guilty = []
    for path in modules():
        if (
            name_of(path).startswith(("drimbox/flow/", "drimbox/simulators/"))
            or name_of(path) == "drimbox/adapters/transactions.py"
        ):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "commit"
            ):
                guilty.append(f"{name_of(path)}:{node.lineno}")
    assert guilty == []


def test_our_rooms_are_ours() -> None:
    """PyPI has packages named healthcheck and whitelist: ours must be the ones imported."""
    for room in (healthcheck, whitelist):
        assert ROOT in Path(room.__file__).parents


def test_root_holds_only_the_plan() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    plan = {
        "pyproject.toml", "Makefile", "README.md", "CHANGELOG.md", ".ci", ".gitignore", "constraints.txt",
        "drimbox", "dicom_store", "whitelist", "healthcheck", "tests", "fixtures", "systemd", "docs",
    }  # fmt: skip
    assert {path.split("/")[0] for path in tracked} - plan == set()
