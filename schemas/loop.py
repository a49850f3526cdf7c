"""How a daemon of ours runs: on uvloop where the platform has it, with a garbage collector that knows it lives long."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

# Messages come and go by the thousand and hold no cycles; the default of 700 allocations would look through them all
# many times a second, in vain.
GC_THRESHOLDS = (50_000, 20, 50)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end and return what it returned."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)
