"""A lock on a folder: one process at a time. The system lets go of it when the holder dies, however it dies."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO

from schemas.errors import FogError
from schemas.procs import start_mark

_HIDDEN_AT = 1 << 30  # Windows locks bytes against reading too; lock one far behind the pid that we store


class Held(FogError):
    """Somebody else holds the lock. `pid` is the holder's, 0 where it could not be read."""

    def __init__(self, what: str, pid: int) -> None:
        by = f"by process {pid}" if pid else "by another process"
        super().__init__(f"{what} is in use {by}", hint="stop that one first, or name another --home")
        self.pid = pid


class Lock:
    """An exclusive lock on the file `path`, held until `release` or the end of this process.

    Children do not inherit it. Raises Held at once when another process has it; `what` names it in that error.
    """

    def __init__(self, path: Path, what: str) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file: BinaryIO = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        try:
            _lock(self._file)
        except OSError:
            pid = _read_pid(self._file)
            self._file.close()
            raise Held(what, pid) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()).encode())
        self._file.flush()

    def release(self) -> None:
        """Let go. The file stays: removing it would let two later holders lock two different files."""
        self._file.close()


def holder(path: Path) -> int:
    """The process that holds the lock on the file `path` now; 0 for nobody. Looks without taking it."""
    try:
        with path.open("rb") as file:
            pid, inode = _read_pid(file), os.fstat(file.fileno()).st_ino
    except OSError:
        return 0
    if not pid or not start_mark(pid):
        return 0
    try:  # the pid may be somebody else's by now: Linux tells which files a process has locked
        locks = Path("/proc/locks").read_text("utf-8", "replace").splitlines()
    except OSError:
        return pid
    return pid if any(f" {pid} " in line and f":{inode} " in line for line in locks) else 0


def _read_pid(file: BinaryIO) -> int:
    text = file.read(20).decode("ascii", "replace").strip()
    return int(text) if text.isdigit() else 0


if sys.platform == "win32":
    import msvcrt

    def _lock(file: BinaryIO) -> None:
        file.seek(_HIDDEN_AT)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)

else:
    import fcntl

    def _lock(file: BinaryIO) -> None:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
