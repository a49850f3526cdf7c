"""The coordinator's clock: seconds since 1970 that never step back, whatever happens to the machine's clock."""

from __future__ import annotations

import time


class Clock:
    """Wall time at the start, plus the monotonic time since: a corrected or wrong wall clock judges nobody."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def __call__(self) -> float:
        """Now."""
        return time.monotonic() + self._offset
