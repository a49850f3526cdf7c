"""The clusters' machine: what happens to nodes goes in, what is to be written, said and told comes out.

`seen`, `gone` and what operators.py offers change who is where; `settle`, once at the end of a turn, says what came of it.
The same calls in the same order give the same clusters. A home is a cluster of the rule or one that an operator made; every
node that is online has exactly one. Selector clusters are beside that.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable

from coordinator.core.clusters import grouping
from coordinator.core.clusters.grouping import Group
from coordinator.core.clusters.leading import consider
from coordinator.core.clusters.relaying import wanted
from coordinator.core.clusters.state import Belongs, Cluster, Clusters, Out, Tell, Write
from coordinator.core.clusters.traits import Facts
from coordinator.core.clusters.words import why
from schemas import limits
from schemas.cluster import ClusterKind, Peer, Seat, Traits
from schemas.event import ClusterEvent

NO_TRAITS = Traits()
NAMED_MAX = 64  # nodes that one event names
SOFT_AGAIN_S = 6 * 3600.0  # a node is seated anew for its link or its pattern this often at most


def seen(state: Clusters, facts: Facts, now: float) -> None:
    """How a node is now: it may get a seat, lose it, or get another."""
    before = state.nodes.get(facts.node)
    state.nodes[facts.node] = facts
    home = state.home.get(facts.node)
    if facts.gone:
        _unseat(state, facts.node, f"{facts.node} was lost")
    elif home is None and facts.here:
        seat(state, facts.node, f"{facts.node} joined", now)
    elif home is not None and home.by_rule and _misplaced(state, facts, now):
        _unseat(state, facts.node, f"{facts.node} has changed")
        seat(state, facts.node, f"{facts.node} has changed", now)
    _select(state, facts)
    if before is None or _standing(before) != _standing(facts):
        for cluster in _clusters_of(state, facts.node):
            state.touch(cluster, "")
    if before is None or before.boot != facts.boot:
        state.moved.add(facts.node)


def _standing(facts: Facts) -> tuple[object, ...]:
    """What decides about leading, and what its peers are told."""
    return facts.here, facts.gone, facts.may_lead, facts.score, facts.cache_mb


def gone(state: Clusters, node: str) -> None:
    """The fleet knows the node no more."""
    _unseat(state, node, f"{node} is forgotten", for_good=True)
    for cluster in state.selecting.values():
        _take_out(state, cluster, node, f"{node} is forgotten")
    state.nodes.pop(node, None)
    state.near.forget(node)
    state.of.pop(node, None)
    state.seated_at.pop(node, None)


def seat(state: Clusters, node: str, reason: str, now: float) -> None:
    """Give a node a home by the rule."""
    traits = state.nodes[node].traits

    def make() -> Cluster:
        return new_automatic(state, traits.site)

    changed = grouping.join(state.site(traits.site), Seat(traits, node), make)
    state.seated_at[node] = now
    _regroup(state, changed, reason)


def take(state: Clusters, node: str, into: Cluster, reason: str) -> None:
    """Give a node a seat in a cluster that the rule leaves alone."""
    _unseat(state, node, reason, for_good=True)
    facts = state.nodes.get(node)
    into.seats = sorted((*into.seats, Seat(facts.traits if facts else NO_TRAITS, node)))
    state.home[node] = into
    state.touch(into, reason)


def new_automatic(state: Clusters, site: str) -> Cluster:
    """A cluster without members: ``c1``, ``c2``, …"""
    while True:
        state.number += 1
        name = f"c{state.number}"
        if name not in state.clusters:
            break
    made = state.clusters[name] = Cluster(name, ClusterKind.AUTOMATIC, site)
    return made


def settle(state: Clusters, now: float) -> Out:
    """What is to be done about all that changed since the last time."""
    out: Out = []
    touched, state.touched = state.touched, {}
    for name, reason in touched.items():
        cluster = state.clusters.get(name)
        if cluster is not None:
            _settle(state, cluster, reason, now, out)
    moved, state.moved = state.moved, set()
    for node in sorted(moved):
        of = frozenset(c.id for c in _clusters_of(state, node))
        if of != state.of.get(node, frozenset()):
            state.of[node] = of
            out.append(Belongs(node, of))
        out.append(Tell(node))
    return out


def look_again(state: Clusters, now: float) -> Out:
    """Time passed: who was to lead for long enough leads now."""
    out: Out = []
    for cluster in state.clusters.values():
        if cluster.rival:
            consider(state, cluster, now, out)
    return out


def _settle(state: Clusters, cluster: Cluster, reason: str, now: float, out: Out) -> None:
    if not cluster.seats and not cluster.selector:
        _dissolved(state, cluster, reason, out)
        return
    members = frozenset(cluster.members)
    said = cluster.said
    if members != said or reason:
        cluster.why = why_of(cluster)
        out.append(Write(cluster.id, cluster.record()))
    if members != said:
        joined, left = members - (said or frozenset()), (said or frozenset()) - members
        data = ClusterEvent(cluster.id, len(members), _some(joined), _some(left), reason or cluster.why)
        state.say("formed" if said is None else "changed", cluster.id, data, out)
        state.moved |= joined | left
        cluster.said = members
    peers, relays = _peers(state, cluster), wanted(state, cluster)
    if (peers, relays) != (cluster.told, cluster.relays):
        cluster.told, cluster.relays = peers, relays
        cluster.version = state.count()
        state.moved |= members
    consider(state, cluster, now, out)


def _peers(state: Clusters, cluster: Cluster) -> tuple[Peer, ...]:
    """The members and the memory that each offers, none while it is lost. Nothing in a cluster too large to tell."""
    if len(cluster.seats) > limits.CLUSTER_MADE_MAX:
        return ()
    known = [(node, state.nodes.get(node)) for node in cluster.members]
    return tuple(Peer(node, facts.cache_mb if facts and not facts.gone else 0) for node, facts in known)


def _dissolved(state: Clusters, cluster: Cluster, reason: str, out: Out) -> None:
    del state.clusters[cluster.id]
    if cluster.said is None:
        return  # it came and went within this turn
    state.moved |= cluster.said
    out.append(Write(cluster.id, None))
    state.say("dissolved", cluster.id, ClusterEvent(cluster.id, 0, (), _some(cluster.said), reason), out)


def why_of(cluster: Cluster) -> str:
    """Why its members belong together."""
    if cluster.kind is ClusterKind.SELECTOR:
        return "all with " + ", ".join(f"{key}={value}" for key, value in sorted(cluster.selector.items()))
    text = why(cluster.seats)
    return f"made by an operator: {text}" if cluster.kind is ClusterKind.MADE else text


def _some(nodes: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(nodes)[:NAMED_MAX])


def _clusters_of(state: Clusters, node: str) -> list[Cluster]:
    home = state.home.get(node)
    found = [home] if home is not None else []
    return found + [cluster for cluster in state.selecting.values() if node in cluster.inside]


def _misplaced(state: Clusters, facts: Facts, now: float) -> bool:
    """Whether it is no longer what it was seated as; what may come and go (link, pattern) counts only after a while."""
    home = state.home[facts.node]
    was = seat_of(home, facts.node).traits
    if was == facts.traits:
        return False
    now_is = facts.traits
    lasting = (was.site, was.place, was.device_type, was.tier) != (
        now_is.site, now_is.place, now_is.device_type, now_is.tier,
    )  # fmt: skip
    return lasting or now - state.seated_at.get(facts.node, 0.0) >= SOFT_AGAIN_S


def seat_of(cluster: Cluster, node: str) -> Seat:
    """The seat of a member."""
    return next(seat for seat in cluster.seats if seat.node == node)


def _unseat(state: Clusters, node: str, reason: str, for_good: bool = False) -> None:
    """Take a node out of its home. One of an operator's making keeps its seat while it is lost, unless `for_good`."""
    home = state.home.get(node)
    if home is None or not (home.by_rule or for_good):
        return
    del state.home[node]
    state.moved.add(node)
    if home.by_rule:
        _regroup(state, grouping.leave(state.site(home.site), seat_of(home, node)), reason)
    else:
        home.seats = [seat for seat in home.seats if seat.node != node]
        state.touch(home, reason)


def _regroup(state: Clusters, changed: Iterable[Group], reason: str) -> None:
    """The rule changed these: their members are at home there."""
    for cluster in changed:
        assert isinstance(cluster, Cluster)
        state.home.update(dict.fromkeys(cluster.members, cluster))
        state.touch(cluster, reason)


def _select(state: Clusters, facts: Facts) -> None:
    """Bring the selector clusters up to date with a node."""
    for cluster in state.selecting.values():
        fits = not facts.gone and all(facts.has.get(key) == value for key, value in cluster.selector.items())
        if fits and facts.node not in cluster.inside:
            insort(cluster.seats, Seat(facts.traits, facts.node))
            cluster.inside.add(facts.node)
            state.touch(cluster, f"{facts.node} fits the selector")
        elif not fits:
            _take_out(state, cluster, facts.node, f"{facts.node} {'was lost' if facts.gone else 'fits no more'}")


def _take_out(state: Clusters, cluster: Cluster, node: str, reason: str) -> None:
    if node in cluster.inside:
        cluster.inside.discard(node)
        cluster.seats = [seat for seat in cluster.seats if seat.node != node]
        state.touch(cluster, reason)
