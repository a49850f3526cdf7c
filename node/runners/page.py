"""The page that the daemon and a runner share: what each must be able to tell the other whatever either is doing.

The daemon writes when the runner must end by itself: over their socket it would come too late where the daemon stands still.
The runner writes which call it began and which it was through with last: answers go in batches, and those that wait are gone
with a runner that is killed. And it writes that it is up: from then on it may be stopped (SIGSTOP) for a while.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import tempfile

from node.core.last import Last

_UNTIL, _KEY = struct.Struct("=d"), struct.Struct("=q")
_BEGUN, _THROUGH, _UP = 8, 16, 24  # where they lie, each in one piece


def _filled(fd: int) -> int:
    """With its bytes written: touching a page for which a full disk has no room would kill the process (SIGBUS)."""
    try:
        os.write(fd, bytes(mmap.PAGESIZE))
    except OSError:
        os.close(fd)
        raise
    return fd


class Page:
    """The shared bytes behind a descriptor (-1: there are none, as on Windows, where only the daemon ends what must end)."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._bytes = None if fd < 0 else mmap.mmap(fd, mmap.PAGESIZE)

    @classmethod
    def new(cls) -> Page:
        """A new one, without a deadline. Raises OSError where there is no room for it."""
        if sys.platform == "win32":
            return cls(-1)
        if sys.platform == "linux":
            return cls(_filled(os.memfd_create("fog-runner")))
        with tempfile.TemporaryFile() as file:
            return cls(_filled(os.dup(file.fileno())))

    def end_by(self, until: float) -> None:
        """The runner ends by itself at these ticks; 0: never."""
        if self._bytes is not None:
            _UNTIL.pack_into(self._bytes, 0, until)

    def is_over(self, ticks: float) -> bool:
        """Whether the runner has to end."""
        if self._bytes is None:
            return False
        until = _UNTIL.unpack_from(self._bytes, 0)[0]
        return bool(0 < until <= ticks)

    def begins(self, key: int) -> None:
        """The runner begins this one now."""
        if self._bytes is not None:
            _KEY.pack_into(self._bytes, _BEGUN, key)

    def is_through(self, key: int) -> None:
        """The runner is through with this one."""
        if self._bytes is not None:
            _KEY.pack_into(self._bytes, _THROUGH, key)

    def is_up(self) -> None:
        """The runner would go on, were it stopped and its daemon died."""
        if self._bytes is not None:
            _KEY.pack_into(self._bytes, _UP, 1)

    @property
    def up(self) -> bool:
        """Whether the runner has written that."""
        return self._bytes is not None and bool(_KEY.unpack_from(self._bytes, _UP)[0])

    def last(self) -> Last | None:
        """What the runner did last; None where it cannot tell."""
        if self._bytes is None:
            return None
        return Last(_KEY.unpack_from(self._bytes, _BEGUN)[0], _KEY.unpack_from(self._bytes, _THROUGH)[0])

    def close(self) -> None:
        """It is needed no more."""
        if self._bytes is not None:
            self._bytes.close()
            self._bytes = None
            os.close(self.fd)
