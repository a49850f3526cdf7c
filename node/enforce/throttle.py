"""Pacing what the daemon moves from and to the object store: each piece waits, on its thread, for the bucket."""

from __future__ import annotations

import asyncio
import threading
import time

from node.core.bucket import Bucket
from schemas.bus import Bus
from schemas.objects import Objects, Pace

BYTES_PER_MBIT = 125_000
LOOK_S = 0.5  # a rate that is changed is noticed by those who wait in the event loop within this time


class Throttle:
    """One bucket for all transfers, or none."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._bucket: Bucket | None = None
        self.mbps: float | None = None

    def set(self, mbps: float | None) -> None:
        """From now on; also for those who wait."""
        with self._changed:
            if mbps != self.mbps:
                self.mbps = mbps
                self._bucket = None if mbps is None else Bucket(mbps * BYTES_PER_MBIT)
                self._changed.notify_all()

    def wait(self, size: int) -> None:
        """So many bytes move now; returns once that keeps to the rate. Blocks its thread."""
        with self._changed:
            bucket, until = self._take(size)
            while self._bucket is bucket and (left_s := until - time.monotonic()) > 0:
                self._changed.wait(left_s)

    async def paced(self, size: int) -> None:
        """`wait` for who is in the event loop."""
        with self._changed:
            bucket, until = self._take(size)
        while self._bucket is bucket and (left_s := until - time.monotonic()) > 0:  # noqa: ASYNC110 - threads wait, too
            await asyncio.sleep(min(left_s, LOOK_S))

    def _take(self, size: int) -> tuple[Bucket | None, float]:
        """The bucket, and until when to wait."""
        now = time.monotonic()
        return self._bucket, now + (self._bucket.take(size, now) if self._bucket is not None else 0.0)


class PacedObjects(Objects):
    """The object store through a throttle. While that is set, one object moves at a time each way: more would bring nothing,
    and each holds a thread of the few that there are."""

    def __init__(self, bus: Bus, throttle: Throttle) -> None:
        super().__init__(bus)
        self._throttle = throttle
        self._up, self._down = asyncio.Lock(), asyncio.Lock()

    async def put(self, data: bytes, pace: Pace | None = None) -> str:
        """As `Objects.put`."""
        if self._throttle.mbps is None:
            return await super().put(data, pace)
        async with self._up:
            return await super().put(data, self._throttle.wait)

    async def get(self, ref: str, pace: Pace | None = None) -> bytes:
        """As `Objects.get`."""
        if self._throttle.mbps is None:
            return await super().get(ref, pace)
        async with self._down:
            return await super().get(ref, self._throttle.wait)
