"""Clusters from Python: ``fleet.clusters``, and one of them by ``fleet.cluster("c1")``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from client.api import PAGE_SIZE, Api
from schemas.api import Done, ListRequest
from schemas.cluster import (
    ClusterRequest,
    ClusterRow,
    ClustersReply,
    CreateCluster,
    GrowCluster,
    PinCluster,
)
from schemas.codec import convert


class Clusters:
    """What can be asked about clusters, and done to them. Refused (``unknown-cluster``, ``bad-request``) says why not."""

    def __init__(self, api: Api) -> None:
        self._api = api

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

    async def dissolve(self, cluster: str) -> Done:
        """End it; its nodes are grouped by the rule."""
        return await self._api.call("cluster", "dissolve", _request(cluster), Done)


def _request(cluster: str) -> ClusterRequest:
    return convert({"cluster": cluster}, ClusterRequest)
