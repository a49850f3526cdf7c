"""The broker fails, in short; the campaigns are in tests/chaos."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from coordinator.broker import Broker
from schemas import streams
from tests.chaos.test_broker_kills import kill_the_only_broker, start_fleet_of_three
from tests.chaos.users import users_of
from tests.cluster import cluster, leader_of
from tests.integration.stack import stack


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
            async with users_of(fleet) as users:
                await users.goes_on(60)
                servers.kill(await leader_of(fleet.bus, streams.TASKS))
                await users.goes_on(90)
                await users.end(90)
