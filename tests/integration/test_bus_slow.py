"""Requests over a link that is slow both ways: an answer that comes late is an answer."""

from __future__ import annotations

import asyncio

from schemas import jetstream
from schemas.bus import Bus
from schemas.target import Target
from tests.proxy import proxied

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
