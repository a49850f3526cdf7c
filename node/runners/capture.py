"""What a running call prints: sys.stdout and sys.stderr of Python, and descriptors 1 and 2 below them, as frames in order."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Callable
from typing import Any

Emit = Callable[[str, str], None]  # stream, text
READ_MAX = 1 << 16


class _Stream(io.RawIOBase):
    """The bytes end of a replaced sys.stdout."""

    def __init__(self, name: str, fd: int, emit: Emit) -> None:
        super().__init__()
        self._name, self._fd, self._emit = name, fd, emit
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        block = bytes(data)
        text = self._decode(block)
        if text:
            self._emit(self._name, text)
        return len(block)


class _Pipe:
    """A descriptor whose writes we read."""

    def __init__(self, name: str, fd: int, emit: Emit) -> None:
        self._name, self._emit = name, emit
        self.reader, writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.dup2(writer, fd)
        os.close(writer)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def drain(self) -> None:
        """Emit what was written so far."""
        while True:
            try:
                block = os.read(self.reader, READ_MAX)
            except OSError:
                return
            if not block:
                return
            self._emit(self._name, self._decode(block))


class Capture:
    """Replaces the process's output by calls of `emit`. Cannot be undone: the process has no other purpose."""

    def __init__(self, emit: Emit) -> None:
        for name, fd in (("stdout", 1), ("stderr", 2)):
            raw = _Stream(name, fd, emit)
            text = io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True)  # type: ignore[type-var]
            setattr(sys, name, text)
        self.pipes = [_Pipe(name, fd, emit) for name, fd in (("stdout", 1), ("stderr", 2))]

    def drain(self) -> None:
        """Emit what was written to the descriptors so far."""
        for pipe in self.pipes:
            pipe.drain()
