"""When running work takes more memory than it may: which of it has to go. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

R = TypeVar("R")
MIB = 1 << 20


def culprit(used: Mapping[R, int], limit_mb: int) -> R | None:
    """Of runners and the bytes that their trees use, the greediest one; None while all of them together keep to the limit."""
    if not used or sum(used.values()) <= limit_mb * MIB:
        return None
    return max(used, key=lambda runner: used[runner])
