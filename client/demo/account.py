"""What the demo keeps count of while it runs, and what it says in the end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from client.mapping import Ended
from schemas.chunks import Span
from schemas.event import CloudEvent, TaskEvent

PLACED = "fog.task.assigned"
LOST = "fog.task.lost"
SPLIT = "fog.task.split"


@dataclass
class Share:
    """One node's part. `busy_s`: how long its runners worked; `attempts`: how often a chunk was given to it."""

    items: int = 0
    size: int = 0
    busy_s: float = 0.0
    chunks: int = 0
    attempts: int = 0
    lost: int = 0

    @property
    def speed(self) -> float:
        """Bytes a second while it worked."""
        return self.size / self.busy_s if self.busy_s else 0.0


@dataclass
class Account:
    """The job's progress by node. `sizes` are those of its items, in order."""

    sizes: list[int]
    nodes: dict[str, Share]
    began: float = field(default_factory=time.monotonic)
    moved: dict[str, tuple[str, str]] = field(default_factory=dict)
    killed: str = ""

    def chunk(self, ended: Ended) -> None:
        """A chunk is back."""
        if ended.result is None:
            return
        share = self.nodes.setdefault(ended.result.node, Share())
        share.items += ended.span.count
        share.size += self.size_of(ended.span)
        share.busy_s += ended.result.duration_ms / 1000
        share.chunks += 1

    def size_of(self, span: Span) -> int:
        """Bytes of these items."""
        return sum(self.sizes[span.first : span.end])

    def event(self, event: CloudEvent) -> None:
        """Something happened to a task: count attempts, and what was taken from a node that died."""
        if not isinstance(event.data, TaskEvent):
            return
        if event.type == PLACED:
            self.nodes.setdefault(event.data.node, Share()).attempts += 1
            if event.data.task in self.moved:
                self.moved[event.data.task] = (self.moved[event.data.task][0], event.data.node)
        elif event.type == LOST:
            self.nodes.setdefault(event.data.node, Share()).lost += 1
            self.moved[event.data.task] = (event.data.node, "")
        elif event.type == SPLIT and event.data.task in self.moved:
            self.moved[event.data.task] = (self.moved[event.data.task][0], "others, in parts")

    @property
    def done(self) -> int:
        """Items that are back."""
        return sum(share.items for share in self.nodes.values())

    @property
    def took_s(self) -> float:
        """Seconds since the job began."""
        return time.monotonic() - self.began


def differences(found: dict[int, object], expected: list[dict[str, object]], paths: list[Path]) -> list[str]:
    """Every item that is missing or not what the same job gave locally, in words."""
    problems = []
    for index, (value, path) in enumerate(zip(expected, paths, strict=True)):
        if index not in found:
            problems.append(f"{path}: no result")
        elif found[index] != value:
            problems.append(f"{path}: the fleet says {found[index]}, this machine {value}")
    return problems
