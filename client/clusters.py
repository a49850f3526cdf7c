"""Clusters from Python: ``fleet.clusters``, and one of them by ``fleet.cluster("c1")``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from client.api import PAGE_SIZE, Api
from client.cluster_cache import ClusterCache
from schemas import subjects
from schemas.api import Done, ListRequest
from schemas.bus import Bus
from schemas.cluster import (
    ClusterRequest,
    ClusterRow,
    ClustersReply,
    CreateCluster,
    GrowCluster,
    PinCluster,
    Relay,
    RelayCluster,
)
from schemas.codec import Decoder, convert
from schemas.decision import Decision, DecisionReply, DecisionRequest, Proposal, ProposeRequest
from schemas.errors import Refused
from schemas.names import check_id, new_id
from schemas.peer import Pong

T = TypeVar("T")

WAIT_S = 1.0  # for an outcome, within one question

_pong: Decoder[Pong] = Decoder(Pong)


class Clusters:
    """What can be asked about clusters, and done to them. Refused (``unknown-cluster``, ``bad-request``) says why not."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def call(self, verb: str, request: object, kind: type[T]) -> T:
        """A question on ``api.cluster.<verb>``."""
        return await self._api.call("cluster", verb, request, kind)

    async def list(self, *, node: str = "") -> list[ClusterRow]:
        """All clusters, or those that a node is in."""
        rows: list[ClusterRow] = []
        while True:
            request = ListRequest(page=len(rows) // PAGE_SIZE, node=node)
            reply = await self._api.call("cluster", "list", request, ClustersReply)
            rows += reply.clusters
            if len(reply.clusters) < PAGE_SIZE or len(rows) >= reply.total:
                return rows

    async def info(self, cluster: str) -> ClusterRow:
        """One cluster."""
        return await self._api.call("cluster", "info", _request(cluster), ClusterRow)

    async def create(self, cluster: str, nodes: Iterable[str] = (), selector: Mapping[str, str] | None = None) -> Done:
        """Make a cluster of these nodes, or of all that fit the selector (``{"gpu": "true"}``), kept up to date."""
        asked = {"cluster": cluster, "nodes": list(nodes), "selector": dict(selector or {})}
        return await self._api.call("cluster", "create", convert(asked, CreateCluster), Done)

    async def pin(self, cluster: str, *, release: bool = False) -> Done:
        """Let nobody be moved in or out; or give it back to the rule."""
        asked = convert({"cluster": cluster, "release": release}, PinCluster)
        return await self._api.call("cluster", "pin", asked, Done)

    async def grow(self, cluster: str, nodes: Iterable[str] = (), *, by: int = 0) -> Done:
        """Bring in these nodes, or the `by` most similar ones."""
        asked = convert({"cluster": cluster, "nodes": list(nodes), "by": by}, GrowCluster)
        return await self._api.call("cluster", "grow", asked, Done)

    async def relay(self, cluster: str, relay: Relay) -> Done:
        """Have its members' heartbeats go by way of their leader or not; or as the coordinator was told for the fleet."""
        asked = convert({"cluster": cluster, "relay": relay}, RelayCluster)
        return await self._api.call("cluster", "relay", asked, Done)

    async def dissolve(self, cluster: str) -> Done:
        """End it; its nodes are grouped by the rule."""
        return await self._api.call("cluster", "dissolve", _request(cluster), Done)


class Cluster:
    """One cluster, by its id: ``fleet.cluster("c1")``. `cache` is the memory that its members pool."""

    def __init__(self, cluster: str, clusters: Clusters, bus: Bus) -> None:
        self.id = check_id("cluster", cluster)
        self._clusters, self._bus = clusters, bus
        self.cache = ClusterCache(cluster, self.info, bus)

    async def info(self) -> ClusterRow:
        """Its leader, members, and why they belong together."""
        return await self._clusters.info(self.id)

    async def ping(self, node: str, timeout_s: float = 2.0) -> Pong:
        """Ask a member whether it is there. Raises Unreachable, or Refused when it is no member."""
        subject = subjects.peer(self.id, check_id("node", node), "ping")
        pong = _pong(await self._bus.request(subject, b"", timeout_s))
        if pong.error:
            raise Refused("not-a-member", pong.error)
        return pong

    async def propose(self, text: str, *, timeout_s: float = 10.0, proposal: str = "") -> Decision:
        """Put something to the vote of the members, and return the one recorded outcome.

        Who asks again with the same `proposal` id gets the same outcome, whatever became of the first time.
        """
        asked = {"proposal": proposal or new_id("p"), "cluster": self.id, "text": text, "timeout_s": timeout_s}
        request = convert(asked, ProposeRequest)
        made = await self._clusters.call("propose", request, Proposal)
        while True:
            reply = await self._clusters.call("decision", DecisionRequest(made.id, WAIT_S), DecisionReply)
            if reply.decision is not None:
                return reply.decision


def _request(cluster: str) -> ClusterRequest:
    return convert({"cluster": cluster}, ClusterRequest)
