"""``APP.toml``: what a version of an app is, how it is run, which devices it needs and how it comes to them.

The tables are the structs of `schemas.rollout`, field by field::

    app = "filetype"
    version = "1.0"
    artifact = "model"          # a file or a folder, from where this file lies

    [run]
    type = "data"               # or "service", with argv, env, ports …

    [needs]                     # each of these may be left out
    [health]
    [strategy]
    [targets]
"""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from schemas.codec import convert
from schemas.errors import BadInput
from schemas.names import Id
from schemas.rollout import (
    AppNeeds,
    CommandCheck,
    DataOnly,
    Health,
    HttpCheck,
    ProcessCheck,
    Service,
    Strategy,
    Targets,
    TcpCheck,
    Version,
    check_times,
)

TYPES: dict[str, dict[str, type[Struct]]] = {  # of the tables that say by `type` which of several they are
    "run": {"service": Service, "data": DataOnly},
    "health.check": {"process": ProcessCheck, "http": HttpCheck, "tcp": TcpCheck, "command": CommandCheck},
}

FORMS = {
    "app": "lower-case letters, digits and -, at most 63 characters",
    "version": "lower-case letters, digits, - and single dots, at most 63 characters",
}


class AppFile(Struct, frozen=True, forbid_unknown_fields=True):
    """What an APP.toml says. `artifact` is a path; the artifact itself is made of it by `artifacts.pack`."""

    app: Id
    version: Version
    artifact: str
    run: Service | DataOnly
    needs: AppNeeds = AppNeeds()
    health: Health = Health()
    strategy: Strategy = Strategy()
    targets: Targets = Targets()

    @property
    def path(self) -> Path:
        """Where the artifact's files are."""
        return Path(self.artifact).expanduser()


def read(path: Path) -> AppFile:
    """Read and check it. Raises BadInput that names the file, the field and, where it helps, what is allowed there."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadInput(str(path), f"cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(str(path), f"is no TOML: {error}") from None
    try:
        return located(convert(table, AppFile), path.parent)
    except BadInput as error:
        raise _explained(error, table, path) from None


def located(app: AppFile, folder: Path) -> AppFile:
    """The same with the artifact's path from `folder` on, and its times checked."""
    check_times(app.health)
    if not app.artifact.strip():
        raise BadInput("artifact", "is empty: name a file or a folder")
    return msgspec.structs.replace(app, artifact=str(folder / app.path))


def _explained(error: BadInput, table: dict[str, Any], path: Path) -> BadInput:
    field = "" if error.field == "message" else error.field
    return BadInput(
        ": ".join(filter(None, (str(path), field))), error.problem, hint=_allowed(field, table) or error.hint
    )


def _allowed(field: str, table: dict[str, Any]) -> str:
    """What may stand there: the fields of the table that the error is about, or the values of the field."""
    kinds = TYPES.get(field.removesuffix(".type"))
    if kinds and _value(table, field if field.endswith(".type") else f"{field}.type") not in kinds:
        return f"its type is one of: {', '.join(kinds)}"
    if field in FORMS:
        return FORMS[field]
    struct = _struct(field, table)
    if struct is not None:
        return f"allowed are: {', '.join(struct.__struct_fields__)}"
    parent, _, name = field.rpartition(".")
    owner = _struct(parent, table)
    kind = (
        next((f.type for f in msgspec.structs.fields(owner) if f.name == name.split("[")[0]), None) if owner else None
    )
    values = next(
        (k for k in (kind, *getattr(kind, "__args__", ())) if isinstance(k, type) and issubclass(k, StrEnum)), None
    )
    return f"one of: {', '.join(values)}" if values else ""


def _struct(field: str, table: dict[str, Any]) -> type[Struct] | None:
    """What stands in the table of that name; None for what is no table of ours."""
    if kinds := TYPES.get(field):
        return kinds.get(_value(table, f"{field}.type"))
    tables: dict[str, type[Struct]] = {
        "": AppFile, "needs": AppNeeds, "health": Health, "strategy": Strategy, "targets": Targets,
    }  # fmt: skip
    return tables.get(field)


def _value(table: Any, field: str) -> Any:
    for name in field.split("."):
        table = table.get(name) if isinstance(table, dict) else None
    return table if isinstance(table, str) else ""
