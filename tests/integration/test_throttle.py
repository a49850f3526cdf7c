"""Transfers from and to a real object store at a pace."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from node.enforce.throttle import PacedObjects, Throttle
from schemas import nats_py
from schemas.bus import Bus
from schemas.jetstream import ensure_streams
from schemas.target import Target

SIZE = 1_000_000


async def test_objects_move_whole_and_no_faster_than_they_may(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways together; and what moves slowly since it has to does not run into the time limit of one that is stuck."""
    monkeypatch.setattr(nats_py, "OBJECT_TIMEOUT_S", 1.0)
    bus = await Bus.connect(target, name="paced")
    await ensure_streams(bus)
    throttle = Throttle()
    objects, data = PacedObjects(bus, throttle), [os.urandom(SIZE) for _ in range(2)]
    refs = [await objects.put(data[0])]
    throttle.set(8.0)  # a million bytes a second
    begun = time.monotonic()
    got, ref = await asyncio.gather(objects.get(refs[0]), objects.put(data[1]))
    took_s = time.monotonic() - begun
    assert got == data[0] and took_s >= 1.7
    throttle.set(None)
    assert await objects.get(ref) == data[1]
    await bus.close()


async def test_who_waits_at_a_low_pace_goes_on_when_it_is_lifted() -> None:
    throttle = Throttle()
    throttle.set(0.001)
    waiting = asyncio.create_task(asyncio.to_thread(throttle.wait, SIZE))
    await asyncio.sleep(0)
    throttle.set(None)
    await asyncio.wait_for(waiting, 60)
