"""When a runner must end by itself: eight bytes that the daemon writes and the runner reads, whatever either is doing.

Over their socket it would come too late: a runner reads that between two calls only, and a daemon that stands still says
nothing.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import tempfile

_FORM = struct.Struct("=d")


def _filled(fd: int) -> int:
    """With its bytes written: touching a page for which a full disk has no room would kill the process (SIGBUS)."""
    try:
        os.write(fd, bytes(mmap.PAGESIZE))
    except OSError:
        os.close(fd)
        raise
    return fd


class Deadline:
    """The shared bytes behind a descriptor (-1: there are none, as on Windows, where only the daemon ends what must end)."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._bytes = None if fd < 0 else mmap.mmap(fd, mmap.PAGESIZE)

    @classmethod
    def new(cls) -> Deadline:
        """A new one, without a deadline. Raises OSError where there is no room for it."""
        if sys.platform == "win32":
            return cls(-1)
        if sys.platform == "linux":
            return cls(_filled(os.memfd_create("fog-deadline")))
        with tempfile.TemporaryFile() as file:
            return cls(_filled(os.dup(file.fileno())))

    def set(self, until: float) -> None:
        """The runner ends by itself at these ticks; 0: never."""
        if self._bytes is not None:
            _FORM.pack_into(self._bytes, 0, until)

    def passed(self, ticks: float) -> bool:
        """Whether it is over."""
        if self._bytes is None:
            return False
        until = _FORM.unpack_from(self._bytes, 0)[0]
        return bool(0 < until <= ticks)

    def close(self) -> None:
        """It is needed no more."""
        if self._bytes is not None:
            self._bytes.close()
            self._bytes = None
            os.close(self.fd)
