"""The clock that leases are measured by: it never steps, and goes on while the machine sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial


def _ticks() -> Callable[[], float]:
    """Linux's monotonic clock stands still while the machine sleeps; a lease does not."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic if boottime is None else partial(time.clock_gettime, boottime)


ticks = _ticks()
"""Seconds that only go forward, through the machine's sleep too where it can tell. Not comparable between machines."""
