"""What a measured figure is, how it is judged, and how all of them are shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table


@dataclass
class Figure:
    """One number and what it was compared with. It is good when at least (or, with `at_most`, at most) `target`."""

    name: str
    value: float
    unit: str
    target: float
    compared_with: str
    at_most: bool = False
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether the target is met."""
        return self.value <= self.target if self.at_most else self.value >= self.target


def ratio_of_rounds(ours: list[float], floors: list[float]) -> float:
    """The median over interleaved rounds of ours / floor, each round's two measured right after each other."""
    return round(median(one / other for one, other in zip(ours, floors, strict=True)), 3)


def save(figures: list[Figure], path: Path) -> None:
    """Write the figures, one object by name; those of an earlier run that were not measured again stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
    kept |= {figure.name: {**asdict(figure), "good": figure.good} for figure in figures}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(kept)) + b"\n")


def show(figures: list[Figure]) -> None:
    """A table on stdout, then each figure's details."""
    table = Table("figure", "value", "unit", "target", "", "compared with")
    for figure in figures:
        sign = "≤" if figure.at_most else "≥"
        verdict = "[green]good[/]" if figure.good else "[red]missed[/]"
        cells = (figure.name, f"{figure.value:g}", figure.unit, f"{sign} {figure.target:g}", verdict)
        table.add_row(*cells, figure.compared_with)
    console = Console(width=140)
    console.print(table)
    for figure in figures:
        parts = ", ".join(f"{key} {value}" for key, value in figure.detail.items())
        console.print(f"{figure.name}: {parts}", style="dim", highlight=False)
