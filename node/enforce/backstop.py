"""A ceiling on each process's own allocations (RLIMIT_DATA), behind the looks at what all of them use together.

For what grows faster than it is looked at: the system refuses a huge allocation before it takes the device's memory. It is
of address space, of which much is never touched, so it lies well above the ceiling that the looks hold. Linux only.
"""

from __future__ import annotations

import contextlib
import sys

from node.core.memory import MIB


def hold(pid: int, limit_mb: int | None) -> None:
    """Have the process, and what it starts from now on, kept to it; None takes it away again."""
    if sys.platform == "linux":
        import resource

        with contextlib.suppress(OSError, ValueError):  # it is gone, or has a lower hard limit of its owner's
            _, hard = resource.prlimit(pid, resource.RLIMIT_DATA)
            wanted = hard if limit_mb is None else max(2 * limit_mb, limit_mb + 1024) * MIB
            resource.prlimit(pid, resource.RLIMIT_DATA, (wanted, hard))
