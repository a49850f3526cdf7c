"""The files by which Linux tells about itself (/sys, /proc, /etc), under a root that tests replace. Never raises."""

from __future__ import annotations

import os
import re
from pathlib import Path

from node.sensors.reading import Reading, clean, known, unknown

_NUMBER = re.compile(r"[+-]?[0-9]{1,20}(\.[0-9]{1,9})?")
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)  # never wait on a pipe
_TEXT_MAX = 64 * 1024


class Tree:
    """Reads below `root`. Paths are absolute as on the device; a reading's source is such a path."""

    def __init__(self, root: Path) -> None:
        self._root = str(root).rstrip("/\\")

    def real(self, path: str) -> str:
        """Where `path` lies on this machine."""
        return self._root + path

    def text(self, path: str, longest: int = _TEXT_MAX) -> Reading[str]:
        """The file's text, stripped, at most `longest` bytes of it. Empty counts as unknown."""
        try:
            data = _slurp(self.real(path), longest)
        except (OSError, ValueError) as problem:
            return unknown(_why(path, problem))
        text = data.decode("utf-8", "replace").strip("\0 \t\r\n")
        return known(text, path) if text else unknown(f"{path} is empty")

    def line(self, path: str, longest: int = 128) -> Reading[str]:
        """The file's text as one printable line: a name or a model."""
        read = self.text(path)
        return read if read.value is None else known(clean(read.value, longest), path)

    def number(self, path: str, low: float, high: float, scale: float = 1.0) -> Reading[float]:
        """The file's number times `scale`; unknown when it is none or the scaled value lies outside `low`..`high`."""
        read = self.text(path, 256)
        if read.value is None:
            return unknown(read.reason)
        if not _NUMBER.fullmatch(read.value):
            return unknown(f"{path} holds {read.value[:30]!r}, which is not a number")
        value = float(read.value) * scale
        if not low <= value <= high:
            return unknown(f"{path} reads {value:g}, which cannot be")
        return known(value, path)

    def names(self, path: str) -> Reading[tuple[str, ...]]:
        """The sorted names in a folder; an empty folder is known to be empty."""
        try:
            return known(tuple(sorted(os.listdir(self.real(path)))), path)
        except (OSError, ValueError) as problem:
            return unknown(_why(path, problem))

    def exists(self, path: str) -> bool:
        """Whether anything is there (also a link whose target is gone)."""
        return os.path.lexists(self.real(path))

    def target(self, path: str) -> str:
        """The last name of what a link points to, such as a driver's; "" when there is none."""
        try:
            return clean(os.path.basename(os.readlink(self.real(path))), 64)
        except (OSError, ValueError):
            return ""


def _slurp(path: str, longest: int) -> bytes:
    handle = os.open(path, _FLAGS)
    try:
        parts, left = [], longest
        while left > 0 and (part := os.read(handle, left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    finally:
        os.close(handle)


def _why(path: str, problem: Exception) -> str:
    if isinstance(problem, FileNotFoundError):
        return f"there is no {path}"
    if isinstance(problem, PermissionError):
        return f"no permission to read {path}"
    return f"{path}: {getattr(problem, 'strerror', None) or problem}"
