"""How the command line shows things: JSON documents, tables, and times and sizes that a person can read.

On a terminal that is wide enough tables are drawn by rich; anywhere else they are plain rows, never cut or wrapped.
"""

from __future__ import annotations

import base64
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

FOLDED = 24  # characters that the last column of a table needs at least, where it has so many


def plain(value: Any) -> Any:
    """Structs and bytes as what JSON has: objects with all their fields (on the wire defaults are left out), base64 text."""
    if isinstance(value, msgspec.Struct):
        names = zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
        return {encoded: plain(getattr(value, name)) for name, encoded in names}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return msgspec.to_builtins(value)


def print_json(value: Any) -> None:
    """One document, indented, with every field: scripts need not know the defaults."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(plain(value)), indent=2).decode() + "\n")


def print_json_line(value: Any) -> None:
    """One object on one line, at once: a reader may be waiting for it."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def print_value(value: Any) -> None:
    """A task's value for a person or a pipe: text as it is, bytes raw, everything else as JSON."""
    if isinstance(value, bytes):
        sys.stdout.flush()
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()
    elif isinstance(value, str):
        print(value)
    elif value is not None:
        print(msgspec.json.encode(value).decode())


def one_line(value: Any) -> str:
    """A value within a line."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Rows under their names; `empty` is said where there are none."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not cells:
        print(empty)
    elif sys.stdout.isatty() and _fits(columns, cells):
        _draw(columns, cells)
    else:
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for row in (columns, *cells):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _fits(columns: Sequence[str], cells: list[list[str]]) -> bool:
    """Whether a terminal is wide enough for all columns but the last, which may be folded into what is left."""
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    return sum(widths[:-1]) + 3 * len(widths) + min(widths[-1], FOLDED) <= shutil.get_terminal_size().columns


def _draw(columns: Sequence[str], cells: list[list[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, no_wrap=number < len(columns) - 1)
    for row in cells:
        table.add_row(*map(Text, row))
    Console().print(table)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Names and values, one a line; those without a value are left out."""
    shown = [(name, str(value)) for name, value in fields if value not in (None, "", (), {}, [])]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{name:<{width}}  {value}")


def span(seconds: float | None) -> str:
    """A duration: ``340 ms``, ``12.5 s``, ``3 min``, ``2.5 h``, ``4 d``."""
    if seconds is None:
        return ""
    for limit, unit, size in ((1, "ms", 0.001), (100, "s", 1.0), (5400, "min", 60.0), (129_600, "h", 3600.0)):
        if abs(seconds) < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86_400:.3g} d"


def ago(at: float) -> str:
    """How long ago a moment was; empty for none."""
    return span(max(0.0, time.time() - at)) if at else ""


def clock(at: float) -> str:
    """A moment in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at else ""


def size(count: float) -> str:
    """Bytes: ``512 B``, ``1.2 MB``."""
    for limit, unit in ((1e3, "B"), (1e6, "kB"), (1e9, "MB"), (1e12, "GB")):
        if count < limit:
            return f"{count / (limit / 1e3):.3g} {unit}"
    return f"{count / 1e12:.3g} TB"
