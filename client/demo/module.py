"""A module that a demo's nodes import, as any user would write one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Module(NamedTuple):
    """Its name and its text."""

    name: str
    source: str

    def write(self, folder: Path) -> None:
        """Put it there."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.py").write_text(self.source, encoding="utf-8")


def offering(name: str, function: Callable[..., Any]) -> Module:
    """A module with this very function, marked as the nodes' own; it imports what it needs by itself."""
    head = "from __future__ import annotations\n\nfrom node import function\n\n\n@function\n"
    return Module(name, head + inspect.getsource(function))
