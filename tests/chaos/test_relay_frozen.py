"""Leaders that pass heartbeats on and stand still, or are cut off, with real processes: nobody else is lost for it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from schemas.target import Target
from tests.integration.stack import Stack, stack
from tests.integration.test_cluster_relay import relayed, start
from tests.proxy import proxied

pytestmark = pytest.mark.chaos

NODES = ("n1", "n2", "n3", "n4")
LONG_S = 60.0


def lost(fleet: Stack) -> set[str]:
    return {event["subject"] for event in fleet.seen("node.lost")}


async def test_a_leader_that_stands_still_is_lost_alone_and_its_members_are_not_even_late(
    target: Target, tmp_path: Path
) -> None:
    async with stack(target, tmp_path / "stack") as fleet:
        await start(fleet, *NODES)
        row = await relayed(fleet, *NODES)
        since = len(fleet.events)
        os.kill(fleet.processes[row.leader].pid, signal.SIGSTOP)
        await fleet.event("node.lost", row.leader, timeout_s=LONG_S)
        others = set(NODES) - {row.leader}
        await relayed(fleet, *others, but=row.leader)
        assert lost(fleet) == {row.leader}
        assert not {e["subject"] for e in fleet.seen("node.late", since=since)} & others
        os.kill(fleet.processes[row.leader].pid, signal.SIGCONT)
        await relayed(fleet, *NODES)
        assert lost(fleet) == {row.leader}


async def test_a_leader_whose_link_swallows_everything_takes_nobody_with_it(target: Target, tmp_path: Path) -> None:
    """Neither its members nor the coordinator can reach it; when the link is whole again, all are relayed again."""
    with proxied(target) as proxy:
        async with stack(target, tmp_path / "stack") as fleet:
            await start(fleet)
            strong = ("--device", "cpu_freq_ghz=4", "--device", "cpu_cores=16")
            await fleet.node(NODES[0], *strong, "--nats", proxy.target(target).url)
            await asyncio.gather(*(fleet.node(name) for name in NODES[1:]))
            assert (await relayed(fleet, *NODES)).leader == NODES[0]
            proxy.swallow()
            await fleet.event("node.lost", NODES[0], timeout_s=LONG_S)
            await relayed(fleet, *NODES[1:], but=NODES[0])
            assert lost(fleet) == {NODES[0]}
            proxy.mend()
            await fleet.event("node.online", NODES[0], since=len(fleet.events), timeout_s=LONG_S)
            await relayed(fleet, *NODES)
            assert lost(fleet) == {NODES[0]}
