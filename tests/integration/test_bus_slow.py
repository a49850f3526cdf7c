"""Requests whose answers come late, or in the very moment in which nobody wants them any more."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from schemas import jetstream
from schemas.bus import Bus
from schemas.target import Target
from tests.proxy import proxied
from tests.until import eventually

SLOW_S = 0.8 * jetstream.AGAIN_S  # each way: the answer comes after the question was said again


async def test_a_question_that_is_said_again_takes_the_answer_to_its_first_saying(target: Target) -> None:
    """Of a phone behind a slow link, or a broker that has much to look through."""
    with proxied(target) as proxy:
        bus = await Bus.connect(proxy.target(target), name="tests")
        try:
            await bus.flush()
            await asyncio.to_thread(proxy.delay, SLOW_S)
            assert "limits" in await jetstream.call(bus, "INFO", timeout_s=10.0)
        finally:
            proxy.mend()
            await bus.close()


async def test_a_question_that_a_broken_link_took_is_put_again_once_the_link_is_back(target: Target) -> None:
    """Simulator, seed 12: its own next time to ask again was eight seconds away, and nobody acted for so long."""
    with proxied(target) as proxy:
        bus = await Bus.connect(proxy.target(target), name="tests")
        try:
            await asyncio.to_thread(proxy.cut)
            await eventually(lambda: not bus.connected)
            asking = asyncio.create_task(bus.request("$JS.API.INFO", timeout_s=60.0, again_s=1_000.0))
            await asyncio.sleep(0)
            await asyncio.to_thread(proxy.mend)
            assert b"limits" in await asking
        finally:
            await bus.close()


async def test_a_refusal_that_comes_as_its_request_is_given_up_is_no_fault(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulator saw it: a deposed coordinator's commands end as the node that they are for dies."""
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, fault: faults.append(fault))
    bus = await Bus.connect(target, name="tests")
    try:
        heard: list[Any] = []
        with monkeypatch.context() as patch:
            patch.setattr(bus, "call", lambda _subject, _data, on_reply, headers=b"": heard.append(on_reply) or "1")
            asking = asyncio.ensure_future(bus.request("nobody.there"))
            await asyncio.sleep(0)
            heard[0](b"", b"NATS/1.0 503\r\n\r\n")
            asking.cancel()
            await asyncio.wait({asking})
        assert asking.cancelled()
        del heard[:], asking
        gc.collect()
        assert faults == []
    finally:
        await bus.close()
