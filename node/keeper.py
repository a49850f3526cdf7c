"""Letters on disk: what is kept, how much of it, and since when. The disk is only ever touched on a thread of its own."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from node.core.attempts import Attempt
from node.core.letters import Kind, Letter, is_full, letter_of, sealed, unburden
from node.kept import Folder
from schemas import limits
from schemas.logs import fields
from schemas.store import Post

log = logging.getLogger("fog.node.outbox")

DISK_AGAIN_S = 5.0  # until a disk that took no letter is tried again


class Item:
    """One message on its way. `data` and `blobs` are what it says, until that is on the disk only (`kept`).

    `post` is set while the store has it, `turn` while it is one of those that are delivered now. `at` is the loop's time.
    """

    __slots__ = (
        "again_s", "at", "attempt", "blobs", "data", "keeping", "kept", "kind", "made_at", "number", "post", "refs", "size",
        "turn",
    )  # fmt: skip

    def __init__(self, number: int, attempt: Attempt, kind: Kind, at: float, made_at: float) -> None:
        self.number, self.attempt, self.kind, self.at, self.made_at = number, attempt, kind, at, made_at
        self.data: bytes | None = None
        self.blobs: dict[str, bytes] = {}
        self.refs: tuple[str, ...] = ()
        self.size = 0
        self.kept = self.keeping = self.turn = False
        self.post: Post | None = None
        self.again_s = 0.0

    def letter(self, data: bytes) -> Letter:
        """What its file is to hold."""
        return letter_of(self.attempt, self.kind, data, self.refs, self.made_at)


class Keeper:
    """Writes, reads and removes letters. `on_kept(item)` hears when one is on the disk, `tell()` when the counts change."""

    def __init__(self, folder: Folder, on_kept: Callable[[Item], None], tell: Callable[[], None]) -> None:
        self._folder, self._on_kept, self._tell = folder, on_kept, tell
        self._items: dict[int, Item] = {}  # kept, or being written
        self._refs: Counter[str] = Counter()
        self._bad_until = 0.0
        self._disk = ThreadPoolExecutor(1, "outbox")  # one thread, so that files are written and removed in order
        self._loop = asyncio.get_running_loop()
        self.bytes = 0

    @property
    def letters(self) -> int:
        """How many are kept, or just being written."""
        return len(self._items)

    @property
    def since(self) -> float:
        """When the oldest of them was made (seconds since 1970); 0 without any."""
        return min((item.made_at for item in self._items.values()), default=0.0)

    @property
    def spoilt(self) -> int:
        """Files that could not be read, and were set aside."""
        return self._folder.spoilt

    @property
    def full(self) -> bool:
        """Whether no more should be begun that would have to be kept."""
        return is_full(self.letters, self.bytes) or not self.takes

    @property
    def why_full(self) -> str:
        """The same in words; "" while there is room."""
        if is_full(self.letters, self.bytes):
            most = f"at most {limits.OUTBOX_LETTERS} and {limits.OUTBOX_BYTES >> 20} MiB"
            return f"its outbox is full: {self.letters} results of {self.bytes / (1 << 20):.1f} MiB wait for the broker, {most}"
        return "" if self.takes else "its outbox cannot be written: the disk took no result"

    @property
    def takes(self) -> bool:
        """Whether the disk took the last letter, or it is time to try again."""
        return self._loop.time() >= self._bad_until

    async def read_all(self) -> list[tuple[int, Letter, int]]:
        """What a former boot kept."""
        return await self._loop.run_in_executor(self._disk, self._folder.read_all)

    def hold(self, item: Item) -> None:
        """Count a letter that is on the disk, or about to be."""
        self._items[item.number] = item
        self._refs.update(item.refs)
        self.bytes += item.size
        self._tell()

    def keep(self, item: Item) -> None:
        """Write it, unless it is on the disk, or on its way there."""
        if item.kept or item.keeping or item.data is None:
            return
        item.keeping = True
        data, blobs = sealed(item.letter(item.data)), item.blobs
        item.size = len(data) + sum(map(len, blobs.values()))
        self.hold(item)
        writing = self._loop.run_in_executor(self._disk, self._folder.write, item.number, data, blobs)
        writing.add_done_callback(partial(self._written, item))

    async def written(self) -> None:
        """Return when all that was given is on the disk, or could not be."""
        await self._loop.run_in_executor(self._disk, lambda: None)

    def _written(self, item: Item, writing: asyncio.Future[None]) -> None:
        item.keeping = False
        error = None if writing.cancelled() else writing.exception()
        if error is not None:
            log.error("a result cannot be kept on disk, and stays in memory", extra=fields(error=str(error)))
            self._bad_until = self._loop.time() + DISK_AGAIN_S
            self._let_go(item)
        elif item.number in self._items:
            item.kept = True
            item.data, item.blobs = None, {}
            unburden(item.attempt)
            self._on_kept(item)

    def drop(self, item: Item) -> None:
        """It is delivered: its files can go."""
        if item.number in self._items:
            self._loop.run_in_executor(self._disk, self._folder.remove, item.number, self._let_go(item))

    def set_aside(self, item: Item, why: Exception) -> None:
        """It cannot be read."""
        self._let_go(item)
        moving = self._loop.run_in_executor(self._disk, self._folder.set_aside, item.number, why)
        moving.add_done_callback(lambda _: self._tell())

    def _let_go(self, item: Item) -> tuple[str, ...]:
        """Count it no longer; its large outputs that no other letter needs."""
        if self._items.pop(item.number, None) is None:
            return ()
        self.bytes -= item.size
        self._refs.subtract(item.refs)
        gone = tuple(ref for ref in item.refs if self._refs[ref] <= 0)
        for ref in gone:
            del self._refs[ref]
        self._tell()
        return gone

    async def letter(self, item: Item) -> Letter:
        """All of it, wherever it is. Raises OSError, or BadInput when its file is spoilt."""
        if item.data is not None:
            return item.letter(item.data)
        return await self._loop.run_in_executor(self._disk, self._folder.read, item.number)

    async def blob(self, item: Item, ref: str) -> bytes:
        """One of its large outputs. Raises as `letter` does."""
        data = item.blobs.get(ref)
        return data if data is not None else await self._loop.run_in_executor(self._disk, self._folder.read_blob, ref)

    def close(self) -> None:
        """Take no more; what was given is written."""
        self._disk.shutdown(wait=False)
