"""The shape of the code, held by walking its imports (docs/architecture.md says why each rule is there)."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("schemas", "coordinator", "node", "client")
LINES_MAX = 400
IMPURE = {
    "asyncio", "time", "random", "os", "socket", "subprocess", "threading", "multiprocessing", "selectors", "signal",
    "nats", "nkeys", "psutil", "uvloop",
}  # fmt: skip
UNSEEDED = {"secrets", "uuid"}  # the ids of schemas/names.py are made at the edges; a core never makes one
SEEDED = "random.Random"  # a generator that is handed in is as pure as a number; the module's own is not


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {path: module_name(path) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


@cache
def imports(source: str, path: Path) -> tuple[str, ...]:
    """The full names that a file imports, ``from a import b`` as ``a.b``; relative ones made absolute."""
    return tuple(_imports(source, path))


def _imports(source: str, path: Path) -> Iterator[str]:
    package = path.relative_to(ROOT).parent.parts
    for found in ast.walk(ast.parse(source)):
        if isinstance(found, ast.Import):
            yield from (alias.name for alias in found.names)
        elif isinstance(found, ast.ImportFrom):
            base = ".".join(package[: len(package) - found.level + 1]) if found.level else ""
            origin = ".".join(part for part in (base, found.module or "") if part)
            yield from (f"{origin}.{alias.name}" for alias in found.names)


def problems(source: str, path: Path) -> list[str]:
    """Every rule that the file breaks, as ``rule: what``."""
    own = path.relative_to(ROOT).parts[0]
    found = []
    for name in imports(source, path):
        top = name.split(".")[0]
        if top in PACKAGES and top != own and (own == "schemas" or top != "schemas"):
            found.append(f"{own} imports {top}: {name}")
        if top == "nats" and path != ROOT / "schemas" / "nats_py.py":
            found.append(f"only schemas/nats_py.py touches nats-py: {name}")
    if "core" in path.relative_to(ROOT).parts[1:-1]:
        found += core_problems(source, path)
    return found


def core_problems(source: str, path: Path) -> list[str]:
    siblings = f"{path.relative_to(ROOT).parts[0]}.core"
    return [f"a core is pure: {name}" for name in imports(source, path) if not allowed_in_core(name, siblings)]


def allowed_in_core(name: str, siblings: str) -> bool:
    top = name.split(".")[0]
    if top == "schemas":
        return is_message_module(name)
    if name in (SEEDED, siblings) or top == "msgspec" or name.startswith(f"{siblings}."):
        return True
    return top in sys.stdlib_module_names and top not in IMPURE | UNSEEDED


@cache
def is_message_module(name: str) -> bool:
    """Whether `name` (a module of schemas, or a thing in one) only says things: neither it nor its imports act."""
    path = ROOT.joinpath(*name.split(".")[:2]).with_suffix(".py")
    if not path.exists():
        return False
    used = list(imports(path.read_text(), path))
    ours = [other for other in used if other.startswith("schemas.")]
    return not any(other.split(".")[0] in IMPURE for other in used) and all(map(is_message_module, ours))


@pytest.mark.parametrize("path", FILES, ids=FILES.get)
def test_a_module_keeps_to_the_import_rules(path: Path) -> None:
    assert problems(path.read_text(), path) == []


@pytest.mark.parametrize("path", FILES, ids=FILES.get)
def test_a_file_holds_one_concept_and_says_which(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= LINES_MAX
    assert ast.get_docstring(ast.parse(source)), "a module says in its docstring what it is"


@pytest.mark.parametrize("path", FILES, ids=FILES.get)
def test_the_root_of_all_subjects_is_written_in_one_place(path: Path) -> None:
    """Docstrings may explain a subject; only schemas/subjects.py may build one."""
    source = path.read_text()
    tree = ast.parse(source if "fog.v1" in source else "")
    explained = {
        id(scope.body[0].value)
        for scope in ast.walk(tree)
        if isinstance(scope, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and scope.body
        and isinstance(scope.body[0], ast.Expr)
    }
    written = [
        found.value
        for found in ast.walk(tree)
        if isinstance(found, ast.Constant)
        and isinstance(found.value, str)
        and "fog.v1" in found.value
        and id(found) not in explained
    ]
    assert written == [] or path == ROOT / "schemas" / "subjects.py"


def test_the_node_daemon_never_loads_the_libraries_of_the_command_line() -> None:
    """A node is small: rich and the client's code stay out of its process."""
    heavy = [
        (FILES[path], name)
        for path in FILES
        if path.relative_to(ROOT).parts[0] in ("node", "schemas")
        for name in imports(path.read_text(), path)
        if name.split(".")[0] in ("rich", "opentelemetry")
    ]
    assert heavy == []


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("node/daemon.py", "import coordinator.core.machine"),
        ("client/sdk.py", "from node import daemon"),
        ("schemas/task.py", "from coordinator.core import events"),
        ("coordinator/service.py", "import nats"),
        ("coordinator/core/machine.py", "import asyncio"),
        ("coordinator/core/machine.py", "from time import time"),
        ("coordinator/core/machine.py", "import random"),
        ("coordinator/core/machine.py", "from schemas.bus import Bus"),
        ("coordinator/core/machine.py", "from schemas import store"),
        ("coordinator/core/machine.py", "from coordinator import service"),
        ("coordinator/core/machine.py", "from .. import service"),
        ("node/core/attempts.py", "def late():\n    import os"),
        ("node/core/attempts.py", "import psutil"),
    ],
)
def test_a_breach_is_noticed(where: str, source: str) -> None:
    assert problems(source, ROOT / where)


@pytest.mark.parametrize(
    "source",
    [
        "from random import Random",
        "from schemas.task import Task",
        "from schemas import limits",
        "from coordinator.core.events import Tick",
        "from . import events",
        "import heapq",
        "from msgspec import Struct",
    ],
)
def test_what_a_core_may_use_is_let_through(source: str) -> None:
    assert problems(source, ROOT / "coordinator" / "core" / "machine.py") == []


def test_the_map_for_newcomers_names_only_what_is_there() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", text))
    there = {f"/{path.relative_to(ROOT)}" for path in [*FILES, *(ROOT / "tests").rglob("*.py")]}
    folders = {f"{parent}/" for path in there for parent in Path(path).parents}
    gone = {name for name in named if not any(path.endswith(f"/{name}") for path in there | folders)}
    assert len(named) > 100 and not gone
