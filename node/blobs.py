"""Large bytes: a task's inputs, fetched before it is handed over, and its large outputs, named by their content."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from node.core.endings import Done
from node.core.link import ENOUGH_BYTES, Goodput
from node.runners.frames import PAYLOAD_MAX, Finished
from schemas import limits
from schemas.errors import BadInput
from schemas.objects import Objects, ref_of
from schemas.task import Blob, CommandRun, FunctionRun, MapRun, Task

FETCHES = 8  # at a time
HELD_MAX = 256 << 20  # fetched bytes that may wait for their turn; one attempt alone may have more


def inputs_of(task: Task) -> tuple[Blob, ...]:
    """The blobs that a task's call needs, in the order in which the runner gets them."""
    run = task.run
    if isinstance(run, FunctionRun):
        return tuple([file.blob for file in run.files]) if run.files else ()
    if isinstance(run, MapRun):
        return (run.packed,) if run.packed is not None else run.files
    assert isinstance(run, CommandRun)
    return (run.stdin,) if run.stdin is not None else ()


class Blobs:
    """Fetches, a bounded number and amount at a time. `goodput`, if given, gives who is to be told of transfers, or None
    while they say nothing of the link (a limit of our own holds them)."""

    def __init__(self, objects: Objects, goodput: Callable[[], Goodput | None] = lambda: None) -> None:
        self._objects, self._goodput = objects, goodput
        self._turns = asyncio.Semaphore(FETCHES)
        self._held = 0
        self._room = asyncio.Condition()

    async def fetch(self, blobs: tuple[Blob, ...]) -> tuple[bytes, ...]:
        """The bytes of all of them. Waits for room first; give it back by `release`. Raises FogError."""
        size = sum(blob.size for blob in blobs)
        if size > PAYLOAD_MAX:
            raise BadInput("run", f"{size} bytes of inputs are more than a node takes ({PAYLOAD_MAX})")
        async with self._room:
            await self._room.wait_for(lambda: self._held == 0 or self._held + size <= HELD_MAX)
            self._held += size
        try:
            return tuple(await asyncio.gather(*(self._one(blob) for blob in blobs)))
        except BaseException:
            await self.release(blobs)
            raise

    async def _one(self, blob: Blob) -> bytes:
        if blob.data is not None:
            return blob.data
        async with self._turns:
            return await self._measured(blob)

    async def _measured(self, blob: Blob) -> bytes:
        goodput = self._goodput()
        if goodput is None or blob.size < ENOUGH_BYTES:
            return await self._objects.get(blob.ref)
        size = 0
        goodput.begin(time.time())
        try:
            data = await self._objects.get(blob.ref)
            size = len(data)
        finally:
            goodput.end(size, time.time())
        return data

    async def release(self, blobs: tuple[Blob, ...]) -> None:
        """Those bytes are no longer held."""
        async with self._room:
            self._held -= sum(blob.size for blob in blobs)
            self._room.notify_all()


def apart(message: Finished) -> tuple[Done, dict[str, bytes]]:
    """What finished, its large parts by reference, and their bytes by that reference. (Naming a gigabyte takes a second.)"""
    large: dict[str, bytes] = {}

    def blob_of(data: bytes | None, inline_max: int = limits.INLINE_MAX) -> Blob | None:
        if data is None or len(data) <= inline_max:
            return None if data is None else Blob(len(data), data)
        ref = ref_of(data)
        large[ref] = data
        return Blob(len(data), None, ref)

    value, blob, packed = message.value, blob_of(message.blob), False
    if message.blob is None and len(value) > limits.INLINE_MAX:
        blob, value, packed = blob_of(value), b"", True
    # All of a map's inline when they fit together, else only what is about as small as a reference.
    blobs = message.blobs or ()
    inline_max = limits.INLINE_MAX if sum(len(data or b"") for data in blobs) <= limits.INLINE_MAX else 128
    return done_of(message, value, blob, packed, tuple([blob_of(data, inline_max) for data in blobs])), large


def is_small(message: Finished) -> bool:
    """Whether nothing of it has to be stored apart."""
    if len(message.value) > limits.INLINE_MAX or len(message.blob or b"") > limits.INLINE_MAX:
        return False
    return not message.blobs or sum(len(data or b"") for data in message.blobs) <= limits.INLINE_MAX


def inline(message: Finished) -> Done:
    """What finished, all of it inline."""
    blob = None if message.blob is None else Blob(len(message.blob), message.blob)
    if not message.blobs:
        return done_of(message, message.value, blob, False, ())
    blobs = tuple([None if data is None else Blob(len(data), data) for data in message.blobs])
    return done_of(message, message.value, blob, False, blobs)


def done_of(message: Finished, value: bytes, blob: Blob | None, packed: bool, blobs: tuple[Blob | None, ...]) -> Done:
    """The parts put together."""
    return Done(
        message.duration_s,
        value,
        blob,
        packed,
        blobs,
        message.errors,
        message.exit_code,
        message.stdout,
        message.stderr,
    )
