"""The broker fails, in short; the campaigns are in tests/chaos."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client import connect
from coordinator.broker import Broker
from coordinator.fence import Fence
from coordinator.fenced import Fenced
from schemas import jetstream, limits, streams, subjects
from schemas.codec import encode
from schemas.errors import FogError, NoRoom
from schemas.store import Ack, OnAnswer, Post, Store
from schemas.target import Target
from schemas.task import Result, ResultState
from tests.chaos.test_broker_kills import kill_the_only_broker, start_fleet_of_three
from tests.chaos.users import users_of
from tests.cluster import cluster, leader_of
from tests.integration.stack import Stack, stack
from tests.until import eventually


async def test_users_go_on_by_themselves_when_the_only_broker_is_killed_and_nothing_is_lost_or_doubled(
    start_broker: Callable[..., Broker], tmp_path: Path
) -> None:
    broker = await asyncio.to_thread(start_broker)
    async with stack(broker.target, tmp_path / "fleet") as fleet:
        await fleet.coordinator()
        await asyncio.gather(fleet.node("a"), fleet.node("b"))
        await kill_the_only_broker(start_broker, fleet, broker, 1)


async def test_users_go_on_by_themselves_when_the_one_of_three_brokers_is_killed_that_leads_the_tasks(
    tmp_path: Path,
) -> None:
    with cluster(tmp_path / "servers") as servers:
        await servers.start_all()
        async with stack(servers.target, tmp_path / "fleet") as fleet:
            await start_fleet_of_three(fleet)
            await many_ends_of_ours_at_once(fleet)
            async with users_of(fleet) as users:
                await users.goes_on(60)
                servers.kill(await leader_of(fleet.bus, streams.TASKS))
                await users.goes_on(90)
                await users.end(90)


async def many_ends_of_ours_at_once(fleet: Stack) -> None:
    """The servers refuse what compares with the term's mark while another such result is being stored: none is sent then."""
    refused: list[FogError] = []

    class Listening(Store):
        def post(self, subject: str, data: bytes, msg_id: str, on_answer: OnAnswer, **more: Any) -> Post | None:
            def heard(answer: Ack | FogError) -> None:
                refused.extend([answer] if isinstance(answer, FogError) else [])
                on_answer(answer)

            return super().post(subject, data, msg_id, heard, **more)

    fence, ended = Fence(fleet.bus, fleet.store, 10**9, lambda: True), list[Ack | FogError]()
    await fence.renew()
    fenced = Fenced(Listening(fleet.bus), fence, asyncio.ensure_future)
    for task in (f"late-{number}" for number in range(200)):
        late = encode(Result(task, "ann", ResultState.EXPIRED))
        fenced.post(subjects.result("ann", task), late, task, ended.append)
    await eventually(lambda: len(ended) == 200, 60.0, "200 ends that are stored")
    assert not refused and all(isinstance(end, Ack) for end in ended)


async def test_a_full_stream_is_named_with_what_to_do_nothing_is_half_done_and_all_goes_on_when_there_is_room(
    target: Target, tmp_path: Path
) -> None:
    async with stack(target, tmp_path) as fleet, contextlib.AsyncExitStack() as stopping:
        await fleet.coordinator()
        await fleet.node("a")
        sdk = await stopping.enter_async_context(connect(target.url, tmp_path / "fog.creds"))
        await limit(fleet, streams.TASKS, max_bytes=300)
        with pytest.raises(NoRoom, match=f"{streams.TASKS} is full .*maximum bytes") as full:
            await sdk.submit("echo", "x" * 400)
        assert f"nats stream edit {streams.TASKS} --max-bytes" in full.value.hint
        assert await fleet.stored(streams.TASKS) == 0
        await limit(fleet, streams.TASKS, max_bytes=-1)

        held = int((await jetstream.stream_info(fleet.bus, streams.RESULTS))["state"]["bytes"])
        await limit(fleet, streams.RESULTS, max_bytes=held + 10)
        tasks = await fleet.put_all([fleet.make("echo", number) for number in range(400)])
        await eventually(lambda: "the broker refused it, trying again" in fleet.log("a"), 30.0, "a full FOG_RESULTS")
        assert await fleet.stored(streams.TASKS) > 0, "no more is taken in than nodes can hold"
        assert not set(fleet.ended) & set(tasks)
        await limit(fleet, streams.RESULTS, max_bytes=limits.RESULTS_BYTES)
        await fleet.all_results(tasks, 60.0)
        await fleet.nothing_left(30.0)
        assert not fleet.doubled and {fleet.results[task].attempts for task in tasks} == {1}


async def limit(fleet: Stack, stream: str, **settings: int) -> None:
    """As an operator sets it."""
    there = (await jetstream.stream_info(fleet.bus, stream))["config"]
    await jetstream.call(fleet.bus, f"STREAM.UPDATE.{stream}", {**there, **settings})
