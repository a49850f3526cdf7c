"""The broker is killed under load, again and again: the only one, or any of three. ``make chaos KILLS=…`` says how often.

What holds after each kill: whatever was acknowledged ends in exactly one result; clients, coordinator and nodes go on by
themselves; every event is in the stream once, and a follower sees each once.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from coordinator.broker import Broker
from schemas import streams
from tests.chaos.users import users_of
from tests.cluster import Cluster, caught_up, cluster, leader_of
from tests.integration.stack import Stack, stack

KILLS = int(os.environ.get("FOG_CHAOS_KILLS", "4"))
GOES_ON_S = 90.0
STREAMS = [stream["name"] for stream in streams.configurations(3)]


async def kill_the_only_broker(start: Callable[..., Broker], fleet: Stack, broker: Broker, kills: int) -> None:
    async with users_of(fleet) as users:
        for number in range(kills):
            await users.goes_on(GOES_ON_S)
            await asyncio.sleep(random.uniform(0.0, 0.5))
            await asyncio.to_thread(broker.stop if number % 4 == 3 else broker.kill)
            await asyncio.sleep(random.choice((0.0, 0.0, 0.2, 3.0)))
            broker = await asyncio.to_thread(start)
        await users.goes_on(GOES_ON_S)
        await users.end(GOES_ON_S)
        said = f"{len(users.acknowledged)} tasks, {users.maps} maps, {len(users.followed)} events"
        print(f"{kills} kills: {said}, {users.unsure} starts unconfirmed")
    assert all(process.poll() is None for process in fleet.processes.values()), "no process of ours minded"


async def kill_any_of_three(servers: Cluster, fleet: Stack, kills: int) -> None:
    led: Counter[str] = Counter()
    async with users_of(fleet) as users:
        for number in range(kills):
            await users.goes_on(GOES_ON_S)
            await caught_up(fleet.bus, STREAMS)
            leaders = {stream: await leader_of(fleet.bus, stream) for stream in STREAMS}
            victim = leaders[STREAMS[number % len(STREAMS)]] or random.choice(servers.names)
            led.update(stream for stream, name in leaders.items() if name == victim)
            servers.kill(victim)
            await users.goes_on(GOES_ON_S)
            servers.start(victim)
            await servers.ready()
        await users.end(GOES_ON_S)
        said = f"{len(users.acknowledged)} tasks, {users.maps} maps, {len(users.followed)} events"
        print(f"{kills} kills of leaders of {dict(led)}: {said}, {users.unsure} starts unconfirmed")
    assert all(process.poll() is None for process in fleet.processes.values()), "no process of ours minded"


@pytest.mark.chaos
async def test_the_only_broker_is_killed_under_load(start_broker: Callable[..., Broker], tmp_path: Path) -> None:
    broker = await asyncio.to_thread(start_broker)
    async with stack(broker.target, tmp_path / "fleet") as fleet:
        await fleet.coordinator()
        await asyncio.gather(fleet.node("a"), fleet.node("b"))
        await kill_the_only_broker(start_broker, fleet, broker, KILLS)


@pytest.mark.chaos
async def test_any_of_three_brokers_is_killed_under_load(tmp_path: Path) -> None:
    with cluster(tmp_path / "servers") as servers:
        await servers.start_all()
        async with stack(servers.target, tmp_path / "fleet") as fleet:
            await start_fleet_of_three(fleet)
            await kill_any_of_three(servers, fleet, max(1, KILLS // 10))


async def start_fleet_of_three(fleet: Stack) -> None:
    fleet.start("c1", "coordinator", "--name", "c1", "--replicas", "3")
    await fleet.event("coordinator.elected", "c1")
    await asyncio.gather(fleet.node("a"), fleet.node("b"))
