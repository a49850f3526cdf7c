"""What one change costs the clusters' machine in a fleet of 10,000 nodes: pure, no broker, no other process."""

from __future__ import annotations

import dataclasses
import time
from random import Random
from statistics import quantiles
from zlib import crc32

from msgspec import structs

from coordinator.core.clusters import leading, machine
from coordinator.core.clusters.nearness import COMMON
from coordinator.core.clusters.sampling import sample
from coordinator.core.clusters.state import Action, Clusters, Elect
from coordinator.core.clusters.traits import Facts
from schemas.cluster import Traits
from tests.bench.figures import Figure

NODES = 10_000
CHANGES = 2_000
TYPES = ("laptop", "smartphone", "tablet", "edge_server")


class Fleet:
    """A machine whose leaders are written at once."""

    def __init__(self, sites: int) -> None:
        self.state, self.random, self.now, self.revision = Clusters(1), Random(1), 1e6, 0
        for number in range(NODES):
            self.change(self._facts(f"node-{number:05d}", sites))
        for node in list(self.state.nodes):
            self.measure(node)

    def _facts(self, node: str, sites: int) -> Facts:
        draw = self.random
        site = f"gw{draw.randrange(sites)}" if sites > 1 else ""
        traits = Traits(site, "", draw.choice(TYPES), draw.randint(1, 4), "good", "")
        return Facts(node, traits, round(draw.random(), 3), {})

    def change(self, facts: Facts, table: dict[str, int] | None = None) -> float:
        """A node as it is now, what it measured, and all that follows; the milliseconds of processor time that it took."""
        began = time.process_time()
        near = self.state.near
        near.heard(facts.node, facts.traits.site, table)
        self._seen(facts)
        for node in near.settle(self.now):
            if node in self.state.nodes:
                self._seen(self.state.nodes[node])
        actions = machine.settle(self.state, self.now)
        while actions:
            more: list[Action] = []
            for action in actions:
                if isinstance(action, Elect):
                    self.revision += 1
                    leading.elected(self.state, action.cluster, action.leadership, self.revision, self.now, more)
            actions = more
        return 1000 * (time.process_time() - began)

    def _seen(self, facts: Facts) -> None:
        traits = structs.replace(facts.traits, place=self.state.near.place.get(facts.node, COMMON))
        machine.seen(self.state, dataclasses.replace(facts, traits=traits), self.now)

    def measure(self, node: str) -> float:
        """It says what it measured: three of four devices of its site are far from it."""
        named = [near.node for near in sample(self.state, self.state.home[node], node)]
        table = {other: 1 if _corner(other) == _corner(node) else 50 for other in named}
        return self.change(self.state.nodes[node], table)

    def churn(self) -> list[float]:
        """One node after the other is lost, comes back, and measures those that it is near now."""
        took = []
        for node in self.random.sample(sorted(self.state.nodes), CHANGES // 2):
            facts = self.state.nodes[node]
            took.append(self.change(dataclasses.replace(facts, here=False, gone=True, may_lead=False)))
            took.append(self.change(facts))
            took.append(self.measure(node))
        return took


def _corner(node: str) -> int:
    return crc32(node.encode()) % 4


async def cluster_change_ms() -> Figure:
    """A join, a leave or a measurement with all that follows (places, writes and events made, leaders chosen), 99th percentile
    of the worse fleet.

    In processor time: the machine may be shared."""
    took = {sites: quantiles(Fleet(sites).churn(), n=100) for sites in (1, 500)}
    detail = {f"{sites}_sites_p{p}_ms": round(cuts[p - 1], 3) for sites, cuts in took.items() for p in (50, 99)}
    worst = round(max(cuts[98] for cuts in took.values()), 3)
    return Figure(
        "cluster_change_ms", worst, "ms", 5.0, f"{NODES} nodes, all behind one gateway or behind 500", True, detail
    )
