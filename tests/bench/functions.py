"""The functions that the bench runs: they do nothing, so that everything that is measured is ours."""

from __future__ import annotations

import os
import time
from pathlib import Path

import node


@node.function
def noop(x: int = 0) -> int:
    """Return the argument."""
    return x


@node.function
def size(x: str) -> int:
    """How much it was given."""
    return len(x)


def begin(path: str) -> None:
    """Write when and where this attempt began: one line ``<monotonic> <node>``."""
    with open(path, "a") as out:
        out.write(f"{time.monotonic():.6f} {os.environ.get('BENCH_NODE', '')}\n")


@node.function
def hold(path: str, seconds: float) -> None:
    """Say that it began, and take that long."""
    begin(path)
    time.sleep(seconds)


@node.function
def gated(gate: str) -> None:
    """Wait while the file `gate` is there."""
    while Path(gate).exists():
        time.sleep(0.01)
