"""Waiting for a condition, in tests of real processes."""

from __future__ import annotations

import time
from collections.abc import Callable

from schemas.procs import start_mark


def until(condition: Callable[[], object], timeout_s: float = 10.0, what: str = "the condition") -> None:
    """Return once `condition` holds; fail the test when it does not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not hold within {timeout_s} s"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether no process with this pid runs (a zombie does not)."""
    return not start_mark(pid)
