"""Heartbeats by way of the leader, with real processes. What takes three beats is in tests/chaos/test_relay_frozen.py."""

from __future__ import annotations

import asyncio
from pathlib import Path

from client.clusters import Clusters
from schemas.cluster import ClusterRow, Relay
from schemas.target import Target
from tests.integration.stack import Stack, stack
from tests.integration.test_cluster_life import fog
from tests.until import eventually


async def start(fleet: Stack, *nodes: str, beat_s: float = 1.0) -> None:
    """A coordinator of quick heartbeats that relays them, and its nodes."""
    argv = ("tests.integration.short_leases", "--name", "c1", "--heartbeat-relay", "on")
    fleet.start("c1", *argv, env={"BEAT_S": str(beat_s)})
    await fleet.event("coordinator.elected", "c1")
    await asyncio.gather(*(fleet.node(name) for name in nodes))


async def relayed(fleet: Stack, *nodes: str, but: str = "") -> ClusterRow:
    """Their cluster, once the last beat of each came by way of a leader other than `but`."""
    found: list[ClusterRow] = []

    async def so() -> bool:
        found[:] = await Clusters(fleet.api).list()
        here = {m.node for row in found for m in row.members if m.relayed and row.leader not in ("", but)}
        return len(found) == 1 and here >= set(nodes)

    await eventually(so, 30, f"the beats of {', '.join(nodes)} are relayed, not by {but}")
    return found[0]


async def test_a_relaying_leader_that_is_killed_is_followed_by_another_and_nobody_else_is_late(
    target: Target, tmp_path: Path
) -> None:
    async with stack(target, tmp_path / "stack") as fleet:
        await start(fleet, "n1", "n2", "n3", beat_s=0.5)
        row = await relayed(fleet, "n1", "n2", "n3")
        assert row.relay
        assert "3 of 3 relayed" in await asyncio.to_thread(lambda: fog(fleet, "clusters").stdout)
        fleet.kill(row.leader)
        others = sorted({"n1", "n2", "n3"} - {row.leader})
        await fleet.event("node.lost", row.leader)
        await relayed(fleet, *others, but=row.leader)
        assert await fleet.result(await fleet.submit("echo", 1))
        assert [e["subject"] for e in fleet.seen("node.lost")] == [row.leader]

        done = await Clusters(fleet.api).relay(row.id, Relay.OFF)
        assert "for themselves" in done.note

        async def direct() -> bool:
            return not any(m.relayed for c in await Clusters(fleet.api).list() for m in c.members if m.node in others)

        await eventually(direct, 30, "they beat for themselves")
        assert [e["subject"] for e in fleet.seen("node.lost")] == [row.leader]
