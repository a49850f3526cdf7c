"""The folder in which a node keeps what it could not deliver: a file a letter, a file a large output. For one thread.

``<number>.letter`` is a sealed letter, in the order of the numbers; ``<ref>.blob`` the bytes of an object that a letter
refers to, written before it. What cannot be read is moved to ``spoilt/`` for somebody to look at, and stops nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from node.core.letters import Letter, opened
from schemas.errors import BadInput
from schemas.files import write_private
from schemas.logs import fields
from schemas.objects import ref_of

log = logging.getLogger("fog.node.outbox")

SPOILT_KEPT = 20  # files set aside; the oldest go
LETTER, BLOB = ".letter", ".blob"


class Folder:
    """The files under `path`. Every method may block on the disk, and raise OSError unless it says otherwise."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.spoilt = 0  # files set aside since the start

    def waiting(self) -> list[int]:
        """The numbers of the kept letters, in order. Never raises."""
        with contextlib.suppress(OSError):
            names = (entry.name for entry in os.scandir(self._path))
            numbers = (name.removesuffix(LETTER) for name in names if name.endswith(LETTER))
            return sorted(int(number) for number in numbers if number.isdecimal())
        return []

    def since(self) -> float | None:
        """When the oldest kept letter was written (seconds since 1970). Never raises."""
        for number in self.waiting()[:1]:
            with contextlib.suppress(OSError):
                return self._letter(number).stat().st_mtime
        return None

    def size(self) -> int:
        """Bytes of everything kept, large outputs included. Never raises."""
        total = 0
        with contextlib.suppress(OSError):
            for entry in os.scandir(self._path):
                if entry.name.endswith((LETTER, BLOB)):
                    with contextlib.suppress(OSError):  # delivered meanwhile
                        total += entry.stat().st_size
        return total

    def read_all(self) -> list[tuple[int, Letter, int]]:
        """Every letter with its number and its size in bytes, large outputs included. Also tidies up after a crash.

        Never raises: what cannot be read is set aside.
        """
        found = []
        for number in self.waiting():
            try:
                letter, size = self.read(number), self._letter(number).stat().st_size
                size += sum(self._blob(ref).stat().st_size for ref in letter.blobs)
            except (OSError, BadInput) as error:
                self.set_aside(number, error)
            else:
                found.append((number, letter, size))
        self._sweep({ref for _, letter, _ in found for ref in letter.blobs})
        return found

    def _sweep(self, wanted: set[str]) -> None:
        """Remove what a crash left behind: files half written, outputs whose letter was never written."""
        with contextlib.suppress(OSError):
            for entry in list(os.scandir(self._path)):
                unwanted = entry.name.endswith(BLOB) and entry.name.removesuffix(BLOB) not in wanted
                if entry.is_file() and (entry.name.startswith(".") or unwanted):
                    os.unlink(entry.path)

    def write(self, number: int, sealed: bytes, blobs: dict[str, bytes]) -> None:
        """Keep a letter, its large outputs first. When it returns they are on the disk."""
        for ref, data in blobs.items():
            if not self._blob(ref).exists():
                write_private(self._blob(ref), data)
        write_private(self._letter(number), sealed)
        if os.name == "posix":  # the names as well, not only the contents
            handle = os.open(self._path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def read(self, number: int) -> Letter:
        """A kept letter. Raises BadInput when it is spoilt."""
        return opened(self._letter(number).read_bytes())

    def read_blob(self, ref: str) -> bytes:
        """A kept output. Raises BadInput when it is spoilt."""
        data = self._blob(ref).read_bytes()
        if ref_of(data) != ref:
            raise BadInput(ref, "its bytes are not what its name says")
        return data

    def remove(self, number: int, blobs: tuple[str, ...]) -> None:
        """It is delivered. Never raises: what stays is delivered once more, which changes nothing."""
        for path in (self._letter(number), *map(self._blob, blobs)):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def set_aside(self, number: int, why: Exception) -> None:
        """Move a spoilt letter out of the way. Never raises."""
        self.spoilt += 1
        aside = self._path / "spoilt"
        log.error(
            "a kept letter is spoilt and was set aside", extra=fields(file=self._letter(number).name, error=str(why))
        )
        with contextlib.suppress(OSError):
            aside.mkdir(mode=0o700, exist_ok=True)
            os.replace(self._letter(number), aside / self._letter(number).name)
            for old in sorted(aside.iterdir(), key=lambda path: path.stat().st_mtime)[:-SPOILT_KEPT]:
                old.unlink()

    def _letter(self, number: int) -> Path:
        return self._path / f"{number:012d}{LETTER}"

    def _blob(self, ref: str) -> Path:
        return self._path / f"{ref}{BLOB}"
