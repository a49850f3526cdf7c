"""Whom a node is to measure the way to: its cluster, and a few of other clusters of its site."""

from __future__ import annotations

from zlib import crc32

from coordinator.core.clusters.grouping import Site
from coordinator.core.clusters.state import Cluster, Clusters
from schemas.cluster import ClusterKind, Near, Seat, Traits
from schemas.rendezvous import owners

MEMBERS, OTHERS = 8, 4  # together no more than `device.PEERS_MAX`
_LAST = "\U0010ffff"  # after every device type


def sample(state: Clusters, cluster: Cluster, node: str) -> tuple[Near, ...]:
    """Up to `MEMBERS` members, and up to `OTHERS` of other clusters of its site: one of each of the oldest places, since a node
    belongs to the oldest in which it is near to somebody, and one drawn by its name. Only a home tells how near its members
    are; of a selector cluster there is nobody."""
    if cluster.kind is ClusterKind.SELECTOR:
        return ()
    members = owners(node, (name for name in cluster.members if name != node), MEMBERS)
    return tuple(Near(name, cluster.id) for name in members) + tuple(_others(state, cluster, node))


def _others(state: Clusters, cluster: Cluster, node: str) -> list[Near]:
    site = state.sites.get(cluster.site) if cluster.by_rule else None
    if site is None or len(site.groups) < 2:
        return []
    draw = crc32(node.encode())
    drawn = site.groups[draw % len(site.groups)]
    found = [_of_place(site, cluster.site, place, draw) for place in state.near.oldest(cluster.site, OTHERS - 1)]
    named = {near.node: near for near in [*found, Near(drawn.seats[draw % len(drawn.seats)].node, drawn.id)] if near}
    return [near for near in named.values() if near.cluster != cluster.id]


def _of_place(site: Site, name: str, place: str, draw: int) -> Near | None:
    """One of those in that place, by its draw: not the same for all that ask."""
    first, last = site.at(Seat(Traits(name, place), "")), site.at(Seat(Traits(name, place, _LAST), ""))
    for index in (first + draw % (last - first + 1), last):
        there = [seat.node for seat in site.groups[index].seats if seat.traits.place == place]
        if there:
            return Near(there[draw % len(there)], site.groups[index].id)
    return None
