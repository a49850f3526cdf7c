"""What peers can have from this device: chunks of installed versions, and of those that are being fetched, as they come."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from node.apps.disk import Disk, Read, checked
from schemas.errors import BadInput
from schemas.peer import bits_of


@dataclass
class _Fetching:
    """An artifact that is on its way: its different chunks in the order of the manifest, and which are here."""

    chunks: list[str]
    here: set[str] = field(default_factory=set)


class Shelf:
    """For the event loop; `look` and `read` block, and belong on a thread."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._whole: frozenset[str] = frozenset()
        self._reads: dict[str, Read] = {}
        self._fetching: dict[str, _Fetching] = {}
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}

    def look(self) -> None:
        """See what is installed. Versions came or went."""
        installed = dict(self._disk.installed())
        self._reads = {digest: read for reads in installed.values() for digest, read in reads.items()}
        self._whole = frozenset(installed)

    # While an artifact is fetched.

    def begin(self, artifact: str, chunks: list[str], here: set[str]) -> None:
        """It is fetched from now on; these of its chunks are here."""
        self._fetching[artifact] = _Fetching(chunks, set(here))

    def add(self, artifact: str, digest: str) -> None:
        """One of its chunks came, and is kept."""
        if artifact in self._fetching:
            self._fetching[artifact].here.add(digest)
        for waiting in self._waiting.get(digest, ()):
            if not waiting.done():
                waiting.set_result(None)

    def end(self, artifact: str) -> None:
        """It is installed, or given up."""
        self._fetching.pop(artifact, None)

    # What peers ask.

    def held(self, artifact: str) -> tuple[bool, bytes | None]:
        """Whether it is here or on its way, and which chunks are, as `peer.ChunksHeld` says it."""
        if artifact in self._whole:
            return True, None
        found = self._fetching.get(artifact)
        return (True, bits_of([digest in found.here for digest in found.chunks])) if found else (False, b"")

    async def has(self, digest: str, wait_s: float) -> bool:
        """Whether the chunk is here; where it is on its way, by the end of that time."""
        if digest in self._reads or any(digest in one.here for one in self._fetching.values()):
            return True
        if not any(digest in one.chunks for one in self._fetching.values()):
            return False
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(digest, set()).add(waiting)
        try:
            async with asyncio.timeout(wait_s):
                await waiting
            return True
        except TimeoutError:
            return False
        finally:
            others = self._waiting[digest]
            others.discard(waiting)
            if not others:
                del self._waiting[digest]

    def read(self, digest: str) -> bytes:
        """A chunk that `has` found, checked: what the disk spoilt is not served. Raises OSError or BadInput."""
        read = self._reads.get(digest)
        if read is None and not any(digest in one.here for one in self._fetching.values()):
            raise BadInput("digest", "it is not here")
        return checked(digest, read() if read is not None else self._disk.chunk(digest).read_bytes())
