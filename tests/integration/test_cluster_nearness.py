"""How near members are to each other, as real daemons measure it: two of them reach the fleet by a slow way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from client.clusters import Clusters
from node.nearness import Nearness
from schemas.advice import PowerMode
from schemas.cluster import ClusterRow, Membership, Near, Peer
from schemas.device import DeviceState
from schemas.target import Target
from tests.integration.sharing import sharers
from tests.integration.stack import stack
from tests.integration.test_cluster_life import fog
from tests.proxy import proxied
from tests.until import eventually

NEAR, FAR = ("n1", "n2"), ("f1", "f2")


async def test_two_behind_a_slow_link_are_told_as_far_from_those_without(target: Target, tmp_path: Path) -> None:
    with proxied(target) as slow:
        slow.delay(0.03)  # each way, so 60 ms more to another one, and 120 between the two
        async with stack(target, tmp_path / "stack") as fleet:
            fleet.start("c1", "tests.integration.short_leases", "--name", "c1", env={"BEAT_S": "0.2"})
            await fleet.event("coordinator.elected", "c1")
            by_proxy = ("--nats", slow.target(target).url)
            for name in NEAR + FAR:
                fleet.start_node(name, *(by_proxy if name in FAR else ()))
            found: list[ClusterRow] = []

            async def all_told() -> bool:
                found[:] = await Clusters(fleet.api).list()
                return len(found) == 1 and "2 far from all others" in found[0].why and _pairs(found[0]) == 6

            await eventually(all_told, 60.0, "all ways are measured, and two are far")
            row = found[0]
            apart = {member.node: member.apart_ms or 0.0 for member in row.members}
            assert min(apart[name] for name in FAR) >= 50.0
            near = (await fleet.node_info("n1")).state.network_peers
            assert isinstance(near, dict) and near["n2"] <= 20 and min(near[name] for name in FAR) >= 50
            assert {member.node for member in row.members[-2:]} == set(FAR), "they are seated side by side"
            assert row.apart is not None and row.apart.max_ms >= 100

            assert "2 far from all others" in fog(fleet, "clusters").stdout
            shown = fog(fleet, "node-info", "f1").stdout
            line = next(line for line in shown.splitlines() if "network_peers" in line)
            said = re.search(r"\bn1 (\d+)", line)
            assert said is not None and int(said[1]) >= 50, line


@pytest.mark.parametrize(("site", "direct"), [("gw1", True), ("gw2", False)])
async def test_where_the_other_listens_at_the_same_site_the_way_past_the_broker_counts(
    target: Target, tmp_path: Path, site: str, direct: bool
) -> None:
    with proxied(target) as slow:
        async with sharers(slow.target(target), tmp_path, ("n1", "n2")) as (one, other):
            other.site = "gw1"
            await other.bus.flush()  # it listens to its peers
            slow.delay(0.03)
            told: list[dict[str, int]] = []
            here = DeviceState(network_gateway=site)
            peers = (Peer("n1"), Peer("n2"))
            assert not one.clusters.told(Membership(1, "c1", 1, 2, "n1", peers, near=(Near("n2", "c1"),)))
            nearness = Nearness(one.context, one.clusters.seats, lambda: PowerMode.BALANCED, lambda: here, told.append)
            nearness.on_beat()
            await eventually(lambda: told)
            assert (told[0]["n2"] <= 20) is direct and set(told[0]) == {"n2"}
            assert other.share.served_bytes == 0


def _pairs(row: ClusterRow) -> int:
    return row.apart.pairs if row.apart is not None else 0
