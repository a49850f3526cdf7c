"""The function that the bench runs: it does nothing, so that everything that is measured is ours."""

from __future__ import annotations

import node


@node.function
def noop(x: int = 0) -> int:
    """Return the argument."""
    return x
