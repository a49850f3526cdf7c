"""Bytes too large for a message: NATS's object store, under names made from the content.

A name is ``sha256-<hex>`` of the bytes: the same content is stored once, a losing attempt cannot overwrite a winner's
bytes, and whoever reads checks what came. The bucket ages (`limits.OBJECT_AGE_S`), so nothing needs to be deleted.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

from schemas import limits, streams
from schemas.bus import Bus
from schemas.errors import FogError
from schemas.task import Blob

Pace = Callable[[int], None]  # called on a thread with the size of each piece as it moves; may block

REFRESH_S = 86_400.0  # an object older than this is written anew when put again, so that it outlives the new task


class ObjectMissing(FogError):
    """An object is not in the store (aged out), or its bytes are not what its name says. `ref` is its name."""

    def __init__(self, ref: str, problem: str) -> None:
        super().__init__(f"object {ref}: {problem}", hint="submit the task again with its files")
        self.ref = ref


def ref_of(data: bytes) -> str:
    """The name of these bytes."""
    return "sha256-" + hashlib.sha256(data).hexdigest()


class Objects:
    """The artifacts bucket."""

    def __init__(self, bus: Bus) -> None:
        self._raw = bus.object_store(streams.ARTIFACTS)

    async def put(self, data: bytes, pace: Pace | None = None) -> str:
        """Store bytes and return their name. Nothing is sent when they are there (and not about to age out)."""
        ref = ref_of(data)
        if not await self._raw.fresh(ref, time.time() - REFRESH_S):
            await (self._raw.put(ref, data, pace) if pace else self._raw.put(ref, data))
        return ref

    async def refresh(self, ref: str) -> None:
        """Keep an object for a new task, too: written anew when it would age out early. Raises ObjectMissing."""
        if not await self._raw.fresh(ref, time.time() - REFRESH_S):
            await self._raw.put(ref, await self.get(ref))

    async def get(self, ref: str, pace: Pace | None = None) -> bytes:
        """The bytes of that name, checked. Raises ObjectMissing."""
        data = await (self._raw.get(ref, pace) if pace else self._raw.get(ref))
        if data is None:
            raise ObjectMissing(ref, f"not in the store (objects are kept for {limits.OBJECT_AGE_S / 86_400:g} days)")
        if ref_of(data) != ref:
            raise ObjectMissing(ref, "its bytes are not what its name says")
        return data

    async def blob(self, data: bytes) -> Blob:
        """`data` as a Blob: inline up to `limits.INLINE_MAX`, stored otherwise."""
        if len(data) <= limits.INLINE_MAX:
            return Blob(len(data), data)
        return Blob(len(data), None, await self.put(data))

    async def bytes_of(self, blob: Blob) -> bytes:
        """What a Blob holds or refers to."""
        return blob.data if blob.data is not None else await self.get(blob.ref)
