"""A map: a function over many items, in chunks sized to what the fleet does in about a second.

A feeder reads the source and submits chunks, at most two a slot at a time; the consumer takes finished chunks, in order
or as they come. The feeder stops when too much waits for the consumer, so memory stays bounded for any source.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from msgspec import Struct

from client.chunks import Planner
from client.functions import Functions
from client.packing import Packed, pack
from client.sources import Source
from client.submit import Submitter
from client.values import describe, values_of
from client.waiting import Waiting
from schemas.chunks import JobRecord, Span, chunk_id, read_chunk_id, tile
from schemas.device import Parameter
from schemas.errors import FogError
from schemas.objects import Objects
from schemas.task import MapRun, Result, ResultState, Task

log = logging.getLogger("fog.client")

SLOTS_S = 1.0  # how often the fleet's size is looked at, so that a node that joins late gets work
HELD_CHUNKS = 256  # finished chunks, and bytes of their values, that may wait for the consumer
HELD_BYTES = 64 << 20
ADOPT_AT_ONCE = 64  # chunks of an earlier run that are asked for at a time


class MapItem(Struct, frozen=True, gc=False):
    """Item `index` of a map: its `value`, or the `error` that it raised. `node` is where it ran."""

    index: int
    value: Any
    error: str | None = None
    node: str = ""


class Job(Struct, frozen=True):
    """What a map is about. `known` are chunks of an earlier run, in order; `template` the task that chunks are made from."""

    id: str
    record: JobRecord
    template: Task
    kind: Parameter | None = None
    known: tuple[tuple[Span, str], ...] = ()


class Ended(Struct, frozen=True):
    """A chunk that is back. Without a `result` its one item could not be read, and `error` says why."""

    span: Span
    result: Result | None = None
    error: str = ""


class Mapping:
    """One running map. Iterate over `items()`; `close()` always."""

    def __init__(
        self,
        job: Job,
        source: Source,
        *,
        submitter: Submitter,
        waiting: Waiting,
        objects: Objects,
        functions: Functions,
        planner: Planner,
        on_chunk: Callable[[Ended], None] | None = None,
    ) -> None:
        self._job, self._source = job, source
        self._submitter, self._waiting, self._objects = submitter, waiting, objects
        self._functions, self._planner, self._on_chunk = functions, planner, on_chunk
        self._known = deque(job.known)
        self._at = 0
        self._open: dict[str, Span] = {}
        self._back: dict[int, Ended] = {}
        self._held_bytes = 0
        self._fed = False
        self._failed: BaseException | None = None
        self._room = asyncio.Event()
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def outstanding(self) -> list[str]:
        """Ids of the chunks that are with the fleet now."""
        return list(self._open)

    async def items(self, ordered: bool) -> AsyncIterator[MapItem]:
        """Every item once: by index, or as chunks come back."""
        self._tasks = [asyncio.create_task(self._feed()), asyncio.create_task(self._watch_slots())]
        following = 0
        while True:
            ended = self._next(following if ordered else None)
            if ended is None:
                if self._failed is not None:
                    raise self._failed
                if self._fed and not self._open:
                    return
                self._news.clear()
                await self._news.wait()
                continue
            span, node = ended.span, ended.result.node if ended.result is not None else ""
            following = span.end
            values, errors = await self._contents(ended)
            # Yielded from here, not from a generator of its own: that would double what an item costs.
            for index, value in zip(range(span.first, span.end), values, strict=False):
                yield MapItem(index, value, errors.get(index) if errors else None, node)
            await asyncio.sleep(0)  # an eager consumer must not starve the feeder

    def _next(self, first: int | None) -> Ended | None:
        if not self._back:
            return None
        ended = self._back.pop(next(iter(self._back)) if first is None else first, None)
        if ended is not None:
            self._held_bytes -= _size(ended)
            self._room.set()
        return ended

    async def _contents(self, ended: Ended) -> tuple[list[Any], dict[int, str]]:
        """A chunk's values, and its errors by index."""
        span, result = ended.span, ended.result
        if result is None or result.state is not ResultState.SUCCEEDED:
            error = ended.error if result is None else describe(result)
            return [None] * span.count, dict.fromkeys(range(span.first, span.end), error)
        values = await values_of(result, self._objects)
        if len(values) < span.count:
            values += [None] * (span.count - len(values))
        return values, {error.index: error.error for error in result.item_errors}

    async def close(self) -> None:
        """Stop feeding and waiting. What is outstanding goes on; cancelling it is the caller's choice."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for task_id in self._open:
            self._waiting.forget(task_id)
        await self._source.close()

    # Feeding

    async def _feed(self) -> None:
        try:
            while await self._feed_one():
                while not self._may_feed():
                    self._room.clear()
                    await self._room.wait()
            self._fed = True
        except Exception as error:
            self._failed = error
        finally:
            self._news.set()

    def _may_feed(self) -> bool:
        limit = self._planner.in_flight(self._functions.slots(self._job.record.function))
        if self._known:
            limit = max(limit, ADOPT_AT_ONCE)
        return len(self._open) < limit and len(self._back) < HELD_CHUNKS and self._held_bytes < HELD_BYTES

    async def _feed_one(self) -> bool:
        """Send the next chunk, or take one of an earlier run; False at the end of the items."""
        if self._known and self._known[0][0].first == self._at:
            span, task = self._known.popleft()
            await self._source.skip(span.count)
            self._at = span.end
            self._adopt(task, span)
            return True
        items = await self._source.take(await self._size())
        if not items:
            if self._known:
                await self._source.skip(self._known[-1][0].end - self._at)  # raises: the items are not the same
            return False
        packed = await pack(items, self._job.kind, self._objects)
        count = max(1, packed.count)
        self._source.put_back(items[count:])
        span = Span(self._at, count)
        self._at = span.end
        if packed.count:
            self._send(span, packed)
        else:
            self._ended(Ended(span, None, packed.error))
        return self._source.left != 0 or bool(self._known)

    async def _size(self) -> int:
        slots = self._functions.slots(self._job.record.function)
        size = self._planner.size(slots, self._source.left)
        if self._source.left is None:
            await self._source.look_ahead(size * self._planner.in_flight(slots))
            size = self._planner.size(slots, self._source.left)
        return min(size, self._known[0][0].first - self._at) if self._known else size

    def _send(self, span: Span, packed: Packed) -> None:
        job, record = self._job.id, self._job.record
        task = chunk_id(record.secret, job, span)
        run = MapRun(record.function, job, span.first, span.count, files=packed.files, packed=packed.packed)
        if packed.items is not None:  # left at its default otherwise: only that very object is omitted on the wire
            run = MapRun(record.function, job, span.first, span.count, packed.items)
        self._open[task] = span
        future = self._submitter.post(self._submitter.fill(self._job.template, run, packed.size, task))
        future.add_done_callback(partial(self._came, task, span))

    def _adopt(self, task: str, span: Span) -> None:
        self._open[task] = span
        self._waiting.watch(task).add_done_callback(partial(self._came, task, span))
        self._waiting.ask(task)

    # What comes back

    def _came(self, task: str, span: Span, future: asyncio.Future[Result]) -> None:
        if future.cancelled() or self._open.pop(task, None) is None:
            return
        error = future.exception()
        if error is not None:
            self._failed = error
            self._news.set()
            return
        result = future.result()
        if result.parts and result.state is ResultState.SUCCEEDED:
            self._split(span, result)
        else:
            if result.state is ResultState.SUCCEEDED:
                self._planner.learn(span.count, result.duration_ms / 1000)
            self._ended(Ended(span, result))
        self._room.set()

    def _split(self, span: Span, result: Result) -> None:
        """The chunk was cut up on its way: its items come from its parts."""
        named = {part: read_chunk_id(self._job.record.secret, self._job.id, part) for part in result.parts}
        parts = {part: found for part, found in named.items() if found is not None}
        if len(parts) < max(2, len(result.parts)) or not tile(span, list(parts.values())):
            self._failed = FogError(f"chunk {result.task} was split into what does not make it up: {result.parts}")
            self._news.set()
            return
        for part, found in parts.items():
            self._adopt(part, found)

    def _ended(self, ended: Ended) -> None:
        self._back[ended.span.first] = ended
        self._held_bytes += _size(ended)
        if self._on_chunk is not None:
            self._on_chunk(ended)
        self._news.set()

    async def _watch_slots(self) -> None:
        while True:
            with contextlib.suppress(FogError):
                await self._functions.refresh()
            self._room.set()
            await asyncio.sleep(SLOTS_S)


def _size(ended: Ended) -> int:
    if ended.result is None:
        return 0
    return len(memoryview(ended.result.value)) + sum(len(b.data or b"") for b in ended.result.blobs if b is not None)
