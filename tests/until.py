"""Waiting for a condition, in tests of real processes."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

from schemas.procs import start_mark

# How long is waited says nothing about us, only that the machine is shared: what holds, holds long before.
PATIENCE_S = 60.0


def until(condition: Callable[[], object], timeout_s: float = PATIENCE_S, what: str = "the condition") -> None:
    """Return once `condition` holds; fail the test when it does not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not hold within {timeout_s} s"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether no process with this pid runs (a zombie does not)."""
    return not start_mark(pid)


async def eventually(
    condition: Callable[[], object | Awaitable[object]], timeout_s: float = PATIENCE_S, what: str = "the condition"
) -> None:
    """`until` for tests that live in the event loop; the condition may be a coroutine function."""
    deadline = time.monotonic() + timeout_s
    while True:
        holds = condition()
        if inspect.isawaitable(holds):
            holds = await holds
        if holds:
            return
        assert time.monotonic() < deadline, f"{what} did not hold within {timeout_s} s"
        await asyncio.sleep(0.01)
