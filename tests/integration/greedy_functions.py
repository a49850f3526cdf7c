"""Functions that take memory."""

from __future__ import annotations

import node

kept: list[bytes] = []


@node.function
def hoard(mb: int) -> int:
    """Take so much, and keep it after the call."""
    kept.append(b"x" * (mb << 20))
    return len(kept[-1])


@node.function
def reserve(mb: int) -> int:
    """Ask the system for so much, and touch none of it."""
    return len(bytearray(mb << 20))
