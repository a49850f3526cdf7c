"""The coordinator's clock: seconds since 1970 that never step back, whatever happens to the machine's clock."""

from __future__ import annotations

import time

from schemas.ticks import ticks


class Clock:
    """The broker's time once `learn` was told it, before that the machine's; plus the ticks since."""

    def __init__(self) -> None:
        self._offset = time.time() - ticks()
        self._begun = False

    def __call__(self) -> float:
        """Now."""
        self._begun = True
        return ticks() + self._offset

    def learn(self, told: float, at: float) -> None:
        """The broker's clock had passed `told` when the ticks were `at`. Ours, once it was looked at, moves only forward."""
        offset = told - at
        self._offset = max(self._offset, offset) if self._begun else offset
