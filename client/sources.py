"""Where a map's items come from: any iterable or async iterable, read no further than needed.

Items are taken in order and only once; what did not fit a chunk is put back for the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sized
from itertools import islice
from typing import Any

from schemas.errors import BadInput

LOOKAHEAD_MAX = 100_000  # items held in memory to learn early that a source of unknown length is near its end
PATIENCE_S = 0.05  # a slow async source: a chunk goes out with what came within this time after its first item


class Source:
    """Items of one map. `total` is how many there are, where the source can tell."""

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.taken = 0
        self._ahead: deque[Any] = deque()
        self._ended = False

    @property
    def left(self) -> int | None:
        """Items not taken yet, or None when that is not known (yet)."""
        if self._ended:
            return len(self._ahead)
        return None if self.total is None else max(0, self.total - self.taken)

    async def take(self, count: int) -> list[Any]:
        """The next items, at most `count`; fewer near the end or when they come slowly; none means that it has ended."""
        if len(self._ahead) < count:
            await self._fill(count)
        ahead = self._ahead
        if len(ahead) <= count:
            items = list(ahead)
            ahead.clear()
        else:
            items = [ahead.popleft() for _ in range(count)]
        self.taken += len(items)
        return items

    def put_back(self, items: list[Any]) -> None:
        """Return the last items taken, in their order."""
        self._ahead.extendleft(reversed(items))
        self.taken -= len(items)

    async def skip(self, count: int) -> None:
        """Drop the next `count` items. Raises BadInput when there are not so many."""
        while count > 0:
            got = len(await self.take(min(count, LOOKAHEAD_MAX)))
            if not got:
                raise BadInput(
                    "items", f"the source ended {count} items before what the job already holds",
                    hint="resume a job with the same items in the same order, or start a new one",
                )  # fmt: skip
            count -= got

    async def look_ahead(self, count: int) -> None:
        """Read on, without waiting for slow sources, so that `left` becomes known near the end."""

    async def close(self) -> None:
        """Stop reading."""

    async def _fill(self, count: int) -> None:
        raise NotImplementedError


class SyncSource(Source):
    """Items of a plain iterable."""

    def __init__(self, items: Iterable[Any]) -> None:
        super().__init__(len(items) if isinstance(items, Sized) else None)
        self._items: Iterator[Any] = iter(items)

    async def _fill(self, count: int) -> None:
        wanted = count - len(self._ahead)
        before = len(self._ahead)
        self._ahead.extend(islice(self._items, wanted))
        self._ended = len(self._ahead) - before < wanted

    async def look_ahead(self, count: int) -> None:
        """Read on to `count` items, where the length is not known anyway."""
        if self.total is None and not self._ended and len(self._ahead) < min(count, LOOKAHEAD_MAX):
            await self._fill(min(count, LOOKAHEAD_MAX))


class AsyncSource(Source):
    """Items of an async iterable, read by a task of its own so that a slow one does not hold up what has come."""

    def __init__(self, items: AsyncIterable[Any]) -> None:
        super().__init__(None)
        self._items: AsyncIterator[Any] = aiter(items)
        self._wanted = 0
        self._came = asyncio.Event()
        self._more = asyncio.Event()
        self._error: BaseException | None = None
        self._reader: asyncio.Task[None] | None = None

    async def _fill(self, count: int) -> None:
        self._wanted = count
        self._more.set()
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
        await self._until(lambda: bool(self._ahead))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self._until(lambda: len(self._ahead) >= count)
        if self._error is not None and not self._ahead:
            raise self._error

    async def _until(self, enough: Any) -> None:
        while not enough() and not self._finished:
            self._came.clear()
            await self._came.wait()

    @property
    def _finished(self) -> bool:
        return self._ended or self._error is not None

    async def _read(self) -> None:
        try:
            async for item in self._items:
                self._ahead.append(item)
                self._came.set()
                while len(self._ahead) >= self._wanted:
                    self._more.clear()
                    await self._more.wait()
            self._ended = True
        except Exception as error:
            self._error = error
        finally:
            self._came.set()

    async def close(self) -> None:
        """Stop the reader."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)


def source_of(items: Iterable[Any] | AsyncIterable[Any]) -> Source:
    """The right source for `items`."""
    if isinstance(items, AsyncIterable):
        return AsyncSource(items)
    if isinstance(items, (str, bytes)):
        raise BadInput("items", "a single string is no list of items", hint="put it in a list")
    return SyncSource(items)
