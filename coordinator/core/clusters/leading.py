"""Who leads a cluster: the member with the highest score, ties by id, with hysteresis; and the terms of its leaders.

A leader that can lead stays until another's score is higher by `MARGIN` for `HOLD_S`; one that was lost, or drains, is
replaced at once. Each leader is written by compare-and-set, and the revision of that write is its term: terms only grow,
and of two coordinators only one can write.
"""

from __future__ import annotations

from coordinator.core.clusters.state import Cluster, Clusters, Elect, Out, Tell
from schemas.cluster import Leadership
from schemas.event import LeaderEvent

MARGIN = 0.1
HOLD_S = 30.0


def consider(state: Clusters, cluster: Cluster, now: float, out: Out) -> None:
    """Start an election if the cluster needs another leader. One is under way at a time."""
    if cluster.electing is not None:
        return
    best = _best(state, cluster)
    if best == cluster.leader:
        cluster.rival = ""
        return
    reason = _reason(state, cluster, best, now)
    if not reason:
        return
    cluster.electing = best
    score = state.nodes[best].score if best else 0.0
    out.append(Elect(cluster.id, Leadership(best, score, reason, state.term), cluster.revision))


def elected(state: Clusters, name: str, leadership: Leadership, revision: int, now: float, out: Out) -> None:
    """The leader is written: it leads from now on, under the term `revision`."""
    cluster = state.clusters.get(name)
    if cluster is None:
        return
    cluster.before, cluster.leader = cluster.leader, leadership.leader
    cluster.term = cluster.revision = revision
    cluster.electing, cluster.rival = None, ""
    cluster.version = state.count()
    data = LeaderEvent(name, cluster.leader, revision, cluster.before, leadership.score, leadership.reason)
    state.say("leader-elected", name, data, out)
    out.extend(Tell(node) for node in cluster.members)
    consider(state, cluster, now, out)


def _best(state: Clusters, cluster: Cluster) -> str:
    able = [facts for node in cluster.members if (facts := state.nodes.get(node)) and facts.may_lead]
    leader = state.nodes.get(cluster.leader)
    if not able and leader is not None and not leader.gone and cluster.leader in cluster.members:
        return cluster.leader  # nobody is better: its beat is only late
    return min(able, key=lambda facts: (-facts.score, facts.node)).node if able else ""


def _reason(state: Clusters, cluster: Cluster, best: str, now: float) -> str:
    """Why the leader is replaced now; "" if it stays for now."""
    old, new = state.nodes.get(cluster.leader), state.nodes.get(best)
    if not cluster.leader:
        return "the first leader" if not cluster.term else "a member can lead again"
    if old is None or old.gone:
        return f"{cluster.leader} was lost"
    if cluster.leader not in cluster.members:
        return f"{cluster.leader} is in another cluster"
    if not old.may_lead and not old.here:
        return ""  # its beat is late: it is not lost yet
    if not old.may_lead:
        return f"{cluster.leader} takes no work now"
    if new is None or new.score < old.score + MARGIN:
        cluster.rival = ""
        return ""
    if cluster.rival != best:
        cluster.rival, cluster.rival_since = best, now
    held = now - cluster.rival_since >= HOLD_S
    return f"its score is {new.score:.2f}, that of {cluster.leader} {old.score:.2f}" if held else ""
